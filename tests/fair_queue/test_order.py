"""The filter: the same bytes out, in the order of the policy, with a window of lines at most."""

import json
import random
from collections import Counter

import pytest
from fair_driving import works
from fair_transcription import Transcription
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import encode, jsonl
from llmsys.errors import BadInput
from llmsys.fair_queue import bulk_order, order_lines
from llmsys.fair_queue.bulk_order import BulkOrder
from llmsys.fair_queue.order import _serve
from llmsys.fair_queue.policy import PolicySpecError, Request, create
from llmsys.fair_queue.request_lines import read_request_lines


def line(tenant, prompt=1, output=1, **more):
    return encode({"tenant": tenant, "prompt_tokens": prompt, "output_tokens": output, **more})


def batch(content, tenant=None, **body):
    messages = [{"role": "user", "content": content}]
    top = {} if tenant is None else {"tenant": tenant}
    return encode({"custom_id": "c", "body": {"model": "m", "messages": messages, **body}, **top})


def ordered(tmp_path, lines, spec="vtc", **options):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(lines))
    return [line for lines in order_lines(path, spec, **options) for line in lines]


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


def by_both(path, window, spec="vtc", weights=None):
    """The order of the policy itself and of the compiled loop."""

    def blocks():
        return read_request_lines(path, default_max_tokens=7, refuse=pytest.fail)

    bulk = BulkOrder(window, wp=1.0, wq=2.0, lift=spec == "vtc", weights=weights or {})
    compiled = [line for block in blocks() for line in bulk.feed(block)] + bulk.drain()
    return [line for lines in _serve(blocks(), create(spec, weights), window) for line in lines], compiled


@settings(max_examples=60, deadline=None)
@given(
    work=works(tenants=6),
    window=st.sampled_from([1, 2, 7, 1000]),
    spec=st.sampled_from(["vtc", "lcf"]),
    weights=st.sampled_from([{}, {"a": 3.0, "b": 0.7}]),
)
def test_the_compiled_loop_writes_what_the_policy_writes(work, window, spec, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("order") / "in.jsonl"
    path.write_bytes(
        b"".join(line(i.request.tenant, i.request.prompt_tokens, i.request.max_tokens, n=n) for n, i in enumerate(work))
    )
    slow, fast = by_both(path, window, spec, weights)

    assert slow == fast


def test_the_compiled_loop_keeps_its_order_when_its_pool_is_renumbered_and_widened(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_order, "ROOM", 3000)
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", 2**15)
    draw = random.Random(3)
    path = tmp_path / "in.jsonl"
    lines = [
        line(f"t{int(3000 * draw.random() ** 2)}", draw.randrange(90), draw.randrange(50), n=n) for n in range(9000)
    ]
    path.write_bytes(b"".join(lines))
    slow, fast = by_both(path, 700)

    assert len({json.loads(text)["tenant"] for text in slow}) > 1024
    assert slow == fast


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
