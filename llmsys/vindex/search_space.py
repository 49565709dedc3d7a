"""What a search reads of an index beside one tenant's run: a set of arrays that no later change touches.

Taken under the index's guard in constant time; from then on a search needs no lock. Knows no tenants.
"""

from dataclasses import dataclass

from llmsys.vindex.arrays import F32, I64
from llmsys.vindex.codes import Bytes

__all__ = ["SearchSpace"]


@dataclass(frozen=True, slots=True, eq=False)
class SearchSpace:
    """Vectors [cap, d], their coded rows [cap, s], what orders ties [cap], coded centroids of the nodes [nodes, s]."""

    metric: str
    mean: F32
    vectors: F32
    rows: Bytes
    order: I64
    nodes: Bytes
