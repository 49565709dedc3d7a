"""Tools: told to the model in the system message, calls found in its text, results told back, calls demanded."""

import asyncio
import json
from itertools import pairwise

import jsonschema
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.artifacts import BatchBody
from llmsys.engine.errors import RequestError
from llmsys.engine.tool_prompt import forced_schema, offers_tools, tool_messages
from llmsys.serve_lora.server.tool_text import ToolText
from tests.serve_lora.server.conftest import at_server

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def body(**fields):
    given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [WEATHER, CLOCK]} | fields
    return msgspec.convert(given, BatchBody)


def read(pieces, *, forced=False):
    """All that is said and called when a text comes in these pieces."""
    text = ToolText(forced=forced)
    said = "".join(text.push(piece)[0] for piece in pieces) + text.flush()[0]
    return said, [(call.name, json.loads(call.arguments)) for call in text.calls]


@given(
    parts=st.lists(
        st.sampled_from(
            ["Let me see. ", CALL, "<tool_call>no json</tool_call>", "<tool_", "a < b", "\n", "</tool_call>"]
        )
        | st.text(max_size=9),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_calls_and_text_are_the_same_however_the_text_is_cut(parts, cuts):
    whole = "".join(parts)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]

    found = read([whole[start:end] for start, end in pairwise(edges)])

    assert found == read([whole])


@given(st.text())
def test_text_without_a_call_is_said_as_it_is(text):
    assert read(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (CALL, "", [("weather", {"city": "Oslo"})]),
        (f"Wait.\n{CALL}\n{CALL}", "Wait.\n\n", [("weather", {"city": "Oslo"})] * 2),
        (CALL.removesuffix("</tool_call>"), "", [("weather", {"city": "Oslo"})]),
        ('<tool_call>{"name": "clock"}</tool_call> done', " done", [("clock", {})]),
        ("<tool_call>{'name': 'x'}</tool_call>", "<tool_call>{'name': 'x'}</tool_call>", []),
        ("<tool_call>[1]", "<tool_call>[1]", []),
        ('{"name": "clock", "arguments": {}}', '{"name": "clock", "arguments": {}}', []),
    ],
)
def test_what_is_a_call_and_what_is_not(text, said, calls):
    assert read([text]) == (said, calls)


def test_an_answer_that_had_to_be_a_call_is_one_without_tags():
    assert read(['{"name": "clock", ', '"arguments": {}}'], forced=True) == ("", [("clock", {})])
    assert read(['{"name": "clo'], forced=True) == ('{"name": "clo', [])


def test_text_goes_on_as_soon_as_it_can_be_no_call():
    text = ToolText(forced=False)

    assert [text.push(piece)[0] for piece in ("Hi <", "tool", "s> <tool_call", "er", ">")] == [
        "Hi ",
        "",
        "<tools> ",
        "<tool_caller",
        ">",
    ]


def test_tools_calls_and_results_are_written_out_for_the_model():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    turns = tool_messages(
        body(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "rain"},
            ]
        )
    )

    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "tool"]
    assert turns[0]["content"].startswith("Be brief.")
    assert '"name":"weather"' in turns[0]["content"]
    assert read([turns[2]["content"]]) == ("", [("weather", {"city": "Oslo"})])
    assert turns[3]["content"] == "<tool_response>\nrain\n</tool_response>"


def test_without_tools_or_with_none_chosen_nothing_is_added():
    plain = [{"role": "user", "content": "hi"}]

    assert tool_messages(body(tools=None)) == tool_messages(body(tool_choice="none")) == plain
    assert not offers_tools(body(tool_choice="none"))


@pytest.mark.parametrize(
    ("choice", "wrong"),
    [
        ("always", "'always'"),
        ({"type": "function", "function": {"name": "sql"}}, "'sql'"),
        ({"type": "function"}, "function"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice, wrong):
    with pytest.raises(RequestError, match=wrong):
        forced_schema(body(tool_choice=choice))


def test_a_demand_without_tools_is_refused():
    with pytest.raises(RequestError, match="no tools"):
        forced_schema(body(tools=None, tool_choice="required"))


def test_a_demanded_call_is_one_of_the_declared():
    schema = forced_schema(body(tool_choice="required"))
    jsonschema.validate({"name": "weather", "arguments": {"city": "Rome"}}, schema)

    for wrong in ({"name": "weather", "arguments": {"city": "Bonn"}}, {"name": "sql", "arguments": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_a_call_in_an_answer_reaches_the_client_streamed_or_whole():
    """The stand-in repeats what it is told, so that the user's text is the model's answer."""
    asked = [{"role": "user", "content": f"Wait. {CALL}"}]

    async def check(server):
        async def ask(**more):
            return await server.client.chat.completions.create(model="speller", messages=asked, tools=[WEATHER], **more)

        whole = (await ask(temperature=0, max_tokens=200)).choices[0]
        chunks = [chunk.choices[0] async for chunk in await ask(temperature=0, max_tokens=200, stream=True)]
        none = (await ask(temperature=0, max_tokens=200, tool_choice="none")).choices[0]
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(tool_choice="always")
        return whole, chunks, none, refused.value.body

    whole, chunks, none, refused = at_server(check)

    assert (whole.finish_reason, whole.message.content) == ("tool_calls", "Wait. ")
    assert [call.function.arguments for call in whole.message.tool_calls] == ['{"city":"Oslo"}']
    assert "".join(choice.delta.content or "" for choice in chunks) == "Wait. "
    called = [call for choice in chunks for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.name, call.function.arguments) for call in called] == [
        (0, "weather", '{"city":"Oslo"}')
    ]
    assert chunks[-1].finish_reason == "tool_calls"
    assert (none.finish_reason, none.message.tool_calls) == ("stop", None)
    assert refused["code"] == "invalid_value"


def test_a_real_decoder_can_be_held_to_a_call(tiny_model):
    """A model that knows nothing of tools calls the one that is demanded, with arguments that fit."""

    async def check(server):
        async def ask(seed):
            answer = await server.client.chat.completions.create(
                model=server.backend.names[0],
                messages=[{"role": "user", "content": "hi"}],
                tools=[WEATHER],
                tool_choice={"type": "function", "function": {"name": "weather"}},
                seed=seed,
                max_tokens=200,
            )
            return answer.choices[0]

        return await asyncio.gather(*(ask(seed) for seed in range(4)))

    for choice in at_server(check, model=str(tiny_model), dtype="float32"):
        call = choice.message.tool_calls[0].function
        assert (choice.finish_reason, call.name) == ("tool_calls", "weather")
        assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
