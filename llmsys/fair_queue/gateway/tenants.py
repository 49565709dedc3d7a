"""Who may ask, and for how much: the tenants file, its keys, and the limits that apply to each tenant.

Keys are kept as SHA-256 only. Knows no request and no counter.
"""

import hashlib
import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from llmsys.errors import BadInput

__all__ = ["NO_LIMITS", "TenantLimits", "TenantTable", "hash_key", "limits_from", "read_tenants"]

MAX_NAME_BYTES = 128
PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What the file says of one tenant; None where it says nothing. `rpm` requests a minute, `ttft_slo_ms` a target."""

    weight: float = 1.0
    max_queue: int | None = None
    rpm: int | None = None
    ttft_slo_ms: float | None = None


NO_LIMITS = TenantLimits()


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str] = []
    weight: float | None = None
    max_queue: int | None = None
    rpm: int | None = None
    ttft_slo_ms: float | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    defaults: _Entry = msgspec.field(default_factory=_Entry)
    tenant: dict[str, _Entry] = {}


def hash_key(key: str) -> str:
    """What the tenants file holds in place of a key.

    >>> hash_key("test")[:14]
    'sha256:9f86d08'
    """
    return PREFIX + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TenantTable:
    """The file's content: limits by tenant, defaults for the others, tenants by hashed key; `warnings` for people."""

    limits: dict[str, TenantLimits] = field(default_factory=dict)
    defaults: TenantLimits = NO_LIMITS
    keys: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def of(self, tenant: str) -> TenantLimits:
        """The tenant's limits, or the defaults."""
        return self.limits.get(tenant, self.defaults)

    def tenant_of_key(self, key: bytes) -> str | None:
        """The tenant that a key belongs to.

        Only hashes are compared: how long that takes tells an attacker about SHA-256 digests, not about keys.
        """
        return self.keys.get(hashlib.sha256(key).hexdigest())

    def weights(self) -> dict[str, float]:
        """The weights of the tenants named in the file, in units of the default's, which a policy takes for 1."""
        return {name: limits.weight / self.defaults.weight for name, limits in self.limits.items()}

    def changed(self, tenant: str, limits: TenantLimits) -> "TenantTable":
        """The table with one tenant's limits replaced."""
        return replace(self, limits={**self.limits, tenant: limits})


def read_tenants(path: Path) -> TenantTable:
    """Read a tenants file. Raises BadInput that names the file and the key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
        parsed = msgspec.convert(values, _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        wrong = getattr(error, "strerror", None) or str(error)
        raise BadInput(str(path), wrong, "TOML with [defaults] and [tenant.NAME] tables") from error
    defaults = _limits(parsed.defaults, NO_LIMITS, f"{path}: [defaults]")
    if parsed.defaults.keys:
        raise BadInput(f"{path}: [defaults]", "keys", "keys in [tenant.NAME] only")
    limits: dict[str, TenantLimits] = {}
    keys: dict[str, str] = {}
    warnings: list[str] = []
    for name, entry in parsed.tenant.items():
        where = f"{path}: [tenant.{name}]"
        _check_name(name, where)
        limits[name] = _limits(entry, defaults, where)
        for key in entry.keys:
            digest = _digest(key, where, warnings)
            if digest in keys:
                raise BadInput(where, f"a key that {keys[digest]!r} has too", "every key once")
            keys[digest] = name
    return TenantTable(limits, defaults, keys, tuple(warnings))


def limits_from(values: object, base: TenantLimits, where: str) -> TenantLimits:
    """Limits from JSON values, as the admin interface takes them; what is absent stays. Raises BadInput."""
    try:
        entry = msgspec.convert(values, _Entry)
    except msgspec.ValidationError as error:
        raise BadInput(where, str(error), "weight, max_queue, rpm or ttft_slo_ms") from error
    if entry.keys:
        raise BadInput(where, "keys", "keys in the tenants file only")
    return _limits(entry, base, where)


def _limits(entry: _Entry, base: TenantLimits, where: str) -> TenantLimits:
    given: dict[str, Any] = {
        name: value
        for name in ("weight", "max_queue", "rpm", "ttft_slo_ms")
        if (value := getattr(entry, name)) is not None
    }
    for name, value in given.items():
        least = 0 if name == "max_queue" else math.ulp(0.0)
        if not (math.isfinite(value) and value >= least):
            raise BadInput(where, f"{name} = {value}", "a finite number above 0")
    return replace(base, **given)


def _check_name(name: str, where: str) -> None:
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise BadInput(where, "the tenant's name", f"1 to {MAX_NAME_BYTES} bytes")


def _digest(key: str, where: str, warnings: list[str]) -> str:
    if not key.startswith(PREFIX):
        warnings.append(f"{where}: a key in plain text; `llmsys fair-queue gateway hash-key` hashes it")
        return hash_key(key).removeprefix(PREFIX)
    digest = key.removeprefix(PREFIX).lower()
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise BadInput(where, f"key {key[:14]}…", "sha256: and 64 hexadecimal digits")
    return digest
