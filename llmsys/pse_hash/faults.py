"""The faults of a sketch that a caller may want to tell apart; each is one of the house errors.

UnknownId, DuplicateId, DimensionMismatch  65   a record that does not fit the points (BadInput)
Corrupt                                    65   files that are not what was written (BadInput)
BudgetExhausted, Locked                     1   no private answer is left; another process is writing (LlmsysError)
"""

from llmsys.errors import BadInput, LlmsysError

__all__ = ["BudgetExhausted", "Corrupt", "DimensionMismatch", "DuplicateId", "Locked", "UnknownId"]


class UnknownId(BadInput):
    """An id to delete or replace that no live point has."""


class DuplicateId(BadInput):
    """An id to insert that a live point has already."""


class DimensionMismatch(BadInput):
    """A vector whose length is not that of the points."""


class Corrupt(BadInput):
    """A file of the sketch that is not what was written."""


class BudgetExhausted(LlmsysError):
    """The dp mode has given as many answers as it was built for."""


class Locked(LlmsysError):
    """Another process holds the sketch for writing."""
