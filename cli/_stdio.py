"""Standard streams that fail in one way: a reader of stdout that left ends the program quietly, a full disk is told.

Python alone raises BrokenPipeError from any write, tries again when the interpreter ends, and cannot say whether the
pipe was stdout or a server's. Knows nothing about what is written.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import typer

from llmsys.errors import LlmsysError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["guard_streams"]


class _Guarded(io.BufferedWriter):
    """A stream to a descriptor that works until its first failure, hands that to `on_failure`, and drops the rest.

    The buffer is guarded, not the raw stream under it: a signal after a write in Python would make the buffer write the
    same bytes again.
    """

    def __init__(self, descriptor: int, on_failure: Callable[[OSError], None]) -> None:
        super().__init__(io.FileIO(descriptor, "w", closefd=False))
        self._on_failure = on_failure
        self._lost = False

    def write(self, data: "ReadableBuffer") -> int:
        """Take the bytes, or drop them once the stream is lost."""
        if not self._lost:
            try:
                return super().write(data)
            except OSError as error:
                self._fail(error)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Write what the buffer holds; the interpreter does the same when it ends."""
        if not self._lost:
            try:
                super().flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._lost = True
        self._on_failure(error)


def _stdout_failed(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise typer.Exit(0) from None
    raise LlmsysError(f"stdout: {error.strerror}; the output is incomplete") from error


def _stderr_failed(error: OSError) -> None:
    """What cannot be told to anyone is dropped; the exit code still says how the run ended."""


def guard_streams() -> None:
    """Put guarded streams in place of the process's own stdout and stderr; streams that a caller set stay."""
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, 1, _stdout_failed)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, 2, _stderr_failed)


def _guarded(stream: TextIO | None, descriptor: int, on_failure: Callable[[OSError], None]) -> TextIO:
    if stream is None:  # closed by the caller: nothing is wanted, and its number must not go to the next file opened
        return open(os.devnull, "w", encoding="utf-8")
    return io.TextIOWrapper(
        _Guarded(descriptor, on_failure),
        encoding=stream.encoding,
        errors=stream.errors,
        # what stderr writes through must not stay in our buffer: a server's warning is read while it runs
        line_buffering=getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False),
        write_through=getattr(stream, "write_through", False),
    )
