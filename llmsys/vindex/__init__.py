"""One vector index for many tenants: one copy of each vector, a clustering tree of its own for each tenant."""

from llmsys.vindex.cluster_tree import TreeShape
from llmsys.vindex.faults import Corrupt, Locked, NotFound
from llmsys.vindex.index import Index
from llmsys.vindex.scan import Effort
from llmsys.vindex.search import Hits

__all__ = ["Corrupt", "Effort", "Hits", "Index", "Locked", "NotFound", "TreeShape"]
