"""The JSON of a call: arguments alone behind a name, or an object with both; what is scanned becomes the call's events.

Knows no markers.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from llmsys.tool_serve.events import CallOpen, Event, Path, Sealed, Text, Value
from llmsys.tool_serve.scanner import Found, JsonScanner, ScanFault

__all__ = ["Arguments", "Body", "Envelope", "Host"]

_ARGUMENTS = ("arguments", "parameters")


class Host(Protocol):
    """The reading that a body is part of: numbers of calls and places as offsets."""

    calls: int

    def offset(self, place: int) -> int:
        """Bytes of the turn before a place in the text."""


class Body(Protocol):
    """A JSON value that is, or holds, a call's arguments."""

    scanner: JsonScanner
    call: int | None

    def events(self, host: Host) -> list[Event]:
        """What the scanner has found since the last time. Raises ScanFault for JSON that is no call."""


class Arguments:
    """The arguments of a call whose name is known."""

    def __init__(self, call: int) -> None:
        self.scanner = JsonScanner()
        self.call: int | None = call

    def events(self, host: Host) -> list[Event]:
        """As the protocol says."""
        assert self.call is not None
        found, self.scanner.found = self.scanner.found, []
        told: list[Event] = []
        for path, value, is_piece, place in found:
            told += _told(self.call, path, value, is_piece=is_piece, offset=host.offset(place))
            if path == () and not is_piece:
                told.append(Sealed(self.call, _object(value, place), host.offset(place)))
        return told


class Envelope:
    """An object with `name` and `arguments` (or `parameters`) in any order; arguments may be JSON within a string.

    An object without a name is no call: `is_call` is False then, and nothing was told.
    """

    def __init__(self) -> None:
        self.scanner = JsonScanner()
        self.call: int | None = None
        self.is_call = True
        self._early: list[tuple[Path, Any, bool, int]] = []
        self._inner: JsonScanner | None = None

    def events(self, host: Host) -> list[Event]:
        """As the protocol says."""
        found, self.scanner.found = self.scanner.found, []
        return [event for one in found for event in self._read(one, host)]

    def _read(self, found: Found, host: Host) -> Iterator[Event]:
        path, value, is_piece, place = found
        offset = host.offset(place)
        if path == ("name",) and not is_piece and self.call is None and isinstance(value, str):
            self.call, host.calls = host.calls, host.calls + 1
            yield CallOpen(self.call, f"call_{self.call}", value, offset)
            for early in self._early:
                yield from _told(self.call, early[0], early[1], is_piece=early[2], offset=early[3])
        elif path[:1] and path[0] in _ARGUMENTS:
            for part in self._arguments(path[1:], value, is_piece, place):
                if self.call is None:
                    self._early.append((*part, offset))
                else:
                    yield from _told(self.call, part[0], part[1], is_piece=part[2], offset=offset)
        elif path == () and not is_piece:
            yield from self._seal(value, place, offset)

    def _arguments(self, path: Path, value: Any, is_piece: bool, place: int) -> Iterator[tuple[Path, Any, bool]]:  # noqa: ANN401
        """Parts of the arguments; those of a string are read as JSON themselves."""
        if path or not (is_piece or isinstance(value, str)):
            yield path, value, is_piece
            return
        if not is_piece:
            return
        self._inner = self._inner or JsonScanner()
        try:
            self._inner.feed(value)
        except ScanFault as fault:
            raise ScanFault(f"within the string of arguments: {fault}", place) from fault
        for inner in self._inner.found:
            yield inner[:3]
        self._inner.found.clear()

    def _seal(self, whole: Any, place: int, offset: int) -> Iterator[Event]:  # noqa: ANN401
        if self.call is None:
            self.is_call = False
            return
        given = next((whole[name] for name in _ARGUMENTS if name in whole), None)
        if self._inner is not None:
            if not self._inner.done:
                raise ScanFault("within the string of arguments: the text ended; expected the rest", place)
            given = self._inner.value
        yield Sealed(self.call, _object({} if given in (None, "") else given, place), offset)


def _told(call: int, path: Path, value: Any, *, is_piece: bool, offset: int) -> Iterator[Event]:  # noqa: ANN401
    if path or is_piece:  # the whole of the arguments is what Sealed says
        yield Text(call, path, value, offset) if is_piece else Value(call, path, value, offset)


def _object(value: Any, place: int) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ScanFault(f"arguments are {type(value).__name__}; expected an object", place)
    return value
