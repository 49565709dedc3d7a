"""Metering of streams: the same result wherever the bytes are split, and no byte changed."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.fair_queue.gateway import StreamMeter, Usage, usage_in
from llmsys.fair_queue.gateway.sse import HOLD_LIMIT_BYTES

TEXTS = st.text(max_size=12) | st.sampled_from(['"usage":{', "\n\ndata: x", '"choices":[]', "data:", "\r\n"])
ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n"])


def token(text, end=b"\n\n"):
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + end


def usage(prompt, output, end=b"\n\n"):
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "completion_tokens_details": {"reasoning": 1}}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + end


@st.composite
def streams(draw):
    """(stream, the same without its usage chunk, tokens, usage)."""
    end = draw(ENDS)
    texts = draw(st.lists(TEXTS, max_size=8))
    role = b'data: {"choices":[{"delta":{"role":"assistant"}}]}' + end
    body = role + b"".join(token(text, end) for text in texts)
    counts = draw(st.none() | st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)))
    chunk = b"" if counts is None else usage(*counts, end)
    done = b"data: [DONE]" + end
    return body + chunk + done, body + done, len(texts), None if counts is None else Usage(*counts)


def pieces(data, cuts):
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


def run(meter, parts):
    return b"".join([*(meter.feed(part) for part in parts), meter.end()])


@given(streams(), st.lists(st.integers(0, 10**6), max_size=20))
def test_whatever_the_split_only_the_usage_chunk_is_missing(stream, cuts):
    sent, without_usage, _, expected = stream
    meter = StreamMeter(strip=True)

    assert run(meter, pieces(sent, cuts)) == without_usage
    assert meter.usage == expected


@given(streams(), st.lists(st.integers(0, 10**6), max_size=20))
def test_without_strip_every_byte_leaves_in_the_read_that_brought_it(stream, cuts):
    sent, _, _, expected = stream
    meter = StreamMeter(strip=False)
    parts = pieces(sent, cuts)

    assert [meter.feed(part) for part in parts] == parts
    assert meter.end() == b""
    assert meter.usage == expected


@given(streams(), st.lists(st.integers(0, 10**6), max_size=20), st.booleans())
def test_events_are_counted_once_whatever_the_split(stream, cuts, strip):
    sent, _, tokens, expected = stream
    meter = StreamMeter(strip=strip)
    run(meter, pieces(sent, cuts))

    # the role event opens the stream and is not counted; the usage chunk and [DONE] are
    assert meter.events == tokens + 1 + (expected is not None)


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=10))
def test_bytes_that_are_no_events_pass_too(data, cuts):
    assert run(StreamMeter(strip=True), pieces(data, cuts)) == data


def test_an_event_that_never_ends_is_let_go_at_the_limit():
    meter = StreamMeter(strip=True)
    endless = b"data: " + b"x" * (HOLD_LIMIT_BYTES + 100)

    assert meter.feed(endless[:1000]) == b""
    assert meter.feed(endless[1000:]) == endless


def test_a_whole_event_leaves_at_once():
    meter = StreamMeter(strip=True)

    assert meter.feed(token("a") + token("b")[:10]) == token("a")
    assert meter.feed(token("b")[10:]) == token("b")


def test_the_chunk_of_a_running_total_with_choices_is_kept():
    running = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    meter = StreamMeter(strip=True)

    assert meter.feed(running) == running
    assert meter.usage == Usage(3, 1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}', Usage(3, 4)),
        (b'{"usage" : { "input_tokens" : 3, "output_tokens_details": {}, "output_tokens": 4 }}', Usage(3, 4)),
        (b'{"usage":{"prompt_tokens":9,"total_tokens":9}}', Usage(9, 0)),
        (b'{"usage":null}', None),
        (b'{"text":"\\"usage\\":{\\"prompt_tokens\\":3}"}', None),
        (b'{"usage":{"total_tokens":9}}', None),
        (b"", None),
    ],
)
def test_usage_is_read_from_keys_and_never_from_text(body, expected):
    assert usage_in(body) == expected
