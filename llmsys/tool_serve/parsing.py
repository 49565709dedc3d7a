"""Raw text of models in, event lines out: one document, or many that interleave in chunks. Knows no option.

{"event":"call_open","call":0,"id":…,"name":…}      {"event":"value","call":0,"path":"$.a","value":…}
{"event":"text","call":0,"path":"$.a","delta":…}    {"event":"unit","call":0,"path":…,"kind":…,"text":…}
{"event":"sealed","call":0,"name":…,"args":{…}}     {"event":"invalid","call":0,"why":…,"raw":…}
{"event":"passage","text":…}                        each with "offset" in bytes, and "doc" where there are many
"""

import codecs
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from llmsys.artifacts import open_source, read_records, source_name
from llmsys.errors import BadInput
from llmsys.tool_serve.call import json_path
from llmsys.tool_serve.events import CallOpen, Event, Malformed, Parser, Passage, Sealed, Text, Unit, Value
from llmsys.tool_serve.formats import Schemas, open_parser
from llmsys.tool_serve.schema import Checked
from llmsys.tool_serve.tools import Partial
from llmsys.tool_serve.units import Units

__all__ = ["BUILTIN_PARTIALS", "parse_chunks", "parse_text", "read_schemas"]

BUILTIN_PARTIALS = {"python": Partial.parse("statements:code"), "sqlite": Partial.parse("sql:sql")}
"""What the built-in tools are fed: `parse` shows the units that they would get."""
CHUNK_BYTES = 1 << 16
Line = dict[str, Any]


class _Chunk(msgspec.Struct, frozen=True):
    """A piece of a document, or its end."""

    doc: str | int
    text: str = ""
    end: bool = False


class _Function(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class _Declared(msgspec.Struct, frozen=True):
    function: _Function


class _Tools(msgspec.Struct, frozen=True):
    tools: list[_Declared]


def read_schemas(path: str) -> Schemas:
    """The schemas of an OpenAI `tools` array, or of an object that has one. Raises BadInput."""
    with open_source(path) as stream:
        content = stream.read()
    try:
        found = msgspec.json.decode(content, type=list[_Declared] | _Tools)
    except msgspec.DecodeError as error:
        raise BadInput(source_name(path), str(error), 'an OpenAI "tools" array') from error
    tools = found.tools if isinstance(found, _Tools) else found
    return {one.function.name: one.function.parameters for one in tools}


def parse_text(source: str, name: str, schemas: Schemas | None) -> Iterator[Line]:
    """The events of one document, each as soon as the text that completes it was read. Raises BadInput."""
    where = source_name(source)
    lines = _Lines(_parser(name, schemas, where), where)
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_source(source) as stream:
        read = 0
        for block in _blocks(stream):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                raise BadInput(f"{where}: byte {read + error.start}", error.reason, "UTF-8") from error
            read += len(block)
            yield from lines.feed(text)
    if decoder.getstate()[0]:
        raise BadInput(f"{where}: byte {read}", "half a character at the end", "UTF-8")
    yield from lines.close()


def parse_chunks(
    source: str, name: str, schemas: Schemas | None, *, on_error: str, on_skip: Callable[[BadInput], None]
) -> Iterator[Line]:
    """The events of documents that come as lines `{"doc","text"}` and end with `{"doc","end":true}`; `doc` in each."""
    where = source_name(source)
    open_ones: dict[str | int, _Lines] = {}
    for chunk in read_records(source, _Chunk, on_error=on_error, on_skip=on_skip):
        if chunk.doc not in open_ones:
            open_ones[chunk.doc] = _Lines(_parser(name, schemas, where), where)
        for line in open_ones[chunk.doc].feed(chunk.text):
            yield {"doc": chunk.doc} | line
        if chunk.end:
            for line in open_ones.pop(chunk.doc).close():
                yield {"doc": chunk.doc} | line
    for doc, lines in open_ones.items():
        for line in lines.close():
            yield {"doc": doc} | line


class _Lines:
    """One document's parser and the names of its calls."""

    def __init__(self, parser: Parser, where: str) -> None:
        self._parser, self._where = parser, where
        self._names: dict[int, str] = {}

    def feed(self, text: str) -> Iterator[Line]:
        """The lines of what this text completes."""
        try:
            events = self._parser.feed(text)
        except ValueError as error:
            raise BadInput(self._where, str(error), "the deltas of an OpenAI stream") from error
        return map(self._line, events)

    def close(self) -> Iterator[Line]:
        """The lines of what the end completes."""
        return map(self._line, self._parser.close())

    def _line(self, event: Event) -> Line:
        if isinstance(event, Passage):
            return {"event": "passage", "text": event.text, "offset": event.offset}
        facts: Line = {"call": event.call}
        match event:
            case CallOpen():
                self._names[event.call] = event.name
                facts |= {"id": event.id, "name": event.name}
            case Value():
                facts |= {"path": json_path(event.path), "value": event.value}
            case Text():
                facts |= {"path": json_path(event.path), "delta": event.delta}
            case Unit():
                facts |= {"path": json_path(event.path), "kind": event.kind, "text": event.text}
            case Sealed():
                facts |= {"name": self._names[event.call], "args": event.args}
            case Malformed():
                facts |= {"why": event.why, "raw": event.raw}
        return {"event": _NAMES[type(event)], **facts, "offset": event.offset}


_NAMES: dict[type, str] = {
    CallOpen: "call_open",
    Value: "value",
    Text: "text",
    Unit: "unit",
    Sealed: "sealed",
    Malformed: "invalid",
}


def _parser(name: str, schemas: Schemas | None, where: str) -> Parser:
    parser = open_parser(name, schemas or {})
    if schemas is None:
        return Units(parser, BUILTIN_PARTIALS)
    try:
        return Units(Checked(parser, schemas), BUILTIN_PARTIALS)
    except ValueError as error:
        raise BadInput(where, str(error), "schemas that jsonschema takes") from error


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """What is there, without waiting for a whole block."""
    read = getattr(stream, "read1", stream.read)
    while block := read(CHUNK_BYTES):
        yield block
