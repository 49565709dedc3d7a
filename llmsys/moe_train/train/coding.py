"""Tensors in flight as blobs of the tensor codec: expert states without loss, gradients with as few bits as asked for.

A blob's length is the sender's to know, so lengths travel first. Knows no plan and no gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llmsys.errors import UsageFault
from llmsys.moe_train.train.communicator import Communicator

__all__ = ["check_grad_codec", "coded", "decoded", "exchange_blobs", "warm_up"]


def check_grad_codec(name: str) -> None:
    """Raises UsageFault unless `name` is none, tq or tq:BITS."""
    bits = _bits(name)
    if name != "none" and not 0.5 <= bits <= 16.0:
        raise UsageFault(f"--grad-codec {name!r}; expected none, tq or tq:BITS with 0.5 to 16 bits a number")


def coded(values: Tensor, codec: str) -> bytes:
    """The blob of a vector under `lossless` or `tq[:BITS]`; one too small for that rate loses nothing either."""
    from llmsys.compress.codec import TargetUnreachable, TensorCodec

    if not len(values):
        return b""
    exact = TensorCodec("lossless")
    if codec == "lossless":
        return bytes(exact.encode(values.contiguous()))
    try:
        return bytes(TensorCodec(bits=_bits(codec)).encode(values.contiguous()))
    except TargetUnreachable:
        return bytes(exact.encode(values.contiguous()))


def decoded(blob: bytes, dtype: torch.dtype) -> Tensor:
    """The vector of a blob."""
    from llmsys.compress.codec import decode

    return torch.from_numpy(decode(blob)).to(dtype) if blob else torch.zeros(0, dtype=dtype)


def warm_up(*codecs: str) -> None:
    """Load and compile what these codecs need: seconds, to be spent before a worker says that it is there."""
    for codec in set(codecs) - {"none"}:
        decoded(coded(torch.linspace(-1.0, 1.0, 256), codec), torch.float32)


def exchange_blobs(
    outgoing: Sequence[Sequence[bytes]], expected: Sequence[int], comm: Communicator
) -> list[list[bytes]]:
    """Send `outgoing[j]` to rank j; returns what came, `expected[j]` blobs of rank j, in order.

    Raises EpochChanged where a peer is lost.
    """
    lengths = torch.tensor([len(blob) for row in outgoing for blob in row], dtype=torch.int64)
    coming = comm.all_to_all_v(lengths, [len(row) for row in outgoing], list(expected))
    sizes = [part.tolist() for part in torch.split(coming, list(expected))]
    whole = bytearray(b"".join(blob for row in outgoing for blob in row))
    sent = torch.frombuffer(whole, dtype=torch.uint8) if whole else torch.zeros(0, dtype=torch.uint8)
    found = comm.all_to_all_v(sent, [sum(map(len, row)) for row in outgoing], [sum(row) for row in sizes])
    pieces = iter(torch.split(found, [size for row in sizes for size in row]))
    return [[next(pieces).numpy().tobytes() for _ in row] for row in sizes]


def _bits(name: str) -> float:
    kind, _, bits = name.partition(":")
    try:
        return float(bits or 4.0) if kind == "tq" else 0.0
    except ValueError:
        return 0.0
