"""Compiled loops as the threads of a team enter them: a record of addresses and sizes in, arrays over memory inside.

Knows the records, not tensors; one set of entries per number format of activations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray

from llmsys.engine.loops import attend_rows, rms_norm, silu_mul
from llmsys.engine.team import TeamLoop, pointer, team_size, thread_number

__all__ = ["LoopEntries", "loop_entries"]


def _record(*names: str, **others: str) -> np.dtype[np.void]:
    return np.dtype([*((name, "i8") for name in names), *others.items()])


NORM = _record("rows", "width", "x", "weight", "out", eps="f8")
SILU = _record("rows", "width", "gate_up", "out")
ATTEND = _record(
    *("tokens", "heads", "kv_heads", "head_dim", "rows", "max_len", "positions", "decoding"),
    *("qk", "qk_stride", "v", "v_stride", "cos", "sin", "keys", "values", "places", "out"),
)


@dataclass(frozen=True, slots=True)
class LoopEntries:
    """The loops over activations of one number format; each takes its record's fields in order."""

    norm: TeamLoop
    silu: TeamLoop
    attend: TeamLoop


def loop_entries(element: Any) -> LoopEntries:  # noqa: ANN401
    """Compile, or read from disk, the entries for activations that stand in memory as numpy type `element`."""

    def norm(given: Any) -> None:  # noqa: ANN401
        a = carray(given, 1)[0]
        x = carray(pointer(a.x, element), (a.rows, a.width))
        out = carray(pointer(a.out, element), (a.rows, a.width))
        rms_norm(x, carray(pointer(a.weight, element), (a.width,)), a.eps, out, thread_number(), team_size())

    def silu(given: Any) -> None:  # noqa: ANN401
        a = carray(given, 1)[0]
        gate_up = carray(pointer(a.gate_up, element), (a.rows, 2 * a.width))
        silu_mul(gate_up, carray(pointer(a.out, element), (a.rows, a.width)), thread_number(), team_size())

    def attend(given: Any) -> None:  # noqa: ANN401
        a = carray(given, 1)[0]
        arena = (a.rows, a.kv_heads, a.max_len, a.head_dim)
        table = (a.positions, a.head_dim)
        places = carray(pointer(a.places, np.int64), (3, a.decoding))
        attend_rows(
            carray(pointer(a.qk, element), (a.tokens, a.qk_stride)),
            carray(pointer(a.v, element), (a.tokens, a.v_stride)),
            carray(pointer(a.cos, element), table),
            carray(pointer(a.sin, element), table),
            carray(pointer(a.keys, element), arena),
            carray(pointer(a.values, element), arena),
            places[0],
            places[1],
            places[2],
            carray(pointer(a.out, element), (a.tokens, a.heads * a.head_dim)),
            thread_number(),
            team_size(),
        )

    return LoopEntries(TeamLoop(norm, NORM), TeamLoop(silu, SILU), TeamLoop(attend, ATTEND))
