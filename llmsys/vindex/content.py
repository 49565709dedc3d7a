"""What an index holds, as it goes to and from the files of other stores. Knows no form and no index."""

from collections.abc import Iterator
from dataclasses import dataclass

from llmsys.vindex.arrays import F32
from llmsys.vindex.slot_store import Id

__all__ = ["Content"]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What an index holds: vectors [n, d], ids, who may see each, and the metric (None: the files do not say)."""

    vectors: F32
    ids: list[Id]
    tenants: list[list[str]]
    metric: str | None

    def rows(self) -> Iterator[tuple[Id, F32, list[str]]]:
        """Vector by vector."""
        return zip(self.ids, self.vectors, self.tenants, strict=True)
