"""What can go wrong in a codec, as one small tree; every error is a ValueError too, for callers of the library.

    CodecError               1   it failed
    ├── BadBitstream        65   bytes that no encoder wrote, or that changed since
    ├── UnsupportedValues   65   numbers or types that a lossy codec cannot take
    ├── TargetUnreachable    2   a rate or an error that the tensor cannot have, with the range it can
    └── EngineMissing       69   an encoder or decoder that does not work here, with the ones that do

Knows nothing about printing.
"""

from llmsys.errors import BadInput, LlmsysError, Unavailable, UsageFault

__all__ = ["BadBitstream", "CodecError", "EngineMissing", "TargetUnreachable", "UnsupportedValues"]


class CodecError(LlmsysError, ValueError):
    """A failure of a codec."""


class BadBitstream(BadInput, CodecError):
    """Bytes that do not decode: which tensor and chunk, what is wrong, what would be right."""


class UnsupportedValues(BadInput, CodecError):
    """Values or a type that a lossy codec cannot keep: which tensor, what it holds, what to do."""


class TargetUnreachable(UsageFault, CodecError):
    """A target outside of what a tensor can reach; `reachable` is the range, in the target's own unit."""

    def __init__(self, message: str, *, reachable: tuple[float, float]) -> None:
        super().__init__(message)
        self.reachable = reachable

    def __reduce__(self) -> tuple[object, ...]:
        return type(self)._restore, (str(self), self.reachable)

    @classmethod
    def _restore(cls, message: str, reachable: tuple[float, float]) -> "TargetUnreachable":
        return cls(message, reachable=reachable)


class EngineMissing(Unavailable, CodecError):
    """A video engine that does not work on this machine, and the ones that do."""
