"""Strings of arguments in parts that a tool can work on: statements, lines, SQL statements, the host of a URL.

`Units` stands between a parser and a turn: it adds Unit events behind the Text events of the argument that a tool has
declared. Knows no tool's work.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import Protocol

from llmsys.tool_serve.events import CallOpen, Event, Parser, Text, Unit, Value
from llmsys.tool_serve.statements import Statements
from llmsys.tool_serve.tools import Partial

__all__ = ["Lines", "SqlStatements", "Units", "UrlHost"]


class Splitter(Protocol):
    """Text in, the parts that it completes out."""

    def feed(self, text: str) -> list[str]:
        """Read some more characters."""


class Lines:
    """Whole lines, their ends included; the last one only if it ends."""

    def __init__(self) -> None:
        self._line: list[str] = []

    def feed(self, text: str) -> list[str]:
        """Read some more characters; the lines that they end."""
        *whole, rest = text.split("\n")
        found = [line + "\n" for line in whole]
        if found:
            found[0] = "".join(self._line) + found[0]
            self._line = []
        self._line.append(rest)
        return found


class SqlStatements:
    """SQL up to each semicolon at which sqlite calls a statement complete: none in strings, comments or triggers."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, text: str) -> list[str]:
        """Read some more characters; the statements that they complete."""
        found = []
        for part in re.split("(;)", text):
            self._pending += part
            if part == ";" and sqlite3.complete_statement(self._pending):
                found.append(self._pending)
                self._pending = ""
        return found


class UrlHost:
    """`scheme://host`, once what follows shows that the host is whole."""

    _HOST = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*://[^/?#\s]+)[/?#\s]")
    _MOST = 512

    def __init__(self) -> None:
        self._begun: str | None = ""

    def feed(self, text: str) -> list[str]:
        """Read some more characters; the host, once."""
        if self._begun is None:
            return []
        self._begun += text[: self._MOST]
        found = self._HOST.match(self._begun)
        if found is None and len(self._begun) < self._MOST:
            return []
        self._begun = None
        return [found[1]] if found is not None else []


SPLITTERS: dict[str, Callable[[], Splitter]] = {
    "statement": Statements,
    "line": Lines,
    "sql": SqlStatements,
    "url": UrlHost,
}


class Units:
    """A parser whose events hold the units of the tools' arguments too. partials: by tool, what each is fed."""

    def __init__(self, parser: Parser, partials: Mapping[str, Partial | None]) -> None:
        self._parser = parser
        self._partials = partials
        self._open: dict[int, tuple[Partial, Splitter]] = {}

    def feed(self, text: str) -> list[Event]:
        """As `Parser` says."""
        return self.split(self._parser.feed(text))

    def close(self) -> list[Event]:
        """As `Parser` says."""
        return self.split(self._parser.close())

    def split(self, events: list[Event]) -> list[Event]:
        """The events, and behind each Text the units that it completes."""
        found: list[Event] = []
        for event in events:
            found.append(event)
            if isinstance(event, CallOpen):
                partial = self._partials.get(event.name)
                if partial is not None and partial.kind in SPLITTERS:
                    self._open[event.call] = partial, SPLITTERS[partial.kind]()
            elif isinstance(event, Text):
                found += self._units(event)
            elif isinstance(event, Value) and event.call in self._open and event.path == self._open[event.call][0].path:
                del self._open[event.call]
        return found

    def _units(self, text: Text) -> list[Event]:
        partial, splitter = self._open.get(text.call, (None, None))
        if partial is None or splitter is None or text.path != partial.path:
            return []
        return [Unit(text.call, text.path, partial.kind, part, text.offset) for part in splitter.feed(text.delta)]
