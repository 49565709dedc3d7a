"""The tool speaks its protocol line by line and shows a model its tenant's vectors alone, whatever the model says."""

import json

import numpy as np
import pytest

from llmsys.vindex import Index
from llmsys.vindex.mcp_tool import SearchTool, answers


@pytest.fixture
def tool(built):
    return SearchTool(built[0], "t0", 1.0)


def ask(tool, *messages):
    lines = [message if isinstance(message, bytes) else json.dumps(message).encode() for message in messages]
    return json.loads(json.dumps(list(answers(tool, lines))))


def call(tool, **arguments):
    params = {"name": "search", "arguments": arguments}
    (found,) = ask(tool, {"id": 1, "method": "tools/call", "params": params})
    return found["result"]


def mine(built):
    return {row for row, names in enumerate(built[2]) if "t0" in names}


def test_neighbours_of_a_vector_are_the_tenant_s_own(tool, built):
    found = call(tool, vector=[0.0] * 7, k=100)

    assert set(found["structuredContent"]["ids"]) <= mine(built)
    assert len(found["structuredContent"]["ids"]) == min(100, len(mine(built)))
    assert json.loads(found["content"][0]["text"]) == found["structuredContent"]


def test_a_known_vector_is_its_own_nearest(tool, built):
    one = min(mine(built))

    found = call(tool, like=one, k=3)["structuredContent"]

    assert (found["ids"][0], found["distances"][0]) == (one, 0)


def test_a_vector_of_others_and_one_that_is_not_there_are_the_same_answer(tool, built):
    other = min(set(range(300)) - mine(built))

    refused = [call(tool, like=one)["content"][0]["text"] for one in (other, 4711)]

    assert refused[0].replace(str(other), "ID") == refused[1].replace("4711", "ID")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"like": 1, "vector": [0.0] * 7},
        {"vector": [0.0]},
        {"vector": "text"},
        {"vector": [0.0] * 7, "k": 0},
        {"vector": [0.0] * 7, "k": 10**6},
        {"vector": [0.0] * 7, "tenant": "t1"},
        {"vector": [0.0] * 7, "where": "t1"},
    ],
)
def test_a_call_that_does_not_fit_is_a_result_that_the_model_can_read(tool, arguments):
    found = call(tool, **arguments)

    assert found["isError"] is True
    assert "structuredContent" not in found
    assert found["content"][0]["text"]


def test_the_declaration_says_what_ids_and_vectors_look_like(tool, tmp_path):
    shown = tool.declaration()["inputSchema"]["properties"]
    assert (shown["vector"]["minItems"], shown["vector"]["maxItems"], shown["like"]["type"]) == (7, 7, "integer")
    with Index.build(tmp_path / "text", np.ones((1, 2)), ["a"], [["t0"]]) as index:
        assert SearchTool(index, "t0", 1.0).declaration()["inputSchema"]["properties"]["like"]["type"] == "string"


def test_the_protocol_is_spoken_line_by_line(tool):
    found = ask(
        tool,
        {"id": "a", "method": "initialize", "params": {"protocolVersion": "2025-06-18"}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "ping"},
        {"id": 3, "method": "tools/list"},
        {"id": 4, "method": "resources/list"},
        {"id": 5, "method": "tools/call", "params": {"name": "other"}},
        b"{not json",
    )

    assert [one["id"] for one in found] == ["a", 2, 3, 4, 5, None]
    assert found[0]["result"]["capabilities"] == {"tools": {}}
    assert found[1]["result"] == {}
    assert [one["name"] for one in found[2]["result"]["tools"]] == ["search"]
    assert [one["error"]["code"] for one in found[3:]] == [-32601, -32602, -32700]
