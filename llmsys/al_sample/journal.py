"""Answers on disk as they come: a run that was killed at any instruction goes on without asking for them again.

One file in the state directory: a first line that says what the run is, then one line per answer, each synced before
the next is asked for. A last line that was cut is dropped. Knows no oracle.
"""

import os
from pathlib import Path

import msgspec

from llmsys.al_sample.oracle import Answer
from llmsys.artifacts import decode_record, encode, sync_directory
from llmsys.errors import BadInput

__all__ = ["Journal", "RunKey"]

FILE = "journal.jsonl"


class RunKey(msgspec.Struct, frozen=True):
    """What must be the same for a run to go on: pool, basis, seed, and labels per round (0: chosen by the rank)."""

    pool: str
    basis: str
    intercept: bool
    seed: int
    batch: int


class Journal:
    """Answers by row, in memory and on disk; opened to go on where the file stops."""

    def __init__(self, directory: Path, key: RunKey) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / FILE
        self.answers: dict[int, Answer] = {}
        whole = self._read(key) if self.path.exists() else b""
        self._stream = self.path.open("r+b" if self.path.exists() else "wb")
        self._stream.truncate(len(whole))
        self._stream.seek(len(whole))
        if not whole:
            self._append(encode(key))
            sync_directory(directory)

    def record(self, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._append(encode(answer))
        self.answers[answer.index] = answer

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _append(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self, key: RunKey) -> bytes:
        """Take the answers of every whole line; returns those lines. Raises BadInput for another run's journal."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines:
            return b""
        if decode_record(lines[0], msgspec.json.Decoder(RunKey), f"{self.path}:1") != key:
            raise BadInput(f"{self.path}:1", "the journal of another run", "the same pool, basis, seed and batch")
        decoder = msgspec.json.Decoder(Answer)
        for number, line in enumerate(lines[1:], 2):
            answer = decode_record(line, decoder, f"{self.path}:{number}")
            self.answers[answer.index] = answer
        return whole
