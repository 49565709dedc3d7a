"""The door that other systems use: one tensor to a blob and back, compressed files opened lazily, models loaded.

    blob = TensorCodec(bits=3.0).encode(x)       numpy or torch, any float format, one dimension or more
    y = decode(blob)                             the same array on every machine
    with open("small") as f: f["name"]           one tensor, when it is asked for
    model = load_model("small")                  an engine's decoder; resident="compressed" decodes layers as they run

Decoding is exact on a CPU and needs no GPU; a tensor asked for on a GPU is decoded on the CPU and copied there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.blob import Blob, blob_of
from llmsys.compress.codecs import decode_all, decode_span
from llmsys.compress.coded import Numbers, Target, in_memory
from llmsys.compress.decoding import Archive
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.errors import BadBitstream, CodecError, EngineMissing, TargetUnreachable, UnsupportedValues
from llmsys.compress.number_formats import FORMATS, NumberFormat, Words, from_words
from llmsys.compress.planning import PlanLine, check_bits

if TYPE_CHECKING:
    from torch import Tensor

    from llmsys.engine.model import Decoder

__all__ = [
    "BadBitstream",
    "Blob",
    "CodecError",
    "CompressedTensors",
    "EngineMissing",
    "TargetUnreachable",
    "TensorCodec",
    "UnsupportedValues",
    "decode",
    "load_model",
    "open",
    "read_tensors",
]

TORCH_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}
TORCH_NAMES |= {"f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2"}
TORCH_NAMES |= {"bool": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"}


@dataclass(frozen=True, slots=True)
class TensorCodec:
    """How single tensors are coded: `tq` to `bits` per value (4 where no target is given), to `nmse` or with a `step`;
    or `lossless`.

    A rate counts the stream; a blob's record comes on top. Raises ValueError for more than one target.
    """

    codec: str = "tq"
    bits: float | None = None
    nmse: float | None = None
    step: float | None = None
    trellis: int = 8

    def __post_init__(self) -> None:
        targets = sum(one is not None for one in (self.bits, self.nmse, self.step))
        if targets > (self.codec == "tq"):
            raise ValueError(f"{targets} targets for codec {self.codec!r}; expected at most one, and only for tq")
        if self.bits is not None:
            check_bits(self.bits)

    def encode(self, x: "NDArray[Any] | Tensor") -> Blob:
        """Code an array. Raises TargetUnreachable, UnsupportedValues, ValueError for a dtype that is no number."""
        from llmsys.compress.tensor_encoder import encode_tq

        numbers = _numbers(x)
        values = numbers.layout.values
        if self.codec == "tq" and numbers.format.is_float and values > 1:
            bits = self.bits if self.bits is not None else 4.0
            size = Target(stored_bytes=int(bits * values / 8), slack_bytes=max(4, int(0.004 * values / 8)))
            rate = self.nmse is None and self.step is None
            target = size if rate else Target(nmse=self.nmse, step=self.step)
            return blob_of(encode_tq(numbers, target, trellis=self.trellis) if _varies(numbers) else _constant(numbers))
        exact = "lossless" if numbers.format.is_float and values else "raw"
        return blob_of(encode_tensor(numbers, PlanLine(numbers.name, exact), Goal()))


def decode(blob: Blob | bytes, *, rows: slice | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The array of a blob, or rows of it; bfloat16 and float8, which numpy lacks, as float32.

    `out`, where given, is filled and returned. Raises BadBitstream, and ValueError for an `out` that does not fit.
    """
    entry, data = Blob(bytes(blob)).parts()
    start, stop, shape = 0, entry.values, entry.shape
    if rows is not None:
        first, last, _ = rows.indices(entry.shape[0])
        inner = entry.values // max(1, entry.shape[0])
        start, stop, shape = first * inner, max(first, last) * inner, (max(first, last) - first, *entry.shape[1:])
    words = decode_span(entry, lambda offset, length: data[offset : offset + length], start, stop, "blob")
    array = _plain(words, entry.format).reshape(shape)
    if out is None:
        return array
    if out.shape != array.shape:
        raise ValueError(f"out of shape {out.shape}; expected {array.shape}")
    out[...] = array
    return out


