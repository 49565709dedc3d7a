"""What is read of a request's body, and the one key that is added."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.fair_queue.gateway.body import NotJson, body_text, read_body, with_usage

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.text(max_size=6).filter(lambda key: key != "stream_options"), VALUES, max_size=5)


@given(BODIES, st.sampled_from([None, (",", ":")]), st.sampled_from(["", " ", "\n\t"]))
def test_asking_for_usage_adds_one_key_and_keeps_every_other_byte(values, separators, before):
    raw = before.encode() + json.dumps(values, separators=separators).encode()
    asked = with_usage(raw, read_body(raw))

    assert json.loads(asked) == {"stream_options": {"include_usage": True}} | values
    start = raw.index(b"{") + 1
    assert (asked[:start], asked[len(asked) - len(raw) + start :]) == (raw[:start], raw[start:])


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous": 1}])
def test_stream_options_that_the_client_gave_are_kept_beside(options):
    raw = json.dumps({"stream": True, "stream_options": options, "seed": 1}).encode()
    body = read_body(raw)

    assert not body.asks_for_usage
    assert json.loads(with_usage(raw, body)) == {
        "stream": True,
        "stream_options": {**(options or {}), "include_usage": True},
        "seed": 1,
    }


def test_a_client_that_wants_usage_is_recognised():
    assert read_body(b'{"stream_options":{"include_usage":true}}').asks_for_usage
    assert not read_body(b"{}").asks_for_usage


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"[1]", b"3", b'{"a":', b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(NotJson):
        read_body(raw)


def test_a_field_of_a_wrong_type_is_left_to_the_backend():
    body = read_body(b'{"model":3,"stream":"yes"}')

    assert (body.model, body.stream) == ("", False)


@pytest.mark.parametrize(
    ("raw", "most"),
    [
        (b"{}", 512),
        (b'{"max_tokens":9}', 9),
        (b'{"max_tokens":9,"max_completion_tokens":7}', 7),
        (b'{"max_output_tokens":5,"n":3}', 15),
        (b'{"max_tokens":-4}', 0),
        (b'{"max_tokens":null,"n":null}', 512),
    ],
)
def test_the_most_output_is_what_the_request_allows(raw, most):
    assert read_body(raw).most_output(512) == most


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"content": "one"}, {"content": [{"type": "text", "text": "two"}]}]}, "one\ntwo"),
        ({"prompt": ["a", "b"]}, "a\nb"),
        ({"input": "x", "user": "no"}, "x"),
        ({"messages": 3}, ""),
    ],
)
def test_the_texts_of_a_body_are_what_a_tokenizer_counts(body, text):
    assert body_text(json.dumps(body).encode()) == text
