"""The filter: the same bytes out, in the order of the policy, with a window of lines at most."""

import json
from collections import Counter

import pytest
from fair_driving import works
from fair_transcription import Transcription
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import encode
from llmsys.errors import BadInput
from llmsys.fair_queue import order_lines
from llmsys.fair_queue.policy import PolicySpecError, Request, create


def line(tenant, prompt=1, output=1, **more):
    return encode({"tenant": tenant, "prompt_tokens": prompt, "output_tokens": output, **more})


def batch(content, tenant=None, **body):
    messages = [{"role": "user", "content": content}]
    top = {} if tenant is None else {"tenant": tenant}
    return encode({"custom_id": "c", "body": {"model": "m", "messages": messages, **body}, **top})


def ordered(tmp_path, lines, spec="vtc", **options):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(lines))
    return list(order_lines(path, create(spec), **options))


@settings(max_examples=60, deadline=None)
@given(work=works(tenants=4), window=st.sampled_from([1, 2, 7, 1000]))
def test_emits_what_the_transcription_serves_with_the_same_window(work, window, tmp_path_factory):
    lines = [line(i.request.tenant, i.request.prompt_tokens, i.request.max_tokens, n=n) for n, i in enumerate(work)]
    expected, pending, vtc = [], {}, Transcription()

    def emit():
        room = iter([True])
        (request,) = vtc.admit(0.0, lambda _: next(room, False))
        vtc.tokens(request.id, request.max_tokens)
        vtc.finish(request.id)
        expected.append(pending.pop(request.id))

    for number, item in enumerate(work):
        r = item.request
        pending[str(number)] = lines[number]
        vtc.arrive(Request(str(number), r.tenant, r.prompt_tokens, r.max_tokens))
        if len(pending) >= window:
            emit()
    while pending:
        emit()

    assert expected == ordered(tmp_path_factory.mktemp("order"), lines, window=window)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=5), st.integers(0, 99)), max_size=30))
def test_lines_come_out_byte_for_byte_whatever_else_they_hold(tmp_path_factory, rows):
    lines = [b"  " * (n % 2) + line(tenant, n, 1, note=note) for tenant, note, n in rows]

    assert Counter(lines) == Counter(ordered(tmp_path_factory.mktemp("order"), lines))


def test_a_tenant_that_floods_is_interleaved_with_one_that_does_not(tmp_path):
    out = ordered(tmp_path, [line("greedy", n=n) for n in range(6)] + [line("modest", n=n) for n in range(3)])

    assert [json.loads(text)["tenant"][0] for text in out] == list("gmgmgmggg")


def test_a_window_of_one_changes_nothing(tmp_path):
    lines = [line("a"), line("a"), line("b")]

    assert lines == ordered(tmp_path, lines, window=1)


def test_a_last_line_without_newline_gets_one(tmp_path):
    assert ordered(tmp_path, [line("a"), line("b").rstrip()]) == [line("a"), line("b")]


def test_batch_lines_cost_four_bytes_a_token_and_their_limit(tmp_path):
    lines = [batch("x" * 400, "a", max_tokens=0), batch("y", "a", max_tokens=0), batch("z" * 8, "b", max_tokens=10)]
    lines += [batch("z" * 8, "b", max_tokens=10) for _ in range(5)]

    # a costs 100 at once; b costs 2 + 2 * 10 a line, so five of b come before a's second
    assert "".join(json.loads(text)["tenant"] for text in ordered(tmp_path, lines)) == "abbbbbab"


@pytest.mark.parametrize(
    ("text", "tenant"),
    [(batch("x", "top", user="low"), "top"), (batch("x", user="low"), "low"), (batch("x"), "default")],
)
def test_the_tenant_is_the_top_levels_then_the_users_then_default(text, tenant, tmp_path):
    lines = [text, text, line(tenant), line("other")]

    assert ordered(tmp_path, lines)[1] == line("other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{oops\n", "in.jsonl:2: "),
        (
            b'{"tenant":"a"}\n',
            "in.jsonl:2: no token counts and no body; expected a trace record or an OpenAI batch line",
        ),
        (line("a", -1), "in.jsonl:2: -1 tokens; expected token counts of at least 0"),
        (line("a", "many"), "in.jsonl:2: `str` at `$.prompt_tokens`"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_told(text, message, tmp_path):
    lines, told = [line("a"), text, line("b")], []
    with pytest.raises(BadInput) as raised:
        ordered(tmp_path, lines)

    assert message in str(raised.value)
    assert ordered(tmp_path, lines, on_error="skip", on_skip=told.append) == [line("a"), line("b")]
    assert [str(raised.value)] == [str(fault) for fault in told]


@pytest.mark.parametrize("spec", ["rpm=5", "tpm=100"])
def test_policies_that_refuse_cannot_order(spec, tmp_path):
    with pytest.raises(PolicySpecError, match="cannot order lines"):
        ordered(tmp_path, [line("a")], spec)
