"""Who a bearer token speaks for: one tenant, or an administrator who may act for all. Knows no HTTP."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import read_records
from llmsys.errors import BadInput

__all__ = ["Caller", "Tokens", "read_tokens"]

LEAST_LENGTH = 16


class TokenRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a token file: a token, and either its tenant or `admin`."""

    token: str
    tenant: str | None = None
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a tenant, or an administrator (tenant None)."""

    tenant: str | None

    @property
    def admin(self) -> bool:
        """Whether it may change the index and act for any tenant."""
        return self.tenant is None


class Tokens:
    """The tokens of a server; without any, everybody is an administrator."""

    def __init__(self, records: Sequence[TokenRecord] = ()) -> None:
        self._known = [(record.token.encode(), Caller(None if record.admin else record.tenant)) for record in records]

    def __bool__(self) -> bool:
        return bool(self._known)

    def caller(self, header: str | None) -> Caller | None:
        """Who an Authorization header speaks for, None for nobody. Every token is compared, in constant time."""
        if not self._known:
            return Caller(None)
        given = (header or "").removeprefix("Bearer ").encode()
        found = None
        for token, caller in self._known:
            if hmac.compare_digest(token, given):
                found = caller
        return found


def read_tokens(path: Path) -> Tokens:
    """Tokens of a file of JSON lines {"token", "tenant"} or {"token", "admin": true}.

    Raises BadInput for a line that names both or neither, a token of less than 16 characters, and a file without any.
    """
    records = list(read_records(path, TokenRecord))
    for number, record in enumerate(records, 1):
        if len(record.token) < LEAST_LENGTH:
            raise BadInput(f"{path}:{number}", "a token that can be guessed", f"{LEAST_LENGTH} characters or more")
        if record.admin == (record.tenant is not None):
            raise BadInput(f"{path}:{number}", "a token for nobody or for two", "a tenant, or admin")
    if not records:
        raise BadInput(str(path), "no token", "JSON lines with tokens")
    return Tokens(records)
