"""Tools of an MCP server: a real one, started as a program, that answers, refuses, dies and comes back."""

import asyncio
import shlex
import sys

import pytest

from llmsys.errors import Unavailable
from llmsys.tool_serve.catalog import open_catalog
from llmsys.tool_serve.mcp_tools import McpServer
from llmsys.tool_serve.runtime import State, ToolRuntime
from tests.tool_serve.turns import opened, sealed

pytest.importorskip("mcp")

SERVER = """
import os
from pathlib import Path
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("shop")

@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def add(a: int, b: int) -> str:
    "Add two numbers."
    return str(a + b)

@server.tool(annotations=ToolAnnotations(idempotentHint=True))
def put(text: str) -> str:
    "Keep a text."
    Path("kept.txt").write_text(text)
    return "kept"

@server.tool()
def send(to: str) -> str:
    "Send a letter."
    with open("sent.txt", "a") as sent:
        sent.write(to + "\\n")
    return "sent"

@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def die() -> str:
    "End the server."
    os._exit(9)

server.run("stdio")
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return f"mcp:stdio:{shlex.join([sys.executable, str(script)])}"


def turns(spec, *turns, finish="tool_calls"):
    """The outcomes of turns, each a list of (tool, arguments), with the tools of one server."""

    async def play():
        catalog = open_catalog([spec], sandbox="auto")
        runtime = ToolRuntime(catalog.tools)
        try:
            found = []
            for calls in turns:
                session = runtime.open_turn("r")
                session.take([opened(n, name) for n, (name, _) in enumerate(calls)])
                session.take([sealed(n, **args) for n, (_, args) in enumerate(calls)])
                found.append(await session.end_turn(finish))
            return found
        finally:
            await runtime.close()
            await catalog.close()

    return asyncio.run(play())


def test_what_a_server_says_of_a_tool_decides_its_effect(spec):
    tools = {one.name: one for one in open_catalog([spec], sandbox="auto").tools}

    assert {name: one.effect.value for name, one in tools.items()} == {
        "add": "pure",
        "put": "idempotent",
        "send": "effectful",
        "die": "pure",
    }
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].parameters["required"] == ["a", "b"]


def test_calls_reach_the_server_and_a_refusal_is_a_result(spec, tmp_path):
    ((added, sent, wrong),) = turns(
        spec, [("add", {"a": 2, "b": 3}), ("send", {"to": "ann"}), ("add", {"a": "two", "b": 3})]
    )

    assert [added.result.content, sent.result.content] == ["5", "sent"]
    assert (tmp_path / "sent.txt").read_text() == "ann\n"
    assert wrong.state is State.FAILED
    assert "valid integer" in wrong.result.content


def test_a_message_that_is_cut_off_sends_nothing(spec, tmp_path):
    ((sent,),) = turns(spec, [("send", {"to": "ann"})], finish="length")

    assert sent.state is State.CANCELLED
    assert not (tmp_path / "sent.txt").exists()


def test_a_server_that_dies_fails_its_call_and_is_started_again(spec):
    (died,), (added,) = turns(spec, [("die", {})], [("add", {"a": 1, "b": 1})])

    assert died.state is State.FAILED
    assert "the MCP server stdio:" in died.result.content
    assert "ended" in died.result.content
    assert added.result.content == "2"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("/no/such/program", "FileNotFoundError"),
        (shlex.join([sys.executable, "-c", "import sys; sys.exit('no licence')"]), "no licence"),
    ],
)
def test_a_server_that_is_not_there_is_named_with_what_it_said(command, why):
    with pytest.raises(Unavailable, match="no MCP server at stdio:.*" + why):
        McpServer(f"stdio:{command}").tools()
