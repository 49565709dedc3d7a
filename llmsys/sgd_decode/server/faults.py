"""What a client is told when its request fails: one status and one OpenAI error object.

Knows nothing of HTTP servers; `app` makes responses of these.
"""

__all__ = ["ApiFault"]


class ApiFault(Exception):
    """A request that gets `status` and an error object. retry_after_s: seconds until trying again may help."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
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
