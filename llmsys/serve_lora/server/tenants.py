"""Who may ask: API keys to tenants, and what each tenant may use.

    [tenant.acme]
    keys = ["sha256:…"]            # or the key itself
    adapters = ["fr", "de"]        # without this line: all of them
    weight = 2.0                   # share under a weighted policy
    rpm = 600                      # requests a minute

Keys are kept as SHA-256 only. Knows no request and no server.
"""

import hashlib
import math
import tomllib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from llmsys.errors import BadInput

__all__ = ["ANYONE", "RateLimiter", "Tenant", "TenantTable", "key_digest", "read_tenants", "tenant_table"]

PREFIX = "sha256:"
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's rights; `adapters` None is all of them, `rpm` None is no limit."""

    name: str
    adapters: frozenset[str] | None = None
    weight: float = 1.0
    rpm: int | None = None

    def may_use(self, adapter: str) -> bool:
        """Whether the tenant can see an adapter."""
        return self.adapters is None or adapter in self.adapters


ANYONE = Tenant("default")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str]
    adapters: list[str] | None = None
    weight: float = 1.0
    rpm: int | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tenant: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class TenantTable:
    """Tenants by the digest of their keys; an empty table lets everyone in."""

    by_digest: Mapping[str, Tenant] = field(default_factory=dict)

    def of_key(self, key: str | None) -> Tenant | None:
        """The tenant of a key, None for a key that nobody has; everyone is `ANYONE` where there are no keys.

        Only digests are looked up: what the time of that tells is about SHA-256, not about keys.
        """
        if not self.by_digest:
            return ANYONE
        return None if key is None else self.by_digest.get(key_digest(key))

    def weights(self) -> dict[str, float]:
        """Weight of each named tenant, for the policy."""
        return {tenant.name: tenant.weight for tenant in self.by_digest.values()}

    def with_key(self, key: str) -> "TenantTable":
        """The table with one more key, whose tenant may use everything."""
        return TenantTable({**self.by_digest, key_digest(key): ANYONE})


def key_digest(key: str) -> str:
    """SHA-256 of a key, hexadecimal.

    >>> key_digest("test")[:7]
    '9f86d08'
    """
    return hashlib.sha256(key.encode()).hexdigest()


def read_tenants(path: Path) -> TenantTable:
    """Read a tenants file. Raises BadInput that names the file and what does not fit."""
    try:
        parsed = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        wrong = getattr(error, "strerror", None) or str(error)
        raise BadInput(str(path), wrong, "TOML with [tenant.NAME] tables of keys, adapters, weight, rpm") from error
    by_digest: dict[str, Tenant] = {}
    for name, entry in parsed.tenant.items():
        where = f"{path}: [tenant.{name}]"
        tenant = _tenant(name, entry, where)
        for key in entry.keys:
            digest = _digest(key, where)
            if digest in by_digest:
                raise BadInput(where, f"a key that {by_digest[digest].name!r} has too", "every key once")
            by_digest[digest] = tenant
    if not by_digest:
        raise BadInput(str(path), "no keys", "at least one tenant with a key")
    return TenantTable(by_digest)


def tenant_table(path: Path | None, operator_key: str | None) -> TenantTable:
    """The tenants of a file, and the operator, who may do everything; everyone may where there is neither."""
    table = read_tenants(path) if path is not None else TenantTable()
    return table.with_key(operator_key) if operator_key else table


def _tenant(name: str, entry: _Entry, where: str) -> Tenant:
    if not name or len(name.encode()) > 128:
        raise BadInput(where, "the tenant's name", "1 to 128 bytes")
    if not (math.isfinite(entry.weight) and entry.weight > 0):
        raise BadInput(where, f"weight = {entry.weight}", "a finite number above 0")
    if entry.rpm is not None and entry.rpm < 1:
        raise BadInput(where, f"rpm = {entry.rpm}", "1 or more")
    return Tenant(name, None if entry.adapters is None else frozenset(entry.adapters), entry.weight, entry.rpm)


def _digest(key: str, where: str) -> str:
    if not key.startswith(PREFIX):
        if not key:
            raise BadInput(where, "an empty key", "a key or its sha256:")
        return key_digest(key)
    digest = key.removeprefix(PREFIX).lower()
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise BadInput(where, f"key {key[:14]}…", "sha256: and 64 hexadecimal digits")
    return digest


class RateLimiter:
    """At most `rpm` requests of a tenant in any 60 seconds; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken: dict[str, deque[float]] = {}

    def take(self, tenant: Tenant) -> float:
        """Take one request's place and return 0, or return the seconds until there is one."""
        if tenant.rpm is None:
            return 0.0
        now_s = self._clock()
        taken = self._taken.setdefault(tenant.name, deque())
        while taken and taken[0] <= now_s - WINDOW_S:
            taken.popleft()
        if len(taken) >= tenant.rpm:
            return taken[0] + WINDOW_S - now_s
        taken.append(now_s)
        return 0.0
