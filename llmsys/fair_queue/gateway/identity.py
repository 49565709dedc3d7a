"""Whose request it is: by API key, header, the body's user, or address.

Knows the rules of trust: a key is looked up by its hash; a header counts without a key only if that was allowed; what
the body says of its user counts only where it was chosen. The client's credentials go no further.
"""

from dataclasses import dataclass

from llmsys.errors import UsageFault
from llmsys.fair_queue.gateway.body import RequestBody
from llmsys.fair_queue.gateway.client import ClientConnection, ClientRequest
from llmsys.fair_queue.gateway.tenants import MAX_NAME_BYTES, TenantTable

__all__ = ["ANONYMOUS", "Identity", "Unidentified", "parse_identity"]

ANONYMOUS = "anonymous"
BEARER = b"bearer "


class Unidentified(Exception):
    """Why a request has no tenant, in words that may go to the client; `status` is 401 or 400."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """How tenants are told apart: `kind` is key, header, user or ip."""

    kind: str = "key"
    header: bytes = b""
    allow_anonymous: bool = False
    trust_header: bool = False

    def tenant_of(
        self, client: ClientConnection, request: ClientRequest, body: RequestBody | None, table: TenantTable
    ) -> str:
        """The tenant's name. Raises Unidentified."""
        if self.kind == "ip":
            return client.address
        keyed = self._by_key(request, table)
        if self.kind == "key":
            if keyed is None and not self.allow_anonymous:
                raise Unidentified(401, "no API key that this gateway knows")
            return keyed or ANONYMOUS
        if keyed is None and not self._vouched(table):
            raise Unidentified(401, "no API key that this gateway knows")
        named = self._named(request, body)
        if not named and not self.allow_anonymous:
            raise Unidentified(400, f"no tenant in {self._place()}")
        return _checked(named or ANONYMOUS)

    def _vouched(self, table: TenantTable) -> bool:
        """Whether a name counts without a key: always for a user who was chosen to be trusted and has no keys."""
        if self.kind == "header":
            return self.trust_header
        return self.allow_anonymous or not table.keys

    def _by_key(self, request: ClientRequest, table: TenantTable) -> str | None:
        value = request.header(b"authorization") or b""
        if value[: len(BEARER)].lower() != BEARER:
            return None
        return table.tenant_of_key(value[len(BEARER) :].strip())

    def _named(self, request: ClientRequest, body: RequestBody | None) -> str:
        if self.kind == "header":
            return (request.header(self.header) or b"").decode("utf-8", "replace")
        return (body.user if body is not None else None) or ""

    def _place(self) -> str:
        return f"header {self.header.decode()}" if self.kind == "header" else "the body's user"


def parse_identity(text: str, *, allow_anonymous: bool, trust_header: bool) -> Identity:
    """Read key, header:NAME, user or ip. Raises UsageFault for anything else, or a header that nothing vouches for."""
    kind, _, name = text.partition(":")
    if kind not in ("key", "header", "user", "ip") or (kind == "header") != bool(name):
        raise UsageFault(f"--tenant-from {text!r} is not key, header:NAME, user or ip")
    return Identity(kind, name.lower().encode(), allow_anonymous, trust_header)


def _checked(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Unidentified(400, f"a tenant's name over {MAX_NAME_BYTES} bytes")
    return name
