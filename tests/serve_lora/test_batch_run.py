"""Lines in, one result line each: in any order or in theirs, whole or with the reason why not."""

import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import BatchRequest
from llmsys.errors import BadInput
from llmsys.serve_lora.batch_requests import Catalogue, engine_request
from llmsys.serve_lora.batch_run import BatchRun, in_order
from tests.serve_lora.stand_ins import ByteCodec, Clock, Speller, engine_of

CATALOGUE = Catalogue(base={"smollm2"}, adapters={"fr", "json"})


def line(custom_id, text="hi", *, model="smollm2", url="/v1/completions", **body):
    prompt = {"messages": [{"role": "user", "content": text}]} if "chat" in url else {"prompt": text}
    body = {"model": model, "temperature": 0.0, "max_tokens": 64} | prompt | body
    return msgspec.convert({"custom_id": custom_id, "method": "POST", "url": url, "body": body}, BatchRequest)


def batch(lines, *, in_engine=8, refused=lambda line: None, runner=None, **engine):
    stepper = engine_of(runner or Speller(), adapters=("fr", "json"), clock=Clock(), **engine)
    run = BatchRun(
        stepper,
        lambda one: engine_request(one, CATALOGUE, max_tokens=16),
        decode=ByteCodec().decode,
        on_refused=refused,
        in_engine=in_engine,
    )
    return run.results(lines)


def text_of(result):
    choice = result.response.body["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


@settings(deadline=None, max_examples=30)
@given(
    texts=st.lists(st.text("abcxyz", min_size=1, max_size=12), max_size=20),
    in_engine=st.integers(1, 9),
    max_sequences=st.integers(1, 5),
)
def test_every_line_gets_its_own_answer_once(texts, in_engine, max_sequences):
    models = ["smollm2", "fr", "json"]
    lines = [line(f"r{at}", text, model=models[at % 3]) for at, text in enumerate(texts)]

    results = list(batch(lines, in_engine=in_engine, max_sequences=max_sequences))

    assert sorted(number for number, _ in results) == list(range(len(texts)))
    marks = ["", "A", "B"]
    assert {result.custom_id: text_of(result) for _, result in results} == {
        f"r{at}": marks[at % 3] + text for at, text in enumerate(texts)
    }


def test_short_answers_come_first_and_ordered_puts_them_back():
    lines = [line("long", "abcdefghij"), line("short", "a"), line("unknown", model="frr")]

    numbers = [number for number, _ in batch(lines)]

    assert numbers == [2, 1, 0]
    assert [result.custom_id for result in in_order(batch(lines))] == ["long", "short", "unknown"]


@pytest.mark.parametrize(
    ("bad", "code", "named"),
    [
        (line("x", model="frr"), "model_not_found", "closest: fr; all: fr, json, smollm2"),
        (line("x", url="/v1/embeddings"), "invalid_url", "/v1/embeddings"),
        (line("x", temperature=3.0), "invalid_request", "temperature is 3.0"),
        (line("x", stream=True), "unsupported_parameter", "stream"),
        (line("x", response_format={"type": "json_object"}), "unsupported_parameter", "response_format"),
        (line("x", prompt=["a", "b"]), "invalid_request", "one prompt per line"),
        (line("x", logit_bias={"a": 1.0}), "invalid_request", "logit_bias has the key 'a'"),
        (line("x", "y" * 300), "invalid_request", "300 tokens"),
        (line("x", max_tokens=0), "invalid_request", "max_tokens is 0"),
    ],
)
def test_a_request_that_cannot_run_gets_an_error_line_and_the_others_run(bad, code, named):
    refused = []

    results = dict(batch([line("a"), bad, line("b")], refused=refused.append))

    assert [one.custom_id for one in refused] == ["x"]
    assert (results[1].response, results[1].error.code) == (None, code)
    assert named in results[1].error.message
    assert text_of(results[0]) == text_of(results[2]) == "hi"


def test_results_are_the_batch_apis_with_usage_and_finish():
    chat, cut = (
        result for _, result in sorted(batch([line("c", url="/v1/chat/completions"), line("d", max_tokens=1)]))
    )

    assert chat.response.status_code == 200
    assert chat.response.body == {
        "id": chat.response.body["id"],
        "object": "chat.completion",
        "created": 0,
        "model": "smollm2",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert cut.response.body["choices"][0]["finish_reason"] == "length"


def test_several_choices_and_log_probabilities_come_back_by_index():
    ((_, result),) = batch([line("n", "ab", n=3, logprobs=1, temperature=1.0, seed=7)])

    choices = result.response.body["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert choices[0]["logprobs"]["tokens"] == ["a", "b", ""]
    assert choices[0]["logprobs"]["text_offset"] == [0, 1, 2]
    assert all(score > -1e-6 for score in choices[0]["logprobs"]["token_logprobs"])


def test_a_chats_log_probabilities_carry_bytes():
    ((_, result),) = batch([line("n", "a", url="/v1/chat/completions", logprobs=True, top_logprobs=2)])

    first = result.response.body["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["bytes"], len(first["top_logprobs"])) == ("a", [97], 2)


def test_equal_input_gives_equal_lines():
    lines = [line("a", seed=3, temperature=1.5), line("b", temperature=1.5)]

    assert list(in_order(batch(lines))) == list(in_order(batch(lines, in_engine=1)))


def test_a_source_that_fails_raises_after_the_lines_before_it_are_answered():
    def lines():
        yield line("a")
        yield line("b")
        raise BadInput("requests.jsonl:3", "truncated", "one JSON object per line")

    results = batch(lines())

    assert {next(results)[1].custom_id, next(results)[1].custom_id} == {"a", "b"}
    with pytest.raises(BadInput, match=r"requests\.jsonl:3"):
        next(results)


def test_running_requests_do_not_wait_for_a_slow_source():
    answered = threading.Event()

    def lines():
        yield line("first")
        assert answered.wait(30)
        yield line("second")

    results = batch(lines())
    assert next(results)[1].custom_id == "first"
    answered.set()
    assert next(results)[1].custom_id == "second"


def test_a_source_of_nothing_gives_nothing():
    assert list(batch([])) == []