class CompressedTensors:
    """The tensors of a compressed file or directory, each decoded when it is asked for."""

    def __init__(self, path: Path, *, allow_video: bool = False) -> None:
        self._archive = Archive(path, allow_video=allow_video)

    def __enter__(self) -> "CompressedTensors":
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.__exit__(*exception)

    def names(self) -> list[str]:
        """Every tensor."""
        return self._archive.names()

    def __getitem__(self, name: str) -> "Tensor":
        """A tensor of torch on the CPU. Raises BadInput for a name that is not there, BadBitstream for damage."""
        piece = self._archive.piece(name)
        words = np.concatenate([np.zeros(0, piece.format.word), *piece.words()])
        return _torch_tensor(words, piece.format).reshape(piece.shape)

    def blob(self, name: str) -> Blob:
        """A tensor as it is stored, with its record."""
        return self._archive.container(name).blob(name)


def open(path: str | Path, *, allow_video: bool = False) -> CompressedTensors:
    """Open a compressed file or directory for reading; headers alone are read. Raises BadInput and OSError."""
    return CompressedTensors(Path(path), allow_video=allow_video)


def read_tensors(path: Path) -> Iterator[tuple[str, "Tensor"]]:
    """Name and tensor of everything in a compressed file, one at a time: what the engine's loader takes."""
    with CompressedTensors(path) as opened:
        for name in opened.names():
            yield name, opened[name]


def load_model(path: str | Path, *, device: str = "cpu", resident: str = "decoded") -> "Decoder":
    """An engine's decoder of a compressed model directory, in float32.

    With resident "compressed" the projections stay coded in memory and each is decoded as it runs: the same logits for
    a fraction of the memory, at the cost of decoding in every step. Raises ValueError for another `resident`.
    """
    import torch

    from llmsys.engine.loader import load_decoder

    if resident not in ("decoded", "compressed"):
        raise ValueError(f"resident is {resident!r}; expected 'decoded' or 'compressed'")
    decoder = load_decoder(Path(path), device=torch.device(device), dtype=torch.float32)
    if resident == "decoded":
        return decoder
    from llmsys.compress.resident import keep_coded

    with CompressedTensors(Path(path)) as opened:
        return keep_coded(decoder, opened)


def _varies(numbers: Numbers) -> bool:
    from llmsys.compress.exact import constant_word

    return constant_word(numbers) is None


def _constant(numbers: Numbers) -> Any:  # noqa: ANN401
    return encode_tensor(numbers, PlanLine(numbers.name, "lossless"), Goal())


def _numbers(x: Any) -> Numbers:  # noqa: ANN401
    """An array of numpy or torch as a source of numbers."""
    if isinstance(x, np.ndarray):
        return in_memory(x, "tensor")
    name = str(x.dtype).removeprefix("torch.")
    kind = next((FORMATS[ours] for ours, theirs in TORCH_NAMES.items() if theirs == name), None)
    if kind is None:
        raise ValueError(f"a tensor of {x.dtype}; expected one of {', '.join(TORCH_NAMES.values())}")
    import torch

    flat = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    words = flat.numpy().view(kind.word)
    return Numbers("tensor", tuple(x.shape), kind, lambda start, stop: words[start:stop])


def _plain(words: Words, kind: NumberFormat) -> NDArray[Any]:
    if kind.name == "bf16" or kind.name.startswith("f8_"):
        return from_words(words, kind)
    letter = "f" if kind.is_float else kind.name[0]
    return words.view(np.dtype("?") if kind.name == "bool" else np.dtype(f"{letter}{kind.bits // 8}"))


def _torch_tensor(words: Words, kind: NumberFormat) -> "Tensor":
    import torch

    raw = torch.from_numpy(np.ascontiguousarray(words).view(np.uint8).copy())
    return raw.view(getattr(torch, TORCH_NAMES[kind.name]))


def decoded_tensor(blob: Blob) -> "Tensor":
    """The tensor of a blob, in torch and in its own number format."""
    entry, data = blob.parts()
    return _torch_tensor(decode_all(entry, data, "blob"), entry.format).reshape(entry.shape)
