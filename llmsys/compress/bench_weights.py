"""Rate against error: every codec and peer on every matrix at every rate, and how far the target is.

The target: the gap of `tq` at least 0.3 dB under NNC's with dependent quantisation and 1.0 dB under the best video
engine's, on every matrix and at every rate. Gaps make neighbouring rates comparable; see `sweeping.gap_db`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bench_peers import FIXED_RATE, Peer, Trial
from llmsys.compress.sweeping import gap_db
from llmsys.errors import Unavailable

__all__ = ["MethodMean", "RateRow", "TargetRow", "means_of", "rate_rows", "rate_targets"]

VIDEO = ("svtav1", "x265", "x264")
MARGINS = {"nnc dq": 0.3, "video": 1.0}


class RateRow(msgspec.Struct, frozen=True):
    """One matrix through one codec; MB/s are of bfloat16 values, search of the rate included for ours and video."""

    tensor: str
    method: str
    target_bits: float
    bits: float
    nmse: float
    gap_db: float
    encode_mb_s: float
    decode_mb_s: float


class MethodMean(msgspec.Struct, frozen=True):
    """A method at a rate over all matrices: mean and worst gap, mean bits, median speeds."""

    method: str
    target_bits: float
    matrices: int
    bits: float
    gap_db: float
    worst_gap_db: float
    encode_mb_s: float
    decode_mb_s: float


class TargetRow(msgspec.Struct, frozen=True):
    """What was to be reached, the worst figure of all matrices and rates, and whether it holds."""

    target: str
    worst_db: float
    wanted_db: float
    reached: bool


def rate_rows(
    work: Iterable[tuple[str, NDArray[np.float32]]], rates: Sequence[float], peers: Mapping[str, Peer]
) -> Iterator[RateRow | str]:
    """A row per matrix, peer and rate; a peer that is not installed gives its remedy once, as text."""
    missing: set[str] = set()
    for name, matrix in work:
        for method, peer in peers.items():
            for rate in rates[:1] if method in FIXED_RATE else rates:
                if method in missing:
                    continue
                try:
                    yield _row(name, matrix, method, rate, peer(matrix, rate))
                except Unavailable as error:
                    missing.add(method)
                    yield str(error)


def _row(name: str, matrix: NDArray[np.float32], method: str, rate: float, trial: Trial) -> RateRow:
    error = (trial.values.astype(np.float64) - matrix) ** 2
    nmse = float(error.mean() / matrix.astype(np.float64).var())
    megabytes = 2 * matrix.size / 1e6
    return RateRow(
        tensor=name,
        method=method,
        target_bits=rate,
        bits=trial.bits,
        nmse=nmse,
        gap_db=gap_db(nmse, trial.bits),
        encode_mb_s=megabytes / max(1e-9, trial.encode_s),
        decode_mb_s=megabytes / max(1e-9, trial.decode_s),
    )


def means_of(rows: Sequence[RateRow]) -> list[MethodMean]:
    """One row per method and rate, methods in order of appearance."""
    groups: dict[tuple[str, float], list[RateRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.target_bits), []).append(row)
    return [
        MethodMean(
            method=method,
            target_bits=rate,
            matrices=len(group),
            bits=float(np.mean([row.bits for row in group])),
            gap_db=float(np.mean([row.gap_db for row in group])),
            worst_gap_db=max(row.gap_db for row in group),
            encode_mb_s=float(np.median([row.encode_mb_s for row in group])),
            decode_mb_s=float(np.median([row.decode_mb_s for row in group])),
        )
        for (method, rate), group in groups.items()
    ]


def rate_targets(rows: Sequence[RateRow]) -> list[TargetRow]:
    """The two targets, by the matrix and rate where `tq` with 8 states is least ahead; none without its peers."""
    gaps = {(row.tensor, row.target_bits, row.method): row.gap_db for row in rows}
    leads: dict[str, list[float]] = {"nnc dq": [], "video": []}
    for (tensor, rate, method), ours in gaps.items():
        if method != "tq trellis 8":
            continue
        if (tensor, rate, "nnc dq") in gaps:
            leads["nnc dq"].append(gaps[tensor, rate, "nnc dq"] - ours)
        video = [gaps[tensor, rate, codec] for codec in VIDEO if (tensor, rate, codec) in gaps]
        if video:
            leads["video"].append(min(video) - ours)
    return [
        TargetRow(f"ahead of {peer} on every matrix", min(found), MARGINS[peer], min(found) >= MARGINS[peer])
        for peer, found in leads.items()
        if found
    ]
