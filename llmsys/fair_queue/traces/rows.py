"""Rows of published traces: CSV with a header, JSON Lines, or a JSON array, each row with the place it came from.

Knows no column's meaning; asked for a value, it returns a checked one or raises BadInput at FILE:LINE.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import decode_record, read_lines
from llmsys.errors import BadInput

__all__ = ["Row", "csv_rows", "json_rows", "jsonl_rows"]


@dataclass(slots=True, frozen=True)
class Row:
    """Named values and where they stand."""

    where: str
    values: Mapping[str, object]

    def text(self, key: str) -> str:
        """The value of a column as text. Raises BadInput if there is no such column."""
        value = self.values.get(key)
        if value is None:
            raise BadInput(self.where, f"no column {key!r}", f"one of {', '.join(map(str, self.values))}")
        return str(value)

    def number(self, key: str) -> float:
        """The value of a column as a finite number of at least 0."""
        given = self.text(key)
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise BadInput(self.where, f"{key} is {given!r}", "a number of at least 0")
        return value

    def count(self, key: str) -> int:
        """The value of a column as a whole number of at least 0."""
        value = self.number(key)
        if value != int(value):
            raise BadInput(self.where, f"{key} is {value}", "a whole number")
        return int(value)


def _place(source: str | Path, number: int) -> str:
    return f"{'<stdin>' if source == '-' else source}:{number}"


def csv_rows(source: str | Path) -> Iterator[Row]:
    """Rows of a CSV file with a header; a byte order mark and a missing last newline are accepted."""
    header: list[str] | None = None
    for number, line in read_lines(source):
        if not line.strip():
            continue
        where = _place(source, number)
        try:
            cells = next(csv.reader([line.decode()]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadInput(where, str(error), "a line of comma-separated UTF-8 text") from error
        if header is None:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            raise BadInput(where, f"{len(cells)} columns", f"{len(header)} columns: {', '.join(header)}")
        else:
            yield Row(where, dict(zip(header, cells, strict=True)))


def jsonl_rows(source: str | Path) -> Iterator[Row]:
    """Rows of a file with one JSON object per line."""
    decoder = msgspec.json.Decoder(dict[str, object])
    for number, line in read_lines(source):
        if line.strip():
            where = _place(source, number)
            values = decode_record(line, decoder, where)
            yield Row(where, values)


def json_rows(source: str | Path) -> Iterator[Row]:
    """Rows of a file that is one JSON array of objects; a place is FILE[index]."""
    text = b"\n".join(line for _, line in read_lines(source))
    name = "<stdin>" if source == "-" else str(source)
    rows = decode_record(text, msgspec.json.Decoder(list[dict[str, object]]), name)
    for index, values in enumerate(rows):
        yield Row(f"{name}[{index}]", values)
