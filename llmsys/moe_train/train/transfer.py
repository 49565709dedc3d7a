"""Expert states between workers: per mixture one exchange of whole state vectors. Knows no plan's making."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from llmsys.moe_train.train.coding import coded, decoded, exchange_blobs
from llmsys.moe_train.train.communicator import Communicator

__all__ = ["fetch_experts"]

Key = tuple[int, int]


def fetch_experts(
    moves: Iterable[tuple[int, int, int, int]],
    state_of: Callable[[int, int], Tensor],
    empty: Tensor,
    comm: Communicator,
    arrived: dict[Key, Tensor],
    *,
    codec: str = "none",
) -> None:
    """Do the moves (mixture, expert, source, target; workers by id) and add to `arrived` what this worker got.

    `state_of(mixture, expert)` [numbers] is asked for what this worker sends; `empty` [0, numbers] has its type. Every
    member calls it with the same moves. `codec`: `lossless` sends them coded. Raises EpochChanged; what
    arrived before stays.
    """
    ordered = sorted(moves)
    for mixture in sorted({move[0] for move in ordered}):
        mine = [move for move in ordered if move[0] == mixture]
        outgoing = [[m for m in mine if m[2] == comm.worker and m[3] == peer] for peer in comm.members]
        incoming = [[m for m in mine if m[3] == comm.worker and m[2] == peer] for peer in comm.members]
        sent = [state_of(mixture, expert) for row in outgoing for _, expert, _, _ in row]
        send, receive = [len(row) for row in outgoing], [len(row) for row in incoming]
        if codec == "none":
            found = list(comm.all_to_all_v(torch.stack(sent) if sent else empty, send, receive).unbind(0))
        else:
            blobs = iter([coded(state, codec) for state in sent])
            came = exchange_blobs([[next(blobs) for _ in range(count)] for count in send], receive, comm)
            found = [decoded(blob, empty.dtype) for row in came for blob in row]
        keys = [(mixture, expert) for row in incoming for _, expert, _, _ in row]
        arrived.update(zip(keys, found, strict=True))
