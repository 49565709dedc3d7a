"""Calls in a model's text, found while it comes: what is no call goes on at once, as far as it can be no call's start.

What stands between the tags and is no call stays text, as it was written. Knows nothing of requests or events.
"""

from dataclasses import dataclass, field
from uuid import uuid4

import msgspec

from llmsys.artifacts import encode
from llmsys.engine.tool_prompt import CALL_BEGINS, CALL_ENDS

__all__ = ["Call", "ToolText"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its arguments are JSON in a string."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid4().hex[:24]}")

    def as_record(self) -> dict[str, object]:
        """The call as the API writes it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class _Written(msgspec.Struct):
    name: str
    arguments: dict[str, object] = {}


class ToolText:
    """The text of one answer. forced: all of it is one call's JSON, without tags. calls: those found so far."""

    def __init__(self, *, forced: bool) -> None:
        self.calls: list[Call] = []
        self._forced = forced
        self._held = ""

    def push(self, text: str) -> tuple[str, list[Call]]:
        """Take more of the text; what is certainly no call, and the calls that are complete."""
        self._held += text
        if self._forced:
            return "", []
        said = ""
        calls: list[Call] = []
        while True:
            before, begins, rest = self._held.partition(CALL_BEGINS)
            if not begins:
                keep = _possible_start(self._held)
                said += self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
                return said, self._found(calls)
            inside, ends, after = rest.partition(CALL_ENDS)
            if not ends:
                said, self._held = said + before, CALL_BEGINS + rest
                return said, self._found(calls)
            call = _call(inside)
            said += before if call else before + begins + inside + ends
            calls += [call] if call else []
            self._held = after

    def flush(self) -> tuple[str, list[Call]]:
        """The text is over: what was held back is a call whose end tag is missing, or text after all."""
        held, self._held = self._held, ""
        call = _call(held.removeprefix(CALL_BEGINS)) if self._forced or held.startswith(CALL_BEGINS) else None
        return ("", self._found([call])) if call else (held, [])

    def _found(self, calls: list[Call]) -> list[Call]:
        self.calls += calls
        return calls


def _call(text: str) -> Call | None:
    """The call that a text is, None for another text."""
    try:
        written = msgspec.json.decode(text.strip(), type=_Written)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return Call(written.name, encode(written.arguments).decode().strip())


def _possible_start(text: str) -> int:
    """Length of the longest end of the text that a tag begins with."""
    return next((n for n in range(min(len(CALL_BEGINS) - 1, len(text)), 0, -1) if CALL_BEGINS.startswith(text[-n:])), 0)
