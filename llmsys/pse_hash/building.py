"""From files to a sketch on disk: vectors, ids, weights, a bandwidth rule. Knows no option."""

from pathlib import Path

import numpy as np

from llmsys.artifacts import VectorSet, read_lines, read_npy, read_vectors
from llmsys.errors import BadInput, LlmsysError
from llmsys.pse_hash.arrays import F64, Numbers
from llmsys.pse_hash.bandwidth import bandwidth_of

__all__ = ["chosen_scale", "read_ids", "read_points", "read_weights", "refuse_over"]

OVERHEAD = 4


def read_points(source: str) -> VectorSet:
    """The vectors of a file or stdin. Raises BadInput at the row or line at fault."""
    return read_vectors(source)


def read_ids(path: Path | None, read: VectorSet, where: str) -> list[str]:
    """Ids from a `.npy` or a file of lines, from the vectors' own lines, or row numbers. Raises BadInput."""
    if path is None:
        return [str(one) for one in (range(len(read.values)) if read.ids is None else read.ids)]
    ids = (
        [str(one) for one in read_npy(path).tolist()]
        if path.suffix == ".npy"
        else [line.decode("utf-8", "replace") for _, line in read_lines(path) if line.strip()]
    )
    if len(ids) != len(read.values):
        raise BadInput(str(path), f"{len(ids)} ids for the {len(read.values)} vectors of {where}", "one for each")
    return ids


def read_weights(path: Path | None, count: int) -> F64 | None:
    """Weights from a `.npy` or one per line. Raises BadInput for another count and for what is no weight."""
    if path is None:
        return None
    try:
        found: Numbers = (
            read_npy(path)
            if path.suffix == ".npy"
            else np.array([float(line) for _, line in read_lines(path) if line.strip()])
        )
    except ValueError as error:
        raise BadInput(str(path), str(error), "one number per line") from error
    weights = np.asarray(found, np.float64)
    if weights.shape != (count,) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise BadInput(str(path), f"shape {list(weights.shape)}, or a negative number", f"{count} numbers >= 0")
    return weights


def chosen_scale(kernel: str, bandwidth: str, scale: float | None, values: Numbers) -> float:
    """The kernel's parameter: `scale` for dot, else the bandwidth of the rule. Raises UsageFault."""
    if kernel == "dot":
        return 1 / np.sqrt(max(1, values.shape[1])) if scale is None else scale
    return bandwidth_of(bandwidth, values, kernel)


def refuse_over(max_memory: int, values: Numbers) -> None:
    """Raise LlmsysError if building would take over `max_memory` bytes: float64 and float32 copies and ids."""
    wanted = values.shape[0] * (values.shape[1] * 8 * OVERHEAD + 256)
    if wanted > max_memory:
        raise LlmsysError(f"building takes about {wanted >> 20} MiB, over the {max_memory >> 20} MiB of --max-memory")
