"""Peers in faiss: a flat index per tenant (copies), and one IVF and one HNSW index under the tenant's bitmap.

All are called from Python, which costs each of them some microseconds per query. The bitmaps are made beforehand and
counted as memory.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from llmsys.gpu import require
from llmsys.vindex.arrays import I64
from llmsys.vindex.contender import Contender, Peer, Trial, each_built, one_by_one

__all__ = ["FAISS_PEERS"]

PROBES = (8, 32, 64, 128, 256)
SEARCH_WIDTHS = (64, 256, 1024)
LINKS = 16


def _flat(trial: Trial) -> Iterator[Contender]:
    """A flat index per tenant, with a copy of its vectors."""
    faiss, vectors = require("faiss"), trial.work.vectors

    def build(mine: I64) -> Any:  # noqa: ANN401
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors[mine])
        return index

    flat, build_s = each_built(trial, build)
    row_bytes = int(vectors.shape[1]) * vectors.itemsize

    def answer(number: int) -> I64:
        found = flat[trial.tenant(number)].search(trial.query(number), trial.k)[1][0]
        return np.where(found >= 0, trial.visible(number)[found], -1)

    def touched(numbers: Sequence[int]) -> float:
        return sum(len(trial.visible(number)) for number in numbers) / len(numbers) * row_bytes

    overhead = (trial.grants - len(vectors)) * row_bytes
    yield Contender("faiss flat per tenant", "", overhead, build_s, one_by_one(answer, trial.k), touched)


def _inverted(trial: Trial) -> Iterator[Contender]:
    """One IVF index, the tenant's bitmap as a selector."""
    faiss, (count, dim) = require("faiss"), trial.work.vectors.shape
    lists = max(1, min(512, count // 64))
    start = time.perf_counter()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(trial.work.vectors)
    index.add(trial.work.vectors)
    build_s = time.perf_counter() - start
    for probes in sorted({min(lists, number) for number in PROBES}):
        chosen = partial(_probing, probes)
        answer, bitmaps = _selected(trial, index, chosen)
        overhead = 8 * count + 4 * lists * dim + bitmaps
        yield Contender("faiss IVF + bitmap", f"nprobe {probes}", overhead, build_s, one_by_one(answer, trial.k))


def _graph(trial: Trial) -> Iterator[Contender]:
    """One HNSW graph, the tenant's bitmap as a selector."""
    faiss, (count, dim) = require("faiss"), trial.work.vectors.shape
    start = time.perf_counter()
    index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(trial.work.vectors)
    build_s = time.perf_counter() - start
    for width in SEARCH_WIDTHS:
        answer, bitmaps = _selected(trial, index, partial(_walking, width))
        overhead = 4 * 2 * LINKS * count + bitmaps
        yield Contender("faiss HNSW + bitmap", f"ef {width}", overhead, build_s, one_by_one(answer, trial.k))


def _probing(probes: int, selector: object) -> object:
    return require("faiss").SearchParametersIVF(sel=selector, nprobe=probes)


def _walking(width: int, selector: object) -> object:
    return require("faiss").SearchParametersHNSW(sel=selector, efSearch=width)


def _selected(
    trial: Trial,
    index: Any,  # noqa: ANN401
    parameters: Callable[[object], object],
) -> tuple[Callable[[int], I64], int]:
    """What answers a query of a shared index under its tenant's bitmap, and the bytes of all bitmaps."""
    faiss, count = require("faiss"), len(trial.work.vectors)
    bitmaps, selectors = {}, {}
    for number in range(len(trial.asked)):
        name = trial.tenant(number)
        if name in bitmaps:
            continue
        mask = np.zeros(count, np.bool_)
        mask[trial.visible(number)] = True
        bitmaps[name] = np.packbits(mask, bitorder="little")
        selectors[name] = parameters(faiss.IDSelectorBitmap(bitmaps[name]))

    def answer(number: int) -> I64:
        assert bitmaps, "selectors point into the bitmaps: they live as long as the answers"
        chosen = selectors[trial.tenant(number)]
        found: I64 = index.search(trial.query(number), trial.k, params=chosen)[1][0]
        return found

    return answer, len(trial.rows) * -(-count // 8)


FAISS_PEERS = (
    Peer("faiss flat per tenant", "faiss", _flat),
    Peer("faiss IVF + bitmap", "faiss", _inverted),
    Peer("faiss HNSW + bitmap", "faiss", _graph),
)
