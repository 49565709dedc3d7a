"""A bench from files and options to rows of a table. Knows no estimator."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np

from llmsys.errors import BadInput, UsageFault
from llmsys.pse_hash.bench import PseBench, run_bench
from llmsys.pse_hash.building import read_points

__all__ = ["bench_rows", "run_on_files"]

Cell = str | int | float | bool | None


def run_on_files(
    data: str, queries: str, *, sizes: str, batches: str, bandwidth: str, on_row: Callable[[int], None]
) -> PseBench:
    """Read points and queries, and measure. Raises BadInput, and UsageFault for sizes or batches that are no counts."""
    points, asked = read_points(data).values, read_points(queries).values
    if points.ndim != 2 or not len(points) or not len(asked) or asked.shape[1:] != points.shape[1:]:
        raise BadInput(queries, f"shape {list(asked.shape)}", f"[n, {points.shape[-1]}], as {data} has them")
    return run_bench(
        np.asarray(points),
        np.asarray(asked),
        sizes=_counts("--sizes", sizes),
        batches=_counts("--batches", batches),
        bandwidth=bandwidth,
        on_row=on_row,
    )


def bench_rows(found: PseBench) -> list[Mapping[str, Cell]]:
    """The rows of a table, and under them the updates per second."""
    rows: list[Mapping[str, Cell]] = [asdict(row) for row in found.rows]
    empty = dict.fromkeys(rows[0], None) if rows else {}
    return rows + [empty | {"method": f"{name}: {rate:,.0f} updates/s"} for name, rate in found.updates_s.items()]


def _counts(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageFault(f"{option} {text!r}; expected counts of at least 1, comma-separated")
    return tuple(map(int, parts))
