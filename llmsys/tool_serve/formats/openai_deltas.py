"""The deltas of an OpenAI-compatible stream: text and pieces of calls by their index, as objects or as lines of JSON.

A call is sealed when its arguments are a complete object, or when another begins. Knows no HTTP.
"""

import json
from collections.abc import Mapping
from typing import Any

from llmsys.tool_serve.events import CallOpen, Event, Malformed, Passage, Sealed
from llmsys.tool_serve.formats.bodies import Arguments
from llmsys.tool_serve.scanner import ScanFault

__all__ = ["OpenAIDeltas"]

_PREFIX, _END = "data:", "[DONE]"


class _Call:
    """A call under way; `over` once it was sealed or found malformed."""

    def __init__(self, number: int) -> None:
        self.body = Arguments(number)
        self.pieces: list[str] = []
        self.over = False


class OpenAIDeltas:
    """`take` reads one delta, `feed` lines of them (`data: ` before each may stand there)."""

    def __init__(self) -> None:
        self.calls = 0
        self._by_index: dict[int, _Call] = {}
        self._line = ""
        self._bytes = 0
        self._piece = (0, "")

    def offset(self, place: int) -> int:
        """Bytes of text and arguments before a place in the piece that is being read."""
        return self._piece[0] + len(self._piece[1][:place].encode("utf-8", "surrogatepass"))

    def feed(self, text: str) -> list[Event]:
        """As `Parser` says. Raises ValueError for a line that is no delta."""
        *lines, self._line = (self._line + text).split("\n")
        return [event for line in lines for event in self._read_line(line)]

    def close(self) -> list[Event]:
        """As `Parser` says."""
        rest, self._line = self._line, ""
        events = self._read_line(rest)
        for call in self._by_index.values():
            events += self._end(call)
        return events

    def take(self, delta: Mapping[str, Any]) -> list[Event]:
        """One `choices[0].delta`."""
        events: list[Event] = []
        if content := delta.get("content"):
            self._enter(content)
            events.append(Passage(content, self._bytes))
        for part in delta.get("tool_calls") or ():
            events += self._take_call(part)
        return events

    def _take_call(self, part: Mapping[str, Any]) -> list[Event]:
        index, function = int(part.get("index", 0)), part.get("function") or {}
        events: list[Event] = []
        if index not in self._by_index:
            if not function.get("name"):
                raise ValueError(f"tool call {index} begins without a name; expected one in its first delta")
            for earlier in self._by_index.values():
                events += self._end(earlier)
            number, self.calls = self.calls, self.calls + 1
            self._by_index[index] = _Call(number)
            events.append(CallOpen(number, part.get("id") or f"call_{number}", function["name"], self._bytes))
        if piece := function.get("arguments"):
            events += self._read_piece(self._by_index[index], piece)
        return events

    def _read_piece(self, call: _Call, piece: str) -> list[Event]:
        start = self._enter(piece)
        if call.over:
            return []
        call.pieces.append(piece)
        try:
            call.body.scanner.feed(piece)
            events = call.body.events(self)
        except ScanFault as fault:
            return [*self._before_fault(call), self._malformed(call, str(fault), start + fault.at)]
        call.over = call.body.scanner.done
        return events

    def _before_fault(self, call: _Call) -> list[Event]:
        try:
            return call.body.events(self)
        except ScanFault:
            return []

    def _end(self, call: _Call) -> list[Event]:
        """Nothing more comes for a call: without any arguments they are empty."""
        if call.over:
            return []
        assert call.body.call is not None
        if not "".join(call.pieces).strip():
            call.over = True
            return [Sealed(call.body.call, {}, self._bytes)]
        return [self._malformed(call, "the text ended; expected the rest of the arguments", self._bytes)]

    def _malformed(self, call: _Call, why: str, offset: int) -> Malformed:
        call.over = True
        assert call.body.call is not None
        return Malformed(call.body.call, why, "".join(call.pieces), offset)

    def _enter(self, piece: str) -> int:
        """Count a piece; returns the bytes before it."""
        start = self._bytes
        self._piece = (start, piece)
        self._bytes += len(piece.encode("utf-8", "surrogatepass"))
        return start

    def _read_line(self, line: str) -> list[Event]:
        line = line.strip().removeprefix(_PREFIX).strip()
        if not line or line == _END:
            return []
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{line[:40]!r}: {error}; expected a delta as JSON") from error
        if not isinstance(found, dict):
            raise ValueError(f"{line[:40]!r}; expected a delta as a JSON object")
        choices = found.get("choices")
        return self.take(choices[0].get("delta", {}) if choices else found if choices is None else {})
