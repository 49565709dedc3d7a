"""Text as bytes: which tokens train, which are held out, and which windows make up a step's batch.

The sampler's state is one integer, the step: living workers share its windows, and a retry takes the same ones. Knows
no tensors. The default text is CPython's help topics (`pydoc_data.topics`), which every Python carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import BadInput

__all__ = ["Bytes", "Corpus", "evaluation_text", "read_corpus", "share", "step_windows"]

HELD_OUT_EVERY = 10
DEFAULT = "pydoc_data.topics"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Bytes to train on and bytes held out, and a digest of both."""

    train: Bytes
    held_out: Bytes
    digest: str

    def windows(self, seq: int) -> int:
        """How many windows of seq + 1 bytes, each beginning where the last one's targets end, the text has.

        Raises BadInput where there is none.
        """
        count = (len(self.train) - 1) // seq
        if count < 1:
            raise BadInput("--text", f"{len(self.train)} bytes to train on", f"more than --seq {seq}")
        return count

    def window(self, number: int, seq: int) -> Bytes:
        """The seq + 1 bytes of a window: inputs and, one further, targets."""
        return self.train[number * seq : number * seq + seq + 1]


def read_corpus(paths: Sequence[str] = ()) -> Corpus:
    """The bytes of files, and of all files below directories, in order of their names; every tenth is held out.

    Of fewer than ten files the last tenth of the bytes is held out. Raises BadInput for no bytes, OSError for a path
    that cannot be read.
    """
    documents = _topics() if not paths else [path.read_bytes() for path in _files(paths)]
    if len(documents) >= HELD_OUT_EVERY:
        kept = [text for number, text in enumerate(documents) if number % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
        held_out = documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        train, rest = b"".join(kept), b"".join(held_out)
    else:
        whole = b"".join(documents)
        cut = len(whole) - len(whole) // HELD_OUT_EVERY
        train, rest = whole[:cut], whole[cut:]
    if not train:
        raise BadInput("--text", "no bytes", "text to train on")
    digest = blake2b(len(train).to_bytes(8, "little") + train + rest, digest_size=16).hexdigest()
    return Corpus(np.frombuffer(train, np.uint8), np.frombuffer(rest, np.uint8), digest)


def evaluation_text(paths: Sequence[str] = ()) -> Bytes:
    """All bytes of the paths, or those that the default corpus holds out."""
    if not paths:
        return read_corpus().held_out
    return np.frombuffer(b"".join(path.read_bytes() for path in _files(paths)), np.uint8)


def step_windows(step: int, batch: int, windows: int, seed: int) -> list[int]:
    """The windows of step `step` (from 1): slots (step-1)·batch and on of one permutation after the other."""
    found: list[int] = []
    slot, end = (step - 1) * batch, step * batch
    while slot < end:
        lap, start = divmod(slot, windows)
        order = np.random.default_rng([seed, lap]).permutation(windows)
        taken = order[start : start + end - slot].tolist()
        found += taken
        slot += len(taken)
    return found


def share(items: Sequence[int], place: int, count: int) -> Sequence[int]:
    """The contiguous part of the `place`-th of `count` workers; parts differ by one item at most."""
    return items[len(items) * place // count : len(items) * (place + 1) // count]


def _topics() -> list[bytes]:
    topics: dict[str, str] = import_module(DEFAULT).topics
    return [topics[name].encode() for name in sorted(topics)]


def _files(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return found
