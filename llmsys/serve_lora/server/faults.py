"""What a client is told when its request fails: one status and one OpenAI error object.

Knows nothing of HTTP servers; `routes` makes responses of these.
"""

from llmsys.engine.errors import AdapterError, CapacityError, EngineError, RequestError
from llmsys.serve_lora.batch_requests import Refusal

__all__ = ["ApiFault", "api_fault", "forbidden", "not_found"]

INVALID = "invalid_request_error"


class ApiFault(Exception):
    """A request that gets `status` and an error object. retry_after_s: seconds until trying again may help."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The error object, as the OpenAI API writes it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def not_found(message: str, *, code: str = "model_not_found", param: str | None = "model") -> ApiFault:
    """Something that is not there, or that this client may not see."""
    return ApiFault(404, message, kind="NotFoundError", code=code, param=param)


def forbidden(message: str) -> ApiFault:
    """Something that this server does not do for its clients."""
    return ApiFault(403, message, kind="permission_error", code="forbidden")


def api_fault(error: EngineError | Refusal, *, retry_after_s: float) -> ApiFault:
    """The fault that an engine's error, or a refused request, is to its client."""
    if isinstance(error, Refusal):
        if error.code == "model_not_found":
            return not_found(error.message)
        return ApiFault(400, error.message, code=error.code)
    if isinstance(error, CapacityError):
        return ApiFault(429, error.message, kind="rate_limit_error", code="queue_full", retry_after_s=retry_after_s)
    if isinstance(error, RequestError):
        return ApiFault(400, error.message, code="invalid_value")
    if isinstance(error, AdapterError):
        return ApiFault(400, error.message, code="invalid_adapter", param="model")
    return ApiFault(503, error.message, kind="server_error", code="engine_stopped", retry_after_s=retry_after_s)
