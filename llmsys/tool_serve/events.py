"""What a model's text turns into while it is written: calls that open, values that complete, calls that are sealed.

Every event carries `offset`, the bytes of the text read when it was complete. Knows no format and no tool.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

__all__ = ["CallOpen", "Event", "Malformed", "Parser", "Passage", "Path", "Sealed", "Text", "Unit", "Value"]

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the arguments' root: `("code",)`, `("points", 0, "x")`; `()` is the arguments themselves."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Text outside of calls, unchanged and in order."""

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class CallOpen:
    """A call whose tool is named; `call` counts from 0 within the turn, `id` is the backend's or `call_N`."""

    call: int
    id: str
    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Value:
    """A complete scalar, array or object at a path."""

    call: int
    path: Path
    value: Any
    offset: int


@dataclass(frozen=True, slots=True)
class Text:
    """Decoded characters of a string that is still being written; never half of a surrogate pair."""

    call: int
    path: Path
    delta: str
    offset: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a string that can be worked on: `kind` is statement, line, sql, csv-row or url."""

    call: int
    path: Path
    kind: str
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A call that is complete; `args` is what its events add up to."""

    call: int
    args: Mapping[str, Any]
    offset: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A call that cannot become valid: `why` says what was found and what was expected; `raw` is its text so far."""

    call: int
    why: str
    raw: str
    offset: int


Event: TypeAlias = Passage | CallOpen | Value | Text | Unit | Sealed | Malformed


class Parser(Protocol):
    """A turn's text in, in pieces of any size; its events out. `close` ends the turn: what is open is Malformed."""

    def feed(self, text: str) -> list[Event]:
        """Read some more characters; the events they complete."""

    def close(self) -> list[Event]:
        """Say that nothing follows; the events of what was held back or is cut off."""
