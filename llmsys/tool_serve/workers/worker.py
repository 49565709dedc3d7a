"""One sandboxed process: commands in, answers and output out, its death told as ToolCrashed.

Knows no tool. Everything that the process writes is bounded here.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import orjson

from llmsys.tool_serve.clock import held
from llmsys.tool_serve.faults import ToolCrashed
from llmsys.tool_serve.results import OUTPUT_BYTES, HeadTail
from llmsys.tool_serve.sandbox import Sandbox
from llmsys.tool_serve.sandbox.limits import INSIDE

__all__ = ["PYTHON", "SHELL", "Worker"]

PYTHON = "python_worker.py"
SHELL = "shell_worker.py"
ANSWER_BYTES = 2**20
TAIL_CHARS = 2000
SIGNALLED = 128
LINGER_S = 1.0


class Worker:
    """A process in a sandbox that runs one of the programs in `inside`."""

    def __init__(self, process: asyncio.subprocess.Process, output_bytes: int) -> None:
        self._process = process
        self._output = HeadTail(output_bytes)
        self._reading = asyncio.create_task(self._read_output())

    @classmethod
    async def start(cls, sandbox: Sandbox, program: str, *, output_bytes: int = OUTPUT_BYTES) -> "Worker":
        """Start a program and wait until it is ready. Raises ToolCrashed if it never is."""
        command = sandbox.command([sys.executable, "-I", str(INSIDE / program)])
        pipe = asyncio.subprocess.PIPE
        with held():
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, limit=ANSWER_BYTES, start_new_session=True
            )
            worker = cls(process, output_bytes)
            try:
                await worker.answer()
            except BaseException:
                await worker.end()
                raise
        return worker

    @property
    def pid(self) -> int:
        """The process of the sandbox; its death is that of all inside."""
        return self._process.pid

    async def write(self, some: bytes) -> None:
        """Write to its stdin. Raises ToolCrashed if nobody reads it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(some)
            with held():
                await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._crashed() from None

    async def ask(self, command: Mapping[str, object]) -> dict[str, Any]:
        """A command, and the answer to it."""
        await self.write(orjson.dumps(command) + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """The next answer. Raises ToolCrashed if the process ends, or writes what is none."""
        assert self._process.stdout is not None
        with held():
            try:
                line = await self._process.stdout.readline()
                answer = orjson.loads(line)
            except ValueError:  # no line within the bound, or none that is JSON
                raise await self._crashed() from None
        if not isinstance(answer, dict):
            raise await self._crashed()
        return answer

    def close_stdin(self) -> None:
        """Say that nothing follows."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def end(self) -> str:
        """Kill what is left of the process and all it started; everything it wrote, within the bound."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with held():
            await self._process.wait()
            await asyncio.wait([self._reading], timeout=LINGER_S)  # what left the group may hold the pipe open
        self._reading.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._output.text()

    async def _crashed(self) -> ToolCrashed:
        with held(), contextlib.suppress(TimeoutError):  # it may have closed its answers and live
            await asyncio.wait_for(self._process.wait(), 1.0)
        status = self._process.returncode
        tail = (await self.end()).strip()[-TAIL_CHARS:]
        if status is None:
            return ToolCrashed(None, None, "it answered what is no answer")
        if status < 0 or status > SIGNALLED:  # bwrap tells of a signal as shells do
            return ToolCrashed(None, -status if status < 0 else status - SIGNALLED, tail)
        return ToolCrashed(status, None, tail)

    async def _read_output(self) -> None:
        assert self._process.stderr is not None
        while some := await self._process.stderr.read(2**16):
            self._output.add(some)
