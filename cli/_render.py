"""What a person sees: tables, notes and progress, on stderr or on a terminal.

Knows no system's fields. Results for programs go through `_streams`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["be_quiet", "console", "note", "progress", "report", "table", "use_color"]

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_color: ContextVar[str] = ContextVar("color", default="auto")
PLAIN_WIDTH = 110


def be_quiet(wanted: bool) -> None:
    """Callback of --quiet: from here on, nothing on stderr but errors."""
    _quiet.set(wanted)


def use_color(when: str) -> None:
    """Callback of --color: auto asks the stream, NO_COLOR and TERM."""
    if when not in ("auto", "always", "never"):
        raise typer.BadParameter(f"{when!r} is not one of auto, always, never")
    _color.set(when)


def console(*, stderr: bool) -> "Console":
    """A rich console for one of the two streams; plain and PLAIN_WIDTH wide where that is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    forced = {"auto": None, "always": True, "never": False}[_color.get()]
    return Console(
        file=stream,
        force_terminal=forced,
        color_system="standard" if forced else "auto",
        no_color=None if forced is None else not forced,
        width=None if stream.isatty() else PLAIN_WIDTH,
        highlight=False,
        markup=False,  # "llmsys[gpu]" in a cell is text
        quiet=stderr and _quiet.get(),
    )


def note(text: str) -> None:
    """One line for a person on stderr; silent under --quiet."""
    if not _quiet.get():
        sys.stderr.write(text + "\n")


def table(rows: Sequence[Row], *, title: str | None = None, stderr: bool = False) -> None:
    """Print rows as one aligned table; columns are the keys of the first row, numbers to the right."""
    from rich import box
    from rich.table import Table

    if not rows:
        return
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        drawn.add_column(name, justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(name)) for name in rows[0]))
    console(stderr=stderr).print(drawn)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def report(summary: object, rows: Sequence[Row], *, title: str | None = None, json: bool) -> None:
    """Print a verb's summary: a table on a terminal; elsewhere `summary` as one JSON line, the table on stderr."""
    from llmsys.cli._streams import records_out

    if json or not sys.stdout.isatty():
        with records_out() as out:
            out.write(summary)
        if not json:
            table(rows, title=title, stderr=True)
        return
    table(rows, title=title)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Call the result with the units done: a bar with rate and time left on a terminal, a line every few
    seconds in a log, nothing under --quiet."""
    from llmsys.cli._progress import Bar, Lines

    drawn = sys.stderr.isatty() and not _quiet.get()
    advance = Bar(console(stderr=True), what, total) if drawn else Lines(what, total, silent=_quiet.get())
    try:
        yield advance
    finally:
        advance.close()
