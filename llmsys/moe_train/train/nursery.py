"""Worker processes in a tenth of a second: a process that has imported torch already forks them on request.

That process runs `serve`; it stays single-threaded, answers every request with a
process id, and ends, and its children with it, when its parent does: none outlives a killed supervisor, stopped ones
included. In place of multiprocessing's fork server, which runs the caller's main script again in every child.
Requests are JSON and pass file descriptors; nothing is unpickled. Knows no trainer. Linux.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from llmsys.errors import LlmsysError
from llmsys.lifeline import signal_at_parents_end

__all__ = ["Child", "Nursery", "serve"]

MAX_REQUEST_BYTES = 1 << 16
PRELOADED = ("torch", "torch.distributed", "numpy", "scipy.optimize", "scipy.sparse.csgraph", "llmsys.moe_train.train")
FAILED = 70
SERVE = "import sys, socket, llmsys.moe_train.train as t; t.serve(socket.socket(fileno=int(sys.argv[1])))"


@dataclass(frozen=True, slots=True)
class Child:
    """A process and the pipe to it. `handle` is a pidfd: readable once the process is gone, never another's."""

    pid: int
    handle: int
    pipe: Connection

    def signal(self, number: int) -> bool:
        """Send a signal; False where the process is gone."""
        try:
            signal.pidfd_send_signal(self.handle, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Kill what still runs and give the descriptors back."""
        self.signal(signal.SIGKILL)
        self.pipe.close()
        os.close(self.handle)


class Nursery:
    """Starts children; leaving the context ends them all. `threads`: OpenMP threads that each may use."""

    def __init__(self, *, threads: int = 1) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-c", SERVE, str(theirs.fileno())]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        settings = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=os.environ | settings, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._socket = ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, entry: str, arguments: Mapping[str, object]) -> Child:
        """A child that runs `entry` ("module:function") with its end of a pipe and the keyword arguments (JSON).

        Raises LlmsysError where the nursery is gone.
        """
        ours, theirs = socket.socketpair()
        request = json.dumps({"entry": entry, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._socket, [request], [theirs.fileno()])
            theirs.close()
            answer = self._socket.recv(MAX_REQUEST_BYTES)
        except OSError:
            answer = b""
        if not answer:
            ours.close()
            raise LlmsysError("the process that starts workers is gone; expected it to live as long as the run")
        pid = int(answer)
        return Child(pid, os.pidfd_open(pid), Connection(ours.detach()))

    def close(self) -> None:
        """End the nursery and, through it, every child."""
        self._socket.close()
        self._process.wait()


def serve(channel: socket.socket) -> None:
    """Fork a child for every request until the other end closes; never returns in a child."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for: none becomes a zombie
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    for name in PRELOADED:
        importlib.import_module(name)
    while True:
        request, numbers = _received(channel)
        if not request:
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            channel.close()
            _run_child(request, numbers[0], parent)
        os.close(numbers[0])
        channel.send(str(pid).encode())


def _received(channel: socket.socket) -> tuple[bytes, list[int]]:
    request, numbers, _, _ = socket.recv_fds(channel, MAX_REQUEST_BYTES, 1)
    return request, numbers


def _run_child(request: bytes, number: int, parent: int) -> None:
    """Run the entry and end the process, whatever happens."""
    code = FAILED
    try:
        signal_at_parents_end(signal.SIGKILL, parent)
        wanted = json.loads(request)
        module, _, name = wanted["entry"].partition(":")
        getattr(importlib.import_module(module), name)(Connection(number), **wanted["arguments"])
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
