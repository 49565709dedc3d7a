"""The three faults of an index that a caller may want to tell apart; each is one of the house errors.

NotFound  65   an id that the index does not hold (a BadInput)
Corrupt   65   files that are not what was written (a BadInput)
Locked    69   another process is writing (an Unavailable)
"""

from llmsys.errors import BadInput, Unavailable

__all__ = ["Corrupt", "Locked", "NotFound"]


class NotFound(BadInput):
    """An id that is not in the index."""


class Corrupt(BadInput):
    """A file of the index that is not what was written: which one, and what is wrong with it."""


class Locked(Unavailable):
    """Another process holds the index for writing."""
