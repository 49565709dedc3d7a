"""The sum of gradients over groups that overlap at will, with the world group alone and in two exchanges.

Every segment (an expert's gradient, or all of what everyone holds) has its own holders. It is cut into one shard per
holder; the first exchange brings the shards to their owners, who add them in order of rank, the second returns the
sums: 2(|S|−1)/|S| of a segment's bytes per holder, the least there is. Every holder gets the same bits. Knows no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmsys.moe_train.train.coding import coded, decoded, exchange_blobs
from llmsys.moe_train.train.communicator import Communicator

__all__ = ["sum_segments"]


@dataclass(frozen=True, slots=True)
class _Segment:
    """One rank's gradient of a segment, and the place of every holder's shard."""

    part: Tensor
    places: dict[int, int]

    def size(self, rank: int) -> int:
        start, end = self._cut(rank)
        return end - start

    def shard(self, rank: int) -> Tensor:
        start, end = self._cut(rank)
        return self.part[start:end]

    def _cut(self, rank: int) -> tuple[int, int]:
        place, count = self.places[rank], len(self.places)
        return len(self.part) * place // count, len(self.part) * (place + 1) // count


def sum_segments(
    mine: Sequence[Tensor | None], holders: Sequence[Sequence[int]], comm: Communicator, *, codec: str = "none"
) -> list[Tensor]:
    """The sums of the segments that this rank holds, in their order.

    `mine[s]`: this rank's gradient of segment s, one-dimensional and of one type throughout, None where it is no
    holder; `holders[s]`: the ranks that hold it, ascending, the same on all ranks. `codec`: `tq[:BITS]` loses precision
    on the way; every holder still gets the same bits. Raises EpochChanged where a peer is
    lost, ValueError where a gradient and its holders disagree.
    """
    rank, peers = comm.rank, range(comm.size)
    if any((part is None) == (rank in group) for part, group in zip(mine, holders, strict=True)):
        raise ValueError("gradients and holders disagree; expected a gradient of every segment that this rank holds")
    held = [
        _Segment(part, {peer: place for place, peer in enumerate(group)})
        for part, group in zip(mine, holders, strict=True)
        if part is not None
    ]
    shared = [[segment for segment in held if peer in segment.places] for peer in peers]
    shards = _exchanged(
        [[segment.shard(peer) for segment in shared[peer]] for peer in peers],
        [[segment.size(rank) for segment in shared[peer]] for peer in peers],
        comm,
        codec,
    )
    sums = {id(segment): _added([next(shards[peer]) for peer in segment.places]) for segment in held}
    returned = _exchanged(
        [[sums[id(segment)] for segment in shared[peer]] for peer in peers],
        [[segment.size(peer) for segment in shared[peer]] for peer in peers],
        comm,
        codec,
    )
    return [torch.cat([next(returned[peer]) for peer in segment.places]) for segment in held]


def _exchanged(
    outgoing: list[list[Tensor]], sizes: list[list[int]], comm: Communicator, codec: str
) -> list[Iterator[Tensor]]:
    """The pieces that every peer sent, of the sizes expected of it, in order."""
    if codec != "none":
        return _exchanged_coded(outgoing, [len(row) for row in sizes], comm, codec)
    pieces = [piece for row in outgoing for piece in row]
    sent = torch.cat(pieces) if pieces else torch.zeros(0)
    received = comm.all_to_all_v(sent, [sum(map(len, row)) for row in outgoing], [sum(row) for row in sizes])
    by_peer = torch.split(received, [sum(row) for row in sizes])
    return [iter(torch.split(part, row)) for part, row in zip(by_peer, sizes, strict=True)]


def _exchanged_coded(
    outgoing: list[list[Tensor]], counts: list[int], comm: Communicator, codec: str
) -> list[Iterator[Tensor]]:
    """As `_exchanged`, but each piece as one blob, coded once whoever gets it: all decode the same."""
    unique = {id(piece): piece for row in outgoing for piece in row}
    blobs = {key: coded(piece, codec) for key, piece in unique.items()}
    came = exchange_blobs([[blobs[id(piece)] for piece in row] for row in outgoing], counts, comm)
    dtype = next((piece.dtype for piece in unique.values()), torch.float32)
    return [iter([decoded(blob, dtype) for blob in row]) for row in came]


def _added(parts: list[Tensor]) -> Tensor:
    """The sum in the order given, in float32 at least."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    total = parts[0].to(wide)
    for part in parts[1:]:
        total = total + part.to(wide)
    return total.to(parts[0].dtype)
