"""What a bench compares: one setting of one system, and the peers that are to be had. Measures nothing itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from llmsys.vindex.arrays import F32, I64
from llmsys.vindex.workload import Workload

__all__ = ["Contender", "Peer", "Trial", "each_built", "file_bytes", "names_of", "one_by_one", "padded"]

LABEL_QUERIES = 100

Built = TypeVar("Built")
Answers = Callable[[Sequence[int]], I64]


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One setting of one system: bytes beyond one copy of the vectors, seconds to build, and what answers queries.

    `answers` takes numbers of queries and returns rows [m, k], -1 for none. `touched` says the bytes that one query
    must read at least, on average, where that is known. A slow one is asked few queries.
    """

    system: str
    setting: str
    overhead_bytes: int
    build_s: float
    answers: Answers
    touched: Callable[[Sequence[int]], float] | None = None
    slow: bool = False


@dataclass(slots=True, eq=False)
class Trial:
    """A workload and what is asked of it: its own queries, then the first of them once more under each label.

    rows and labels: the rows that each tenant, and each label of a given size, sees. A query's number counts through
    both kinds; `groups` says which numbers belong together. k neighbours are asked for.
    """

    work: Workload
    k: int
    labels: dict[str, I64]
    rows: dict[str, I64] = field(init=False)
    asked: list[tuple[int, str]] = field(init=False)
    groups: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.work.rows_of()
        self.asked = list(enumerate(self.work.tenants))
        self.groups = {"own tenants": list(range(len(self.asked)))}
        for label in self.labels:
            first = len(self.asked)
            self.asked += [(query, label) for query in range(min(LABEL_QUERIES, len(self.work.queries)))]
            self.groups[label] = list(range(first, len(self.asked)))

    @property
    def grants(self) -> int:
        """Pairs of a vector and a tenant, without labels."""
        return sum(len(mine) for mine in self.rows.values())

    def query(self, number: int) -> F32:
        """The vector [1, d] of a query."""
        row = self.asked[number][0]
        return self.work.queries[row : row + 1]

    def tenant(self, number: int) -> str:
        """Whose query it is."""
        return self.asked[number][1]

    def visible(self, number: int) -> I64:
        """The rows that a query may see."""
        name = self.tenant(number)
        return self.labels[name] if name in self.labels else self.rows[name]


@dataclass(frozen=True, slots=True)
class Peer:
    """A system to compare with: the package that it needs, what it does, and the most grants that it is tried with."""

    name: str
    package: str
    contenders: Callable[[Trial], Iterator[Contender]]
    most_grants: int = 10**9


def names_of(trial: Trial) -> list[list[str]]:
    """The tenants and labels of each vector."""
    names = [list(mine) for mine in trial.work.access]
    for label, mine in trial.labels.items():
        for row in mine.tolist():
            names[row].append(label)
    return names


def file_bytes(place: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def one_by_one(answer: Callable[[int], I64], k: int) -> Answers:
    """Answers to queries that are asked in a call each, padded to k."""

    def answers(numbers: Sequence[int]) -> I64:
        return np.stack([padded(answer(number), k) for number in numbers])

    return answers


def padded(found: I64, k: int) -> I64:
    """Rows [k], -1 behind the found ones."""
    if len(found) == k:
        return found
    result = np.full(k, -1, np.int64)
    result[: len(found)] = found[:k]
    return result


def each_built(trial: Trial, build: Callable[[I64], Built]) -> tuple[dict[str, Built], float]:
    """A structure for every tenant and label, and the seconds that the tenants' took."""
    start = time.perf_counter()
    made = {name: build(mine) for name, mine in trial.rows.items()}
    build_s = time.perf_counter() - start
    return made | {name: build(mine) for name, mine in trial.labels.items()}, build_s
