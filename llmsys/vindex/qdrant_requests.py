"""The part of Qdrant's REST interface that a shared-vector index can mean: points with a keyword list of tenants.

A point is a vector with `payload.tenants`; a filter says `must` and `must_not` match a tenant, which becomes a
predicate over labels. Any other condition is refused by name: an ignored one would show vectors that it hides. Knows no
HTTP.
"""

import msgspec

from llmsys.errors import BadInput
from llmsys.vindex.changes import ChangeRecord
from llmsys.vindex.slot_store import Id

__all__ = [
    "DeleteRequest",
    "PayloadRequest",
    "QueryRequest",
    "UpsertRequest",
    "deleted",
    "granted",
    "predicate",
    "upserted",
]

KEY = "tenants"


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A keyword, or any of several."""

    value: str | None = None
    any: list[str] | None = None


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on the list of tenants."""

    key: str
    match: Match


Conditions = list[Condition] | Condition | None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `must`, any of `should`, none of `must_not`."""

    must: Conditions = None
    should: Conditions = None
    must_not: Conditions = None


class Nearest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query as clients wrap it."""

    nearest: list[float]


class QueryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search by vector; vectors are not given back."""

    query: list[float] | Nearest
    filter: Filter | None = None
    limit: int = 10
    with_payload: bool = False
    with_vector: bool = False
    score_threshold: float | None = None

    @property
    def vector(self) -> list[float]:
        """What is searched for. Raises BadInput where vectors are wanted back."""
        if self.with_vector:
            raise BadInput("with_vector", "vectors are not given back", "false")
        return self.query.nearest if isinstance(self.query, Nearest) else self.query


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a point carries beside its vector."""

    tenants: list[str] | str = []


class Point(msgspec.Struct, frozen=True):
    """One point."""

    id: Id
    vector: list[float]
    payload: Payload | None = None


class Batch(msgspec.Struct, frozen=True):
    """Points by column."""

    ids: list[Id]
    vectors: list[list[float]]
    payloads: list[Payload | None] | None = None


class UpsertRequest(msgspec.Struct, frozen=True):
    """Points to put in or replace, one of the two ways."""

    points: list[Point] | None = None
    batch: Batch | None = None


class DeleteRequest(msgspec.Struct, frozen=True):
    """Points to delete, by id."""

    points: list[Id]


class PayloadRequest(msgspec.Struct, frozen=True):
    """Tenants that points shall have beside those that they have."""

    payload: Payload
    points: list[Id]


def upserted(request: UpsertRequest) -> list[ChangeRecord]:
    """The changes of an upsert. Raises BadInput for columns of several lengths."""
    points = request.points or []
    if request.batch is not None:
        batch = request.batch
        payloads = batch.payloads or [None] * len(batch.ids)
        if not len(batch.ids) == len(batch.vectors) == len(payloads):
            raise BadInput("batch", f"{len(batch.ids)} ids, {len(batch.vectors)} vectors", "one for each")
        points = [Point(*columns) for columns in zip(batch.ids, batch.vectors, payloads, strict=True)]
    return [
        ChangeRecord("add", point.id, vector=point.vector, tenants=_tenants(point.payload or Payload()))
        for point in points
    ]


def deleted(request: DeleteRequest) -> list[ChangeRecord]:
    """The changes of a deletion."""
    return [ChangeRecord("delete", one) for one in dict.fromkeys(request.points)]


def granted(request: PayloadRequest) -> list[ChangeRecord]:
    """The changes of a payload."""
    return [ChangeRecord("grant", ids=request.points, tenant=name) for name in _tenants(request.payload)]


def predicate(asked: Filter | None) -> str | None:
    """The predicate of a filter. Raises BadInput for a key other than `tenants`."""
    if asked is None:
        return None
    parts = [_any(one) for one in _listed(asked.must)]
    parts += [f"NOT {_any(one)}" for one in _listed(asked.must_not)]
    either = [_any(one) for one in _listed(asked.should)]
    parts += [f"({' OR '.join(either)})"] if either else []
    return " AND ".join(parts) or None


def _listed(asked: Conditions) -> list[Condition]:
    return [] if asked is None else [asked] if isinstance(asked, Condition) else asked


def _any(one: Condition) -> str:
    if one.key != KEY:
        raise BadInput(f"filter key {one.key!r}", "not kept by this index", f"{KEY!r}")
    if (one.match.value is None) == (one.match.any is None):
        raise BadInput("match", "neither `value` nor `any`, or both", "one of them")
    names = [one.match.value] if one.match.value is not None else one.match.any or []
    if not names:
        raise BadInput("match", "`any` of nothing", "a tenant or more")
    return f"ANY({', '.join(_quoted(name) for name in names)})"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _tenants(payload: Payload) -> list[str]:
    return [payload.tenants] if isinstance(payload.tenants, str) else payload.tenants
