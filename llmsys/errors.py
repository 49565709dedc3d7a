"""The one tree of errors that reach a user, each with its exit code.

    LlmsysError        1   it failed
    ├── UsageFault     2   an option's value cannot be used
    ├── BadInput      65   data that does not fit its format
    └── Unavailable   69   a needed part (GPU, encoder, package, server) is not there

Knows nothing about printing: `llmsys.cli.main` is the only place that turns these into a line and an exit code.
"""

from typing import ClassVar

__all__ = ["BadInput", "LlmsysError", "Unavailable", "UsageFault"]


class LlmsysError(Exception):
    """Something failed that the user should read about in one line."""

    exit_code: ClassVar[int] = 1


class UsageFault(LlmsysError):
    """An option's value that only the library can judge: what was given, what would be right."""

    exit_code = 2


class BadInput(LlmsysError):
    """Data that does not fit its format: where it is, what is wrong, what would be right."""

    exit_code = 65

    def __init__(self, where: str, wrong: str, right: str) -> None:
        super().__init__(f"{where}: {wrong}; expected {right}")
        self.where = where
        self.wrong = wrong
        self.right = right

    def __reduce__(self) -> tuple[type["BadInput"], tuple[str, str, str]]:
        return type(self), (self.where, self.wrong, self.right)


class Unavailable(LlmsysError):
    """A needed part is not there: which one, and how to get it."""

    exit_code = 69

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["Unavailable"], tuple[str, str]]:
        return type(self), (self.what, self.remedy)
