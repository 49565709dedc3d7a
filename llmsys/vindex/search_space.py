"""What a search reads of an index beside one tenant's run: a set of arrays that no later change touches.

Taken under the index's guard in constant time; from then on a search needs no lock. Knows no tenants.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, I64, Stored
from llmsys.vindex.codes import Bytes

__all__ = ["SearchSpace", "read_only"]


@dataclass(frozen=True, slots=True, eq=False)
class SearchSpace:
    """Vectors [cap, d], their coded rows [cap, s], what orders ties [cap], coded centroids of the nodes [nodes, s].

    `frozen` is what the compiled loops take: mean, nodes and rows, both also as numbers, vectors as float32 or as the
    bits of float16 (the other has no rows), and order.
    """

    metric: str
    mean: F32
    vectors: Stored
    rows: Bytes
    order: I64
    nodes: Bytes
    frozen: tuple[NDArray[Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        coded = (self.nodes, self.nodes.view(np.float32), self.rows, self.rows.view(np.float32))
        none = np.zeros((0, self.vectors.shape[1]))
        half = self.vectors.dtype == np.float16
        whole = (
            (none.astype(np.float32), self.vectors.view(np.uint16)) if half else (self.vectors, none.astype(np.uint16))
        )
        parts = (self.mean, *coded, *whole, self.order)
        object.__setattr__(self, "frozen", tuple(read_only(one) for one in parts))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A plain read-only view: arrays of memory and of files are then one type, and the loops compile once."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
