"""Resource limits alone: a bound on what a program uses, none on what it reaches. Only on request."""

from collections.abc import Sequence

from llmsys.tool_serve.sandbox.limits import ProcessLimits, entry

__all__ = ["RlimitsOnly"]


class RlimitsOnly:
    """The program runs as this user, with this file system and network."""

    name = "rlimits"

    def __init__(self, limits: ProcessLimits) -> None:
        self._limits = limits

    def command(self, program: Sequence[str]) -> list[str]:
        """The command that starts the program, bounded."""
        return entry(program, self._limits, uid=None, bind=True)
