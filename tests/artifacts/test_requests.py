"""OpenAI batch lines: what is taken, what is refused, who the tenant is."""

import json

import msgspec
import pytest

from llmsys.artifacts import BatchError, BatchRequest, BatchResponse, BatchResult, ChatMessage, encode, read_requests
from llmsys.errors import BadInput

CHAT = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


def chat(**body):
    return CHAT | {"body": CHAT["body"] | body}


def completion(**body):
    return CHAT | {"url": "/v1/completions", "body": {"model": "m"} | body}


def read_one(lines_file, line):
    return next(read_requests(lines_file(json.dumps(line))))


def test_the_line_of_the_openai_guide_reads(lines_file):
    line = {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-3.5-turbo-0125",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Hello world!"},
            ],
            "max_tokens": 1000,
        },
    }
    request = read_one(lines_file, line)

    assert [(turn.role, turn.text) for turn in request.body.messages] == [
        ("system", "You are a helpful assistant."),
        ("user", "Hello world!"),
    ]
    assert request.body.token_limit == 1000
    assert json.loads(encode(request)) == line


@pytest.mark.parametrize(
    ("tenant", "user", "name"),
    [("acme", "bob", "acme"), (None, "bob", "bob"), (None, None, "default"), (None, "", "default")],
)
def test_the_tenant_is_the_top_level_one_then_the_user(lines_file, tenant, user, name):
    line = chat(**({} if user is None else {"user": user})) | ({} if tenant is None else {"tenant": tenant})

    assert read_one(lines_file, line).tenant_name == name


@pytest.mark.parametrize(
    ("body", "limit"),
    [({}, None), ({"max_tokens": 5}, 5), ({"max_tokens": 5, "max_completion_tokens": 0}, 0)],
)
def test_the_newer_name_of_the_token_limit_wins(lines_file, body, limit):
    assert read_one(lines_file, chat(**body)).body.token_limit == limit


def test_tools_and_calls_keep_their_schema(lines_file):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": [1, {"y": None}]}}}
    call = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": "2"},
    ]
    body = read_one(lines_file, chat(messages=messages, tools=[tool])).body

    assert body.tools[0].function.parameters == tool["function"]["parameters"]
    assert [turn.text for turn in body.messages] == ["ab", "", "2"]
    assert body.messages[1].tool_calls[0].function.arguments == '{"x":1}'


def test_a_part_that_is_no_text_reads_but_has_no_text():
    message = msgspec.convert({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ChatMessage)

    with pytest.raises(ValueError, match="content part of type 'image_url'; expected text"):
        _ = message.text


@pytest.mark.parametrize("prompt", ["text", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_a_prompt_may_be_text_ids_or_several(lines_file, prompt):
    read = read_one(lines_file, completion(prompt=prompt)).body.prompt

    assert json.loads(msgspec.json.encode(read)) == prompt


def test_unknown_fields_are_passed_over(lines_file):
    assert read_one(lines_file, chat(reasoning_effort="low", metadata={"a": [1]}) | {"note": 1}).custom_id == "a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (chat(temperature="hot"), r"`str` at `\$.body.temperature`; expected `float \| null`"),
        (chat(max_tokens=-1), r"at `\$.body.max_tokens`; expected `int` >= 0"),
        (chat(stop=3), r"`int` at `\$.body.stop`"),
        (chat(messages="hi"), r"`str` at `\$.body.messages`"),
        (chat(messages=[{"content": "hi"}]), r"missing required field `role` - at `\$.body.messages\[0\]`"),
        (chat(messages=[{"role": "user", "content": 1}]), r"`int` at `\$.body.messages\[0\].content`"),
        (chat(messages=[]), "no `\\$.body.messages` for /v1/chat/completions; expected at least one message"),
        (chat(prompt="x"), "both `\\$.body.messages` and `\\$.body.prompt`"),
        (chat(tools=[{"type": "function"}]), "missing required field `function`"),
        (completion(), "no `\\$.body.prompt` for /v1/completions"),
        (completion(prompt=["a", 1]), "a mixture in `\\$.body.prompt`"),
        (CHAT | {"method": "GET"}, r"invalid enum value 'GET' - at `\$.method`"),
        (CHAT | {"custom_id": 7}, r"`int` at `\$.custom_id`; expected `str`"),
        (CHAT | {"arrival_s": -1}, r"at `\$.arrival_s`; expected `float` >= 0"),
        (CHAT | {"tenant": ""}, r"at `\$.tenant`; expected `str` of length >= 1"),
        ({"custom_id": "a", "method": "POST", "url": "/v1/x"}, "missing required field `body`"),
    ],
)
def test_a_field_of_a_wrong_type_is_refused_with_its_path(lines_file, line, message):
    with pytest.raises(BadInput, match=r"in\.jsonl:1: .*" + message):
        read_one(lines_file, line)


def test_a_custom_id_comes_only_once(lines_file):
    path = lines_file(json.dumps(CHAT), json.dumps(CHAT | {"custom_id": "b"}), json.dumps(CHAT))

    with pytest.raises(BadInput, match=r":3: custom_id 'a' a second time"):
        list(read_requests(path))
    assert [request.custom_id for request in read_requests(path, on_error="skip")] == ["a", "b"]


def test_an_endpoint_that_is_not_known_passes(lines_file):
    line = CHAT | {"url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}

    assert read_one(lines_file, line).url == "/v1/embeddings"


def test_result_lines_have_both_members_one_of_them_null():
    done = BatchResult("b1", "a", BatchResponse(200, "r1", {"object": "chat.completion"}), None)
    failed = BatchResult("b2", "b", None, BatchError("model_not_found", "no model 'x'"))

    assert json.loads(encode(done)) == {
        "id": "b1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "r1", "body": {"object": "chat.completion"}},
        "error": None,
    }
    assert json.loads(encode(failed))["error"] == {"code": "model_not_found", "message": "no model 'x'"}
    assert msgspec.json.decode(encode(done), type=BatchResult) == done


def test_a_request_reads_back_as_written(lines_file):
    request = read_one(lines_file, chat(seed=1, stop=["a"], n=2) | {"tenant": "t", "arrival_s": 0.5})

    assert msgspec.json.decode(encode(request), type=BatchRequest) == request
