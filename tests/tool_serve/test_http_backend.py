"""A server behind a run: calls in deltas and in text, refusals, busy servers, streams that break off."""

import asyncio
import json

import pytest

from llmsys.errors import Unavailable
from llmsys.tool_serve.backends import BrokenTurn, Piece
from llmsys.tool_serve.conversation import Conversations
from llmsys.tool_serve.effects import Policy
from llmsys.tool_serve.http_backend import HttpBackend, ServerFault
from llmsys.tool_serve.runtime import ToolRuntime
from llmsys.tool_serve.tools import tool
from tests.tool_serve.model_server import DONE, call_chunks, chunk, model_server


@pytest.fixture
def did():
    return []


@pytest.fixture
def tools(did):
    @tool(effect="pure")
    async def look(key: str) -> str:
        did.append(("look", key))
        return f"seen {key}"

    @tool(effect="idempotent")
    async def keep(key: str) -> str:
        did.append(("keep", key))
        return "kept"

    @tool(effect="effectful")
    async def send(key: str) -> str:
        did.append(("send", key))
        return "sent"

    return [look, keep, send]


def talked(tools, answers, *, model="#m", policy=Policy.PARTIAL, **how):
    """The answer to one request, and what the server was asked."""

    async def play(url):
        backend = HttpBackend(url + model)
        runtime = ToolRuntime(tools, policy=policy)
        try:
            return await Conversations(backend, runtime).answer("a", [{"role": "user", "content": "go"}], **how)
        finally:
            await runtime.close()
            await backend.close()

    with model_server(answers) as (url, asked):
        return asyncio.run(play(url)), asked


def stream(*parts, finish="stop"):
    return 200, "".join(parts) + chunk(finish) + DONE


def calls(*named):
    parts = [part for n, (name, key) in enumerate(named) for part in call_chunks(n, name, json.dumps({"key": key}))]
    return stream(*parts, finish="tool_calls")


def test_calls_in_deltas_are_answered_and_their_results_go_back(tools):
    said = "It is \u2028 done."  # a line separator is text here, no end of a line
    answer, asked = talked(tools, [calls(("look", "x"), ("send", "y")), stream(chunk(content=said))], seed=7)

    assert [one.get("content") for one in answer.messages] == [None, "seen x", "sent", said]
    assert [one["role"] for one in asked[1]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert asked[0]["model"] == "m"
    assert asked[0]["seed"] == 7
    assert [one["function"]["name"] for one in asked[0]["tools"]] == ["look", "keep", "send"]
    assert answer.finish == "stop"


def test_calls_in_text_are_found_where_a_server_has_no_parser(tools):
    text = '<tool_call>{"name": "look", "arguments": {"key": "k"}}</tool_call>'
    pieces = [chunk(content=text[at : at + 3]) for at in range(0, len(text), 3)]
    answer, _ = talked(tools, [stream(*pieces), stream(chunk(content="Found."))])

    assert [one.get("content") for one in answer.messages] == [None, "seen k", "Found."]


def test_the_first_model_that_a_server_lists_is_asked(tools):
    _, asked = talked(tools, [stream(chunk(content="hi"))], model="")

    assert asked[0]["model"] == "the-model"


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(tools):
    answer, asked = talked(tools, [(503, "warming up"), stream(chunk(content="hi"))])
    with pytest.raises(ServerFault, match="400: no such model"):
        talked(tools, [(400, "no such model")])

    assert answer.messages[-1]["content"] == "hi"
    assert len(asked) == 2


def test_what_is_no_chunk_is_told(tools):
    with pytest.raises(ServerFault, match="expected a chunk of a chat completion"):
        talked(tools, [(200, "data: what\n\n")])


def test_a_server_that_is_not_there_is_named(tools):
    async def play():
        backend = HttpBackend("http://127.0.0.1:9/v1")
        try:
            await Conversations(backend, ToolRuntime(tools)).answer("a", [])
        finally:
            await backend.close()

    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9/v1 lists no models"):
        asyncio.run(play())


def broken(name):
    """A stream that ends within its turn, after a call that is complete."""
    return 200, "".join(call_chunks(0, name, '{"key": "x"}')) + chunk(content="and")


def test_a_turn_that_broke_off_is_asked_for_once_more_and_no_effect_is_doubled(tools, did):
    answer, asked = talked(tools, [broken("send"), calls(("send", "x")), stream(chunk(content="Sent."))])

    assert did == [("send", "x")]
    assert answer.messages[-1]["content"] == "Sent."
    assert len(asked) == 3


def test_a_turn_that_breaks_off_twice_ends_its_request(tools, did):
    with pytest.raises(BrokenTurn, match="the stream ended before its turn did"):
        talked(tools, [broken("send"), broken("send"), calls(("send", "x"))])

    assert did == []


def test_a_turn_is_not_repeated_once_a_call_has_done_what_lasts(did):
    done = asyncio.Event()

    @tool(effect="idempotent")
    async def keep(key: str) -> str:
        did.append(key)
        done.set()
        return "kept"

    class Breaking:
        form = "auto"
        turns = 0

        async def turn(self, request):
            self.turns += 1
            yield Piece('<tool_call>{"name": "keep", "arguments": {"key": "x"}}</tool_call>')
            await done.wait()
            raise BrokenTurn("broke off")

        async def close(self):
            pass

    async def play(backend):
        await Conversations(backend, ToolRuntime([keep])).answer("a", [])

    backend = Breaking()
    with pytest.raises(BrokenTurn):
        asyncio.run(play(backend))

    assert did == ["x"]
    assert backend.turns == 1
