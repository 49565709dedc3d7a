"""What can go wrong in the engine, as one small tree; every error carries the request it belongs to, if there is one.

    EngineError            1   it failed
    ├── ModelError        65   a model file that cannot be read or is of no known architecture
    ├── AdapterError      65   an adapter of wrong shape or rank, or one that nobody registered
    │   └── AdapterBusy    1   every adapter slot is held by a running request: wait, nothing is wrong
    ├── RequestError      65   a request that can never run: too long, a parameter out of range
    └── CapacityError      1   the waiting queue is full: try again later

Knows nothing about HTTP codes or printing.
"""

from llmsys.errors import LlmsysError

__all__ = ["AdapterBusy", "AdapterError", "CapacityError", "EngineError", "ModelError", "RequestError"]


class EngineError(LlmsysError):
    """A failure of the engine; `request_id` is the request it belongs to, None for the engine as a whole."""

    def __init__(self, message: str, *, request_id: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,), {"request_id": self.request_id}


class ModelError(EngineError):
    """A model file that is corrupt or unknown: which file, at what offset, what would be right."""

    exit_code = 65


class AdapterError(EngineError):
    """An adapter that is missing or does not fit the model: which one, and both shapes or ranks."""

    exit_code = 65


class AdapterBusy(AdapterError):
    """Every slot is held by a running request, so this adapter has to wait for one to finish."""

    exit_code = 1


class RequestError(EngineError):
    """A request that can never run as it stands: the parameter, its value and what is allowed."""

    exit_code = 65


class CapacityError(EngineError):
    """The queue's bound is reached: how many wait, and the bound."""
