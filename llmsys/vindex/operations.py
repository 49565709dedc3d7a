"""The five changes to an index, as records of its log. Knows neither files nor the index that they change."""

from typing import ClassVar

import msgspec
import numpy as np

from llmsys.errors import BadInput
from llmsys.vindex.arrays import F32

__all__ = ["Add", "Delete", "DropTenant", "Grant", "Operation", "Revoke", "decode", "encode"]

Id = int | str


class Add(msgspec.Struct, frozen=True, array_like=True):
    """New vectors, and who may see each; one whose id is there already replaces it."""

    TYPE: ClassVar[int] = 1
    ids: list[Id]
    tenants: list[list[str]]
    raw: bytes

    @property
    def vectors(self) -> F32:
        """The vectors [n, d], as they are stored."""
        return np.frombuffer(self.raw, np.float32).reshape(len(self.ids), -1)


class Delete(msgspec.Struct, frozen=True, array_like=True):
    """Vectors that nobody sees any more."""

    TYPE: ClassVar[int] = 2
    ids: list[Id]


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Vectors that a tenant sees from now on."""

    TYPE: ClassVar[int] = 3
    ids: list[Id]
    tenant: str


class Revoke(msgspec.Struct, frozen=True, array_like=True):
    """Vectors that a tenant sees no more."""

    TYPE: ClassVar[int] = 4
    ids: list[Id]
    tenant: str


class DropTenant(msgspec.Struct, frozen=True, array_like=True):
    """A tenant that sees nothing any more; its vectors stay."""

    TYPE: ClassVar[int] = 5
    tenant: str


Operation = Add | Delete | Grant | Revoke | DropTenant
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[int, msgspec.msgpack.Decoder[Operation]] = {
    kind.TYPE: msgspec.msgpack.Decoder(kind) for kind in (Add, Delete, Grant, Revoke, DropTenant)
}


def encode(operation: Operation) -> tuple[int, bytes]:
    """The type and the payload of a log record."""
    return operation.TYPE, _ENCODER.encode(operation)


def decode(kind: int, payload: bytes, where: str) -> Operation:
    """The operation of a log record. Raises BadInput at `where` for a type or a payload that is none."""
    if kind not in _DECODERS:
        raise BadInput(where, f"operation type {kind}", "1 to 5")
    try:
        return _DECODERS[kind].decode(payload)
    except msgspec.DecodeError as error:
        raise BadInput(where, f"a damaged operation ({error})", "what llmsys wrote") from error
