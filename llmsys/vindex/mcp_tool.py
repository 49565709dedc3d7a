"""The search of one tenant's vectors as a tool of the Model Context Protocol, over standard input and output.

One JSON-RPC message per line: initialize, tools/list, tools/call, ping. A model names a vector that it knows by its id,
or brings one. Whatever it says, it sees one tenant's vectors. Any runtime that speaks the protocol can call it,
`tool-serve` with `--tools mcp:stdio:"llmsys vindex tool IDX --tenant T"`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from llmsys.errors import LlmsysError
from llmsys.vindex.faults import NotFound
from llmsys.vindex.index import Index
from llmsys.vindex.slot_store import Id

__all__ = ["SearchTool", "answers"]

PROTOCOL = "2025-06-18"
PARSE_ERROR, NO_METHOD, BAD_ARGUMENTS = -32700, -32601, -32602


class Message(msgspec.Struct, frozen=True):
    """A request, or a notification if it has no id."""

    method: str = ""
    id: int | str | None = None
    params: dict[str, Any] = {}


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tool takes: a vector, or the id of one that the tenant sees."""

    vector: list[float] | None = None
    like: Id | None = None
    k: int = 10


class SearchTool:
    """Nearest neighbours as one tenant sees them."""

    def __init__(self, index: Index, tenant: str, recall: float) -> None:
        self._index, self._tenant, self._recall = index, tenant, recall

    def declaration(self) -> dict[str, object]:
        """Name, description and JSON Schema of the tool."""
        store = self._index.state.store
        kind = "string" if store.id_type is str else "integer"
        numbers = {"type": "array", "items": {"type": "number"}, "minItems": store.vectors.shape[1]}
        properties = {
            "like": {"type": kind, "description": "Id of a vector whose neighbours are wanted."},
            "vector": numbers
            | {"maxItems": store.vectors.shape[1], "description": "A query vector, in place of `like`."},
            "k": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        }
        return {
            "name": "search",
            "description": "Find the nearest vectors: ids, and similarities (distances under l2), nearest first.",
            "inputSchema": {"type": "object", "properties": properties, "additionalProperties": False},
            "annotations": {"readOnlyHint": True},
        }

    def call(self, arguments: Arguments) -> dict[str, object]:
        """Ids and distances. Raises NotFound for an id that the tenant does not see, LlmsysError for what is wrong."""
        if arguments.vector is not None and arguments.like is None:
            query = np.array(arguments.vector)
        elif arguments.like is not None and arguments.vector is None:
            query = self._known(arguments.like)
        else:
            raise LlmsysError("expected either `like` or `vector`")
        hits = self._index.search(query, self._tenant, arguments.k, recall=self._recall)
        ids, distances = hits.row(0)
        return {"ids": ids, "distances": distances}

    def _known(self, one: Id) -> "np.ndarray[Any, np.dtype[np.float32]]":
        state = self._index.state
        found, slot = state.tenant(self._tenant), state.store.slot_of.get(one, -1)
        if found is None or slot < 0 or not found.holds(slot, state.store.leaf):
            raise NotFound(f"id {one!r}", "not in the index", "an id of the index")
        vector: np.ndarray[Any, np.dtype[np.float32]] = state.store.rows([slot])[0]
        return vector


def answers(tool: SearchTool, lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
    """The answer to each line that wants one."""
    decoder = msgspec.json.Decoder(Message)
    for line in lines:
        try:
            message = decoder.decode(line)
        except msgspec.DecodeError as error:
            yield _said(None, error={"code": PARSE_ERROR, "message": str(error)})
            continue
        if message.id is not None:
            yield _answer(tool, message)


def _answer(tool: SearchTool, message: Message) -> dict[str, object]:
    match message.method:
        case "initialize":
            server = {"name": "llmsys-vindex", "version": "1"}
            result = {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": server}
            return _said(message.id, result=result)
        case "ping":
            return _said(message.id, result={})
        case "tools/list":
            return _said(message.id, result={"tools": [tool.declaration()]})
        case "tools/call" if message.params.get("name") == "search":
            return _called(tool, message)
        case "tools/call":
            return _said(message.id, error={"code": BAD_ARGUMENTS, "message": "no such tool; tools: search"})
    return _said(message.id, error={"code": NO_METHOD, "message": f"no method {message.method!r}"})


def _called(tool: SearchTool, message: Message) -> dict[str, object]:
    """A tool's own failure is a result that the model can read."""
    try:
        found = tool.call(msgspec.convert(message.params.get("arguments", {}), Arguments))
    except (msgspec.ValidationError, LlmsysError) as error:
        return _said(message.id, result={"content": [{"type": "text", "text": str(error)}], "isError": True})
    text = msgspec.json.encode(found).decode()
    return _said(message.id, result={"content": [{"type": "text", "text": text}], "structuredContent": found})


def _said(number: int | str | None, **what: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number} | what
