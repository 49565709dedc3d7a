"""A labeller on a pipe: request lines on its stdin, answers on its stdout in any order.

Requests are `{"index","id","x"}`, answers `{"index","y"}`, y a number, a list, or null for a refusal. The command is
run by the shell as the user typed it; answers are data, never evaluated. Knows no design and no journal.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np

from llmsys.al_sample.errors import OracleDied
from llmsys.al_sample.pools import Pool
from llmsys.artifacts import MAX_LINE_BYTES, decode_record, encode
from llmsys.errors import BadInput

__all__ = ["Answer", "Oracle"]

GRACE_S = 5.0


class Answer(msgspec.Struct, frozen=True):
    """A label of one point; None where the labeller refuses."""

    index: int
    y: float | list[float] | None


class Oracle:
    """A started labeller; a context manager that ends it and what it started. `timeout_s` bounds each silence."""

    def __init__(self, command: str, pool: Pool, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._decoder = msgspec.json.Decoder(Answer)
        self._lines: Queue[bytes | None] = Queue()
        self._last_words: list[bytes] = []
        self._process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            Thread(target=self._read_complaints, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its stdin and wait; after an error, or 5 s, end its process group."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(0 if kind is not None else GRACE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for reader in self._readers:
            reader.join(GRACE_S)

    def ask(self, rows: Sequence[int]) -> Iterator[Answer]:
        """Ask for the labels of these rows and yield each as it comes.

        Raises OracleDied if the labeller ends, is silent for `timeout_s`, or answers garbage or what was not asked.
        """
        pending = set(rows)
        writer = Thread(target=self._write_requests, args=(list(rows),), daemon=True)
        writer.start()
        while pending:
            answer = self._next_answer(len(pending))
            if answer.index not in pending:
                raise OracleDied(f"oracle: an answer for index {answer.index}, which is not asked")
            pending.remove(answer.index)
            yield answer
        writer.join()

    def _next_answer(self, missing: int) -> Answer:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except Empty:
            raise OracleDied(
                f"oracle: silent for {self._timeout_s:g} s with {missing} labels missing{self._complaint()}"
            ) from None
        if line is None:
            code = self._process.wait()
            self._readers[1].join(GRACE_S)
            raise OracleDied(f"oracle: ended with code {code}, {missing} labels missing{self._complaint()}")
        try:
            answer = decode_record(line, self._decoder, "oracle")
        except BadInput as error:
            raise OracleDied(f"{error}{self._complaint()}") from error
        if answer.y is not None and not np.isfinite(answer.y).all():
            raise OracleDied(f"oracle: label {answer.y} of index {answer.index}; expected finite numbers")
        return answer

    def _complaint(self) -> str:
        words = self._last_words[-1].decode(errors="replace").strip() if self._last_words else ""
        return f"; its last line on stderr: {words}" if words else ""

    def _write_requests(self, rows: list[int]) -> None:
        """One line per row; a labeller that is gone is noticed by its closed stdout."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            for row in rows:
                point = np.asarray(self._pool.values[row], np.float64).tolist()
                self._process.stdin.write(encode({"index": row, "id": self._pool.id_of(row), "x": point}))
            self._process.stdin.flush()

    def _read_answers(self, stream: BinaryIO) -> None:
        while line := stream.readline(MAX_LINE_BYTES):
            if not line.isspace():
                self._lines.put(line)
        self._lines.put(None)

    def _read_complaints(self, stream: BinaryIO) -> None:
        while line := stream.readline(MAX_LINE_BYTES):
            self._last_words[:] = [line]
