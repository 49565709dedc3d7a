"""What `encode` and `eval` read: tensors of a safetensors file, a model directory, a GGUF file or a .npy, by span.

Nothing is read before it is asked for; a file is mapped, so a tensor costs the memory of the chunk in hand. Knows no
codec. Tensors of a GGUF file come as float32 under the names that transformers gives them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import TensorFile, encode, open_tensors, read_npy, replace_file
from llmsys.compress.coded import Numbers, in_memory
from llmsys.compress.number_formats import Words, number_format, of_array
from llmsys.errors import BadInput
from llmsys.gpu import find_model

__all__ = ["Source", "SourceFile", "open_input"]

WEIGHT_PARTS = (".safetensors", ".bin", ".gguf", ".part", ".tmp")
"""Endings of a model directory's files that are not copied as they are."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Tensors that go into one file, whose name is `name`; None where the output is that file."""

    name: str | None
    tensors: list[Numbers] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """All of an input: files of tensors, and files of a model directory that go along unchanged.

    `is_model` tells weights of a model, whose vectors are left alone, from an array that was named for itself;
    `write_companions` makes the files that a GGUF file holds inside.
    """

    path: Path
    files: list[SourceFile]
    companions: list[Path]
    is_model: bool
    identity: str
    write_companions: Callable[[Path], None] | None = None

    @property
    def tensors(self) -> list[Numbers]:
        """Every tensor."""
        return [tensor for file in self.files for tensor in file.tensors]


def open_input(path: Path) -> Source:
    """Look at an input by its ending; `smollm2` is the embedded model.

    Raises BadInput for what is none of them, OSError for what cannot be read.
    """
    path = path if path.exists() else find_model(str(path))
    identity = _identity(path)
    if path.is_dir():
        parts = sorted(path.glob("*.safetensors"))
        if not parts:
            raise BadInput(str(path), "a directory without .safetensors files", "a model directory")
        files = [SourceFile(part.name, _file_tensors(open_tensors(part))) for part in parts]
        return Source(path, files, _companions(path), True, identity)
    match path.suffix:
        case ".safetensors":
            return Source(path, [SourceFile(None, _file_tensors(open_tensors(path)))], [], True, identity)
        case ".npy":
            array = _read_array(path)
            return Source(path, [SourceFile(None, [in_memory(array, path.stem)])], [], False, identity)
        case ".gguf":
            return Source(
                path, [SourceFile("model.safetensors", _gguf_tensors(path))], [], True, identity, _describe_gguf(path)
            )
    if not path.exists():
        raise FileNotFoundError(2, "no such file or directory", str(path))
    raise BadInput(str(path), f"a file that ends in {path.suffix!r}", "a directory, .safetensors, .gguf, .npy, or -")


def _identity(path: Path) -> str:
    """Names, sizes and times of the files: what a resumed run must find as it was."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return repr(facts)


def _companions(path: Path) -> list[Path]:
    return [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.endswith(WEIGHT_PARTS)]


def _file_tensors(file: TensorFile) -> list[Numbers]:
    return [_stored(file, name) for name in file.tensors]


def _stored(file: TensorFile, name: str) -> Numbers:
    """A tensor of a safetensors file, mapped. Raises BadInput for a number format that is not known."""
    info = file.info(name)
    kind = number_format(info.dtype)
    if kind is None:
        raise BadInput(str(file.path), f"tensor {name!r} of number format {info.dtype}", "one that encode knows")
    start = file.data_start + info.data_offsets[0]
    word = kind.word

    def read(first: int, stop: int) -> Words:
        count = stop - first
        if not count:
            return np.zeros(0, word)
        return np.fromfile(file.path, word, count, offset=start + first * word.itemsize)

    return Numbers(name, info.shape, kind, read)


def _read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, big-endian ones too."""
    try:
        return read_npy(path)
    except BadInput:
        with path.open("rb") as stream:
            head = stream.read(128)
        if b"'descr': '>" not in head:
            raise
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadInput(str(path), f"a .npy that numpy refuses ({error})", "what numpy.save writes") from error


def _gguf_tensors(path: Path) -> list[Numbers]:
    from llmsys.engine.gguf import GgufFile

    return [_dequantised(name, tensor) for name, tensor in GgufFile(path).tensors()]


def _describe_gguf(path: Path) -> Callable[[Path], None]:
    """What writes the config and the tokenizer of a GGUF model into a directory, as transformers would."""

    def write(out: Path) -> None:
        from llmsys.engine.gguf import GgufFile
        from llmsys.engine.tokens import Tokenizer

        config = {key: value for key, value in GgufFile(path).config.items() if value is not None}
        with replace_file(out / "config.json") as stream:
            stream.write(encode(config))
        Tokenizer.load(path).export(out)

    return write


def _dequantised(name: str, tensor: Any) -> Numbers:  # noqa: ANN401
    kind, words = of_array(tensor.numpy())
    return Numbers(name, tuple(tensor.shape), kind, lambda start, stop: words[start:stop])
