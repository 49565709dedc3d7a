"""A run as a user words it (names, times with units, files) as the configuration that its processes share."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from llmsys.moe_train.durations import optional_seconds, seconds_of
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.faults import faults_text
from llmsys.moe_train.train.shape import read_shape
from llmsys.moe_train.train.trace_faults import trace_faults

__all__ = ["run_config"]

WORDED = (
    "model",
    "experts",
    "top_k",
    "norm_topk",
    "balance",
    "faults",
    "trace",
    "speedup",
    "join_wait",
    "heartbeat",
    "comm_timeout",
)


def run_config(options: Mapping[str, object]) -> RunConfig:
    """The configuration of options by name; those that it has no field for are somebody else's.

    `model` is a name, JSON or a file; `faults` a list, a file or -; `trace` an availability trace whose nodes are the
    workers; `join_wait`, `heartbeat` and `comm_timeout` are times with units. Raises as `read_shape`, BadInput for
    other times.
    """
    plain = {
        name: _worded(value)
        for name, value in options.items()
        if name in RunConfig.__struct_fields__ and name not in WORDED and value is not None
    }
    given = msgspec.convert({name: options[name] for name in WORDED}, _Worded)
    workers = msgspec.convert(plain.get("workers", RunConfig.workers), int)
    traced = trace_faults(given.trace, workers=workers, speedup=given.speedup) if given.trace else ""
    return msgspec.structs.replace(
        msgspec.convert(plain, RunConfig),
        model=read_shape(
            given.model, experts=given.experts, top_k=given.top_k, norm_topk=given.norm_topk, balance=given.balance
        ),
        faults=";".join(part for part in (faults_text(given.faults), traced) if part),
        join_wait_s=optional_seconds(given.join_wait, "--join-wait", 0.0),
        heartbeat_s=seconds_of(given.heartbeat, "--heartbeat"),
        comm_timeout_s=seconds_of(given.comm_timeout, "--comm-timeout"),
    )


class _Worded(msgspec.Struct, frozen=True):
    """The options that need more than their type."""

    model: str
    experts: int | None
    top_k: int | None
    norm_topk: bool | None
    balance: str | None
    faults: str
    trace: Path | None
    speedup: float
    join_wait: str | None
    heartbeat: str
    comm_timeout: str


def _worded(value: object) -> object:
    """Paths as text, lists of them as tuples."""
    if isinstance(value, list):
        return tuple(str(one) for one in value)
    return value if isinstance(value, str | int | float | bool) else str(value)
