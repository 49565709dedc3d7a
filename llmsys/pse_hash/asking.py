"""Queries in, answer records out, a batch at a time or line by line; the sketch is opened again when it moves on disk.

Knows no option and no estimator.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from llmsys.artifacts import read_queries, read_records
from llmsys.errors import BadInput
from llmsys.pse_hash.estimates import Estimates
from llmsys.pse_hash.faults import BudgetExhausted
from llmsys.pse_hash.files import Opened, lock, open_sketch, spend
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = ["Asker", "Form", "answer"]


@dataclass(frozen=True, slots=True)
class Form:
    """How answers look: sums in place of means, natural logarithms in place of values."""

    sums: bool = False
    logs: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    id: int | str
    x: "np.ndarray[tuple[int], np.dtype[Any]]"
    without: str | None = None


class _Line(msgspec.Struct, frozen=True):
    id: int | str | None = None
    x: tuple[float, ...] | None = None
    vector: tuple[float, ...] | None = None


class Asker:
    """Asks a sketch on disk at its last durable state, with one seed for the run."""

    def __init__(
        self,
        path: Path,
        *,
        seed: int | None,
        explain: Callable[[str], None] | None = None,
        **how: Any,  # noqa: ANN401
    ) -> None:
        """`how` are the keyword arguments of `PairwiseSum.query`; without `seed` coins come from the system.

        Modes with persistent secrets keep the seed of the sketch: their copies are what it was built with.
        """
        self._path, self._how, self._seed, self._asked, self._explain = path, how, seed, 0, explain
        self._drawn = int(np.random.SeedSequence().generate_state(1)[0])
        self._opened = self._open()

    @property
    def sketch(self) -> PairwiseSum:
        """The sketch as of the last look."""
        return self._opened.sketch

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished update at the end of the log."""
        return self._opened.torn_bytes

    def ask(self, values: "np.ndarray[Any, np.dtype[Any]]", leave_out: Sequence[str | None] | None) -> Estimates:
        """Answer queries [q, d] at the sketch's last durable state. Raises as `PairwiseSum.query` does."""
        if self._opened.moved():
            self._opened = self._open()
        sketch = self.sketch
        if self._explain is not None:
            self._explain(sketch.explain(values, ci=str(self._how.get("ci", "rigorous"))).text())
        if sketch.settings.robust == "dp":
            return self._ask_privately(values, leave_out)
        sketch.asked = self._asked
        self._asked += len(values)
        return sketch.query(values, leave_out=leave_out, **self._how)

    def _ask_privately(
        self, values: "np.ndarray[Any, np.dtype[Any]]", leave_out: Sequence[str | None] | None
    ) -> Estimates:
        """Count the answers on disk before they are given, so that no second process gives them again."""
        held = lock(self._path)
        try:
            opened = self._opened = self._open()
            left = opened.sketch.settings.max_queries - opened.sketch.asked
            if left < len(values):
                raise BudgetExhausted(
                    f"{self._path}: {max(left, 0)} of {opened.sketch.settings.max_queries} private answers are left, "
                    f"{len(values)} asked for; build anew with more --max-queries"
                )
            spend(self._path, opened.sketch.asked + len(values))
        finally:
            os.close(held)
        return opened.sketch.query(values, leave_out=leave_out, **self._how)

    def _open(self) -> Opened:
        opened = open_sketch(self._path)
        settings = opened.sketch.settings
        if settings.robust == "fresh":
            seed = self._drawn if self._seed is None else self._seed
            opened.sketch.settings = msgspec.structs.replace(settings, seed=seed)
        return opened


def answer(
    asker: Asker,
    source: str,
    *,
    form: Form,
    batch: int,
    loo: str | None,
    on_error: str,
    on_skip: Callable[[BadInput], None],
) -> Iterator[dict[str, object]]:
    """Yield one record per query, in the order of the input; `loo` names the field with the id to leave out."""
    questions = _lines(asker, source, loo, on_error, on_skip) if _is_stream(source) else _rows(asker, source)
    waiting: list[_Question] = []
    for question in questions:
        waiting.append(question)
        if len(waiting) == batch:
            yield from _records(asker, waiting, form, loo)
            waiting = []
    yield from _records(asker, waiting, form, loo)


def _records(asker: Asker, questions: list[_Question], form: Form, loo: str | None) -> Iterator[dict[str, object]]:
    if not questions:
        return
    leave_out = None if loo is None else [one.without for one in questions]
    found = asker.ask(np.stack([one.x for one in questions]), leave_out)
    if form.sums:
        extra = np.log(np.maximum(found.count, 1))
        logs = {name: getattr(found, name) + extra for name in ("log_value", "log_low", "log_high")}
        found = replace(found, **logs)
    ends = (found.log_value, found.log_low, found.log_high) if form.logs else (found.value, found.lo, found.hi)
    value, low, high = (column.tolist() for column in ends)
    for at, question in enumerate(questions):
        yield {
            "id": str(question.id),
            "value": value[at],
            "lo": low[at],
            "hi": high[at],
            "ci": found.intervals[at],
            "below_tau": bool(found.below_tau[at]),
            "evals": int(found.evals[at]),
            "method": found.methods[at],
            "n": int(found.count[at]),
        }


def _is_stream(source: str) -> bool:
    return source == "-" or source.removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".ndjson"))


def _rows(asker: Asker, source: str) -> Iterator[_Question]:
    for one in read_queries(source, dim=asker.sketch.points.dim):
        yield _Question(one.id, one.vector)


def _lines(
    asker: Asker, source: str, loo: str | None, on_error: str, on_skip: Callable[[BadInput], None]
) -> Iterator[_Question]:
    """The questions of JSON Lines, each yielded before the next line is read."""
    dim = asker.sketch.points.dim
    decode = msgspec.json.Decoder(_Line).decode

    def fault_of(raw: msgspec.Raw) -> tuple[str, str] | None:
        try:
            return _fault(_question(raw, decode, 0, loo), dim, asker, loo)
        except msgspec.ValidationError as error:
            return str(error), '{"id","x"}'

    for number, raw in enumerate(read_records(source, msgspec.Raw, on_error=on_error, on_skip=on_skip, check=fault_of)):
        yield _question(raw, decode, number, loo)


def _question(raw: msgspec.Raw, decode: Callable[[msgspec.Raw], _Line], number: int, loo: str | None) -> _Question:
    line = decode(raw)
    without = None
    if loo is not None:
        named = msgspec.json.decode(raw).get(loo)
        without = None if named is None else str(named)
    x = np.asarray(line.x if line.x is not None else line.vector or (), np.float64)
    return _Question(number if line.id is None else line.id, x, without)


def _fault(question: _Question, dim: int, asker: Asker, loo: str | None) -> tuple[str, str] | None:
    if len(question.x) != dim:
        return f"a vector `x` of {len(question.x)} numbers", f"{dim}"
    if not np.isfinite(question.x).all():
        return "NaN or infinity", "finite numbers"
    if question.without is not None and question.without not in asker.sketch.points.slot_of:
        return f"`{loo}` {question.without!r} of no live point", "the id of a live point"
    return None
