"""Runs one Python program, statement by statement as they arrive, in the namespace of a fresh `__main__`.

Commands come as JSON lines on stdin: {"run": source} and {"end": true}. Answers go to what was stdout; all that the
program writes, tracebacks included, goes to what was stderr. Knows nothing of its sandbox.
"""

import __future__

import ast
import asyncio
import atexit
import inspect
import json
import linecache
import os
import sys
import threading
import traceback
import types
from typing import Any, BinaryIO

__all__ = ["Program", "serve"]

FILE = "<python>"
MAX_VALUE = 65536
FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


class Program:
    """A program of which some statements have run."""

    def __init__(self) -> None:
        self._main = types.ModuleType("__main__")
        self._main.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = self._main
        self._lines: list[str] = []
        self._flags = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.value: object = None
        self.exit_status: int | None = None

    def run(self, source: str) -> bool:
        """Run the next statements; False if they ended the program, its traceback written."""
        before = len(self._lines)
        self._lines += source.splitlines(keepends=True)
        linecache.cache[FILE] = (sum(map(len, self._lines)), None, self._lines, FILE)
        try:
            self._run(source, before)
        except SystemExit as leave:
            self._leave(leave)
            return False
        except BaseException as error:
            _write_traceback(error)
            self.exit_status = 1
            return False
        return True

    def _run(self, source: str, before: int) -> None:
        flags = self._flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        # behind as many empty lines as the program has before it, so that every line has its true number
        tree = compile("\n" * before + source, FILE, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        self.value = None
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            self._evaluate(compile(tree, FILE, "exec", flags, dont_inherit=True))
        if isinstance(last, ast.Expr):
            code = compile(ast.Expression(last.value), FILE, "eval", self._flags | flags, dont_inherit=True)
            self.value = self._evaluate(code)

    def _evaluate(self, code: types.CodeType) -> object:
        self._flags |= code.co_flags & FUTURES
        result: Any = eval(code, self._main.__dict__)
        if code.co_flags & inspect.CO_COROUTINE:
            self._loop = self._loop or asyncio.new_event_loop()
            return self._loop.run_until_complete(result)
        return result

    def _leave(self, leave: SystemExit) -> None:
        if isinstance(leave.code, int | None):
            self.exit_status = leave.code or 0
        else:
            sys.stderr.write(f"{leave.code}\n")
            self.exit_status = 1

    def end(self) -> str | None:
        """What an interpreter does at its end, then the last expression's value as text."""
        text = None
        if self.exit_status is None and self.value is not None:
            try:
                text = repr(self.value)[:MAX_VALUE]
            except BaseException as error:
                _write_traceback(error)
                self.exit_status = 1
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        return text


def _write_traceback(error: BaseException) -> None:
    """As the interpreter writes it: without the frames of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != FILE:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def serve(commands: BinaryIO, answers: BinaryIO) -> None:
    """Answer commands until there are no more."""
    program = Program()

    def answer(**facts: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        answers.write(json.dumps(facts).encode() + b"\n")
        answers.flush()

    answer(ready=True)
    for line in commands:
        command = json.loads(line)
        if "run" in command:
            answer(ok=program.run(command["run"]))
        else:
            value = program.end()
            answer(value=value, exit=program.exit_status)


def main() -> None:
    """Take stdin and stdout for commands and answers, and give the program others."""
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for number in (1, 2):
        stream = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        setattr(sys, "stdout" if number == 1 else "stderr", stream)
    sys.argv = [""]
    sys.path[0:1] = [os.getcwd()]
    serve(commands, answers)


if __name__ == "__main__":
    main()
