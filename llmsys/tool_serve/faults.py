"""What can go wrong with a tool or a call: each becomes a result for the model, never the end of its request.

ToolDeclarationError   2   a tool that is declared wrongly: found when it is loaded
ToolArgumentError      1   arguments that do not fit the tool's schema
ToolTimeout            1   a tool that took longer than it may
ToolCrashed            1   a worker process that ended by itself
Overloaded             1   more calls wait than may wait
"""

from llmsys.errors import LlmsysError, UsageFault

__all__ = ["Overloaded", "ToolArgumentError", "ToolCrashed", "ToolDeclarationError", "ToolTimeout"]


class ToolDeclarationError(UsageFault):
    """A tool whose declaration cannot be used: which tool, what is wrong, what would be right."""


class ToolArgumentError(LlmsysError):
    """Arguments that do not fit: `path` as in `$.city`, `why` names what was found and what was expected."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class ToolTimeout(LlmsysError):
    """A tool that had no result `limit_s` seconds after `since`."""

    def __init__(self, limit_s: float, since: str) -> None:
        super().__init__(f"no result within {limit_s:g} s of {since}")
        self.limit_s = limit_s


class ToolCrashed(LlmsysError):
    """A worker that ended by itself: its exit status or the signal that ended it, and the last it wrote."""

    def __init__(self, exit_status: int | None, signal: int | None, stderr_tail: str) -> None:
        how = f"signal {signal}" if signal is not None else f"exit status {exit_status}"
        super().__init__(f"the tool's process ended with {how}" + (f": {stderr_tail}" if stderr_tail else ""))
        self.exit_status = exit_status
        self.signal = signal
        self.stderr_tail = stderr_tail


class Overloaded(LlmsysError):
    """The queue of calls is full; the model may try again later."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"overloaded: {waiting} calls are waiting already; try again later")
        self.waiting = waiting
