"""`sqlite`: queries of one database that can only read, each statement as it is written.

Writing statements are refused by the database itself, opened read-only. Knows nothing of other databases: ATTACH is
refused too.
"""

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsys.errors import Unavailable
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Unit
from llmsys.tool_serve.results import OUTPUT_BYTES, ToolResult
from llmsys.tool_serve.tools import CallContext, Fed, Partial, PartialTool, Tool

__all__ = ["sqlite_tool"]

PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"sql": {"type": "string", "description": "One or more SELECT statements"}},
    "required": ["sql"],
    "additionalProperties": False,
}
READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
MAX_VALUE_BYTES = 2**20


def sqlite_tool(path: Path) -> Tool:
    """The tool for a database. Raises Unavailable if there is none at the path."""
    if not path.is_file():
        raise Unavailable(f"no database {path}", "name a file that sqlite3 wrote")
    return Tool(
        name="sqlite",
        description=f"Query the SQLite database {path.stem}; rows come as lines of values parted by |.",
        parameters=PARAMETERS,
        make=lambda: _Sqlite(path),
        effect=Effect.PURE,
        partial=Partial.parse("sql:sql"),
        resource=f"sqlite:{path.resolve()}",
    )


class _Sqlite(PartialTool):
    """One connection; its steps are plain functions, so each runs in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lines: list[str] = []
        self._bytes = 0
        self._ran = 0
        self._using = threading.Lock()

    def begin(self, ctx: CallContext) -> None:
        uri = f"{self._path.resolve().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._connection.set_authorizer(_authorize)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # reads the schema

    def feed(self, event: Fed) -> None:
        if isinstance(event, Unit):
            self._run(event.text)

    def finish(self, args: dict[str, Any]) -> ToolResult:
        self._run(args["sql"][self._ran :])
        return ToolResult("".join(self._lines))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()  # a query of a call that was cancelled may still run in its thread
            with self._using:
                self._connection.close()

    def _run(self, text: str) -> None:
        assert self._connection is not None
        self._ran += len(text)
        with self._using:
            for statement in _statements(text):
                cursor = self._connection.execute(statement)
                for row in cursor:
                    if self._bytes > OUTPUT_BYTES:
                        self._lines.append("[... more rows ...]\n")
                        break
                    line = "|".join("" if value is None else str(value) for value in row) + "\n"
                    self._bytes += len(line)
                    self._lines.append(line)


def _statements(text: str) -> list[str]:
    """The statements of a text, parted where sqlite says that one is complete."""
    found, start = [], 0
    for end, char in enumerate(text, 1):
        if char == ";" and sqlite3.complete_statement(text[start:end]):
            found.append(text[start:end])
            start = end
    return [one for one in [*found, text[start:]] if one.strip()]


def _authorize(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY
