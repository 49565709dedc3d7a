"""Compressed gradients for DistributedDataParallel, with error feedback: what a message leaves out goes into the next.

    model.register_comm_hook(GradientState(model.named_parameters(), bits=1.5), ddp_hook)

Each rank codes m = gradient + error in as many shards as there are ranks and sends every shard to its owner; the owner
decodes and sums in float32, codes the sum, and all ranks take it. What coding lost, the owner's second coding included,
is that rank's error for the next step. Nothing is lost over time: the sums that were applied plus the errors that ranks
hold are the sums of all gradients, to float32 rounding. Knows no model; errors are kept by parameter, so that they
survive rebuilt buckets and go into checkpoints.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from llmsys.compress.blob import Blob, blob_of
from llmsys.compress.coded import Numbers, Target, in_memory
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.exact import constant_word
from llmsys.compress.number_formats import F32
from llmsys.compress.planning import PlanLine, check_bits
from llmsys.compress.tensor_encoder import encode_tq

if TYPE_CHECKING:
    from torch.nn import Parameter

__all__ = ["GradientState", "ddp_hook"]

LEAST_CODED = 64
STEP_RANGE = (2.0**-12, 8.0)


class GradientState:
    """Errors by parameter, the target rate, and what went over the wire.

    With `residual` every message carries a second coding of what the first one lost, as the paper's pipeline mode does.
    `bytes_sent` counts this rank's messages to others, `values` the gradient values they stand for. The rate is met on
    average: the step follows it from message to message.
    """

    def __init__(
        self,
        parameters: "Iterable[tuple[str, Parameter]]",
        *,
        bits: float = 1.5,
        residual: bool = False,
        trellis: int = 0,
        group: "dist.ProcessGroup | None" = None,
    ) -> None:
        self.bits = check_bits(bits)
        self.residual, self.trellis, self.group = residual, trellis, group
        self._names = {id(parameter): name for name, parameter in parameters}
        self.errors: dict[str, Tensor] = {}
        self._step_ratio = 2.0 ** (1.0 - bits)
        self.bytes_sent = self.values = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, so that training goes on as if it had not stopped."""
        return {"errors": {name: error.clone() for name, error in self.errors.items()}, "step_ratio": self._step_ratio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave. Raises ValueError for a parameter that is not there."""
        unknown = set(state["errors"]) - set(self._names.values())
        if unknown:
            raise ValueError(f"errors of {sorted(unknown)[0]!r}; expected parameters of this model")
        self.errors = {name: error.clone() for name, error in state["errors"].items()}
        self._step_ratio = float(state["step_ratio"])

    def pieces(self, bucket: Any) -> list[tuple[str, Tensor]]:  # noqa: ANN401
        """Names and gradients of a bucket, in the order of its buffer."""
        found = zip(bucket.parameters(), bucket.gradients(), strict=True)
        return [(self._names[id(parameter)], gradient) for parameter, gradient in found]

    def encode(self, values: F32) -> list[Blob]:
        """One message: a coding of the values, and with `residual` one of what that lost."""
        first = self._coded(values)
        blobs = [first]
        if self.residual:
            blobs.append(self._coded(values - _decoded(first)))
        if len(values) >= LEAST_CODED:
            excess = 8 * sum(map(len, blobs)) / len(values) / len(blobs) - self.bits
            ratio = self._step_ratio * 2.0 ** max(-1.0, min(1.0, excess))
            self._step_ratio = min(STEP_RANGE[1], max(STEP_RANGE[0], ratio))
        return blobs

    def _coded(self, values: F32) -> Blob:
        numbers: Numbers = in_memory(values, "gradient")
        size = float(np.sqrt(np.mean(values.astype(np.float64) ** 2))) if len(values) else 0.0
        if len(values) < LEAST_CODED or not np.isfinite(size) or constant_word(numbers) is not None:
            return blob_of(encode_tensor(numbers, PlanLine("gradient", "lossless" if len(values) else "raw"), Goal()))
        return blob_of(encode_tq(numbers, Target(step=size * self._step_ratio), trellis=self.trellis))


def ddp_hook(
    state: GradientState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # DDP compares this very annotation
) -> torch.futures.Future[Tensor]:
    """The mean of a bucket's gradients over the ranks, through compressed messages: a DDP communication hook."""
    pieces = state.pieces(bucket)
    for name, gradient in pieces:
        if name not in state.errors:
            state.errors[name] = torch.zeros(gradient.numel(), dtype=torch.float32)
    wanted = torch.cat([gradient.reshape(-1).float().cpu() + state.errors[name] for name, gradient in pieces])
    summed, error = _exchange(state, wanted)
    at = 0
    for name, gradient in pieces:
        state.errors[name] = error[at : at + gradient.numel()].clone()
        at += gradient.numel()
    buffer = bucket.buffer()
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result((summed / dist.get_world_size(state.group)).to(buffer.dtype).to(buffer.device))
    return future


def _exchange(state: GradientState, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over ranks as all of them take it, and what this rank's codings lost: both [n] float32."""
    world, rank = dist.get_world_size(state.group), dist.get_rank(state.group)
    shards = [shard.numpy() for shard in torch.tensor_split(wanted, world)]
    messages = [state.encode(shard) for shard in shards]
    sent = [_sum_of(message) for message in messages]
    error = torch.from_numpy(np.concatenate([a - b for a, b in zip(shards, sent, strict=True)]))
    packed = [_packed(message) for message in messages]
    received = _to_owners(packed, rank, state.group)
    total: F32 = np.asarray(np.sum([_sum_of(_unpacked(one)) for one in received], axis=0), np.float32)
    answer = state.encode(total)
    kept = _sum_of(answer)
    first = sum(len(shard) for shard in shards[:rank])
    error[first : first + len(total)] += torch.from_numpy(total - kept)
    answers = _gathered(_packed(answer), state.group)
    others = sum(len(one) for at, one in enumerate(packed) if at != rank)
    state.bytes_sent += others + (world - 1) * len(answers[rank])
    state.values += wanted.numel()
    return torch.from_numpy(np.concatenate([_sum_of(_unpacked(one)) for one in answers])), error


def _to_owners(packed: list[bytes], rank: int, group: "dist.ProcessGroup | None") -> list[bytes]:
    """Message i goes to rank i; what came from every rank, this one's own included."""
    lengths = torch.zeros(len(packed), len(packed), dtype=torch.int64)
    lengths[rank] = torch.tensor([len(one) for one in packed])
    dist.all_reduce(lengths, group=group)
    found = [torch.empty(int(lengths[source, rank]), dtype=torch.uint8) for source in range(len(packed))]
    work = []
    for other in range(len(packed)):
        if other == rank:
            found[rank] = _tensor(packed[rank])
            continue
        peer = other if group is None else dist.get_global_rank(group, other)
        work.append(dist.isend(_tensor(packed[other]), peer, group=group))
        work.append(dist.irecv(found[other], peer, group=group))
    for one in work:
        if one is not None:
            one.wait()
    return [one.numpy().tobytes() for one in found]


def _gathered(message: bytes, group: "dist.ProcessGroup | None") -> list[bytes]:
    """Every rank's message, on every rank."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    lengths = torch.zeros(world, dtype=torch.int64)
    lengths[rank] = len(message)
    dist.all_reduce(lengths, group=group)
    longest = int(lengths.max())
    padded = _tensor(message + bytes(longest - len(message)))
    found = [torch.empty(longest, dtype=torch.uint8) for _ in range(world)]
    dist.all_gather(found, padded, group=group)
    return [one.numpy().tobytes()[: int(length)] for one, length in zip(found, lengths, strict=True)]


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _packed(blobs: list[Blob]) -> bytes:
    """Blobs, each after its length."""
    return b"".join(len(blob).to_bytes(4, "little") + blob for blob in blobs)


def _unpacked(data: bytes) -> list[Blob]:
    blobs, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        blobs.append(Blob(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return blobs


def _sum_of(blobs: list[Blob]) -> F32:
    """The values of a message."""
    total = _decoded(blobs[0])
    for blob in blobs[1:]:
        total = total + _decoded(blob)
    return total


def _decoded(blob: Blob) -> F32:
    from llmsys.compress.codec import decode

    return np.asarray(decode(blob), np.float32)
