"""`main`: run one command line, and the only place where errors print and become exit codes.

Knows no command. The codes: 0 done, 1 failed, 2 wrong usage, 65 bad input, 69 a part is missing, 130 interrupted.
"""

import os
import sys

import typer

from llmsys.cli._root import command_path, root_group
from llmsys.cli._stdio import guard_streams
from llmsys.errors import LlmsysError

__all__ = ["main"]

INTERRUPTED = 130


PATIENCE = {"GOMP_SPINCOUNT": "1000"}
"""How long OpenMP's threads wait actively for each other; by default milliseconds, in which a busy machine stalls."""


def main(args: list[str] | None = None) -> int:
    """Run one command line and return its exit code; every error becomes one line on stderr."""
    guard_streams()
    os.environ |= PATIENCE | os.environ  # read when torch loads, which verbs do
    given = sys.argv[1:] if args is None else args
    try:
        # standalone_mode=False hands back what the verb returned, or the code of its typer.Exit
        code = root_group().main(args=given, prog_name="llmsys", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # a bug, too, is told in one line
        code = _report(error, given)
    return _flush(code if isinstance(code, int) else 0, given)


def _flush(code: int, given: list[str]) -> int:
    """Write what stdout still holds, here, where a failure can be told, and not when the interpreter ends."""
    try:
        sys.stdout.flush()
    except typer.Exit as reader_left:
        return code or reader_left.exit_code
    except LlmsysError as error:
        failed = _report(error, given)
        return code or failed
    return code


def _report(error: Exception, given: list[str]) -> int:
    """Print the error as one line and return its exit code; help asked for by silence prints as help."""
    if os.environ.get("LLMSYS_TRACEBACK") == "1":
        import traceback

        traceback.print_exception(error)
    message = _message(error)
    if message.startswith("Usage:"):
        sys.stderr.write(message + "\n")
    else:
        sys.stderr.write(f"{command_path(given)}: error: {' '.join(message.split())}\n")
    return getattr(error, "exit_code", 1)


def _message(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, (LlmsysError, OSError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; with LLMSYS_TRACEBACK=1 the run says where"
