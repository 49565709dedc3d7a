"""What a simulation returns: times per request, and what a person compares policies by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import TraceRecord

__all__ = ["Result", "Workload", "workload_of"]

Floats = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Workload:
    """A trace as columns, by arrival: `tenant` indexes `tenants`, which is in order of first arrival."""

    ids: list[str]
    tenants: list[str]
    tenant: NDArray[np.int32]
    arrival: Floats
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    records: list[TraceRecord]


def workload_of(trace: Iterable[TraceRecord]) -> Workload:
    """The columns of a trace. Raises ValueError for an id that comes twice or arrivals out of order."""
    records = list(trace)
    tenants: dict[str, int] = {}
    tenant = [tenants.setdefault(record.tenant, len(tenants)) for record in records]
    ids = [record.id for record in records]
    if len(set(ids)) < len(ids):
        twice = next(name for index, name in enumerate(ids) if name in set(ids[:index]))
        raise ValueError(f"request {twice!r} comes twice in the trace; ids must differ")
    arrival = np.array([record.arrival_s for record in records], np.float64)
    if (np.diff(arrival) < 0).any():
        raise ValueError("the trace is not in order of arrival")
    return Workload(
        ids=ids,
        tenants=list(tenants),
        tenant=np.array(tenant, np.int32),
        arrival=arrival,
        prompt=np.array([record.prompt_tokens for record in records], np.int64),
        output=np.array([record.output_tokens for record in records], np.int64),
        records=records,
    )


@dataclass(slots=True, frozen=True)
class Result:
    """Per request of the workload: seconds of admission, first token and end, NaN if it did not come to that.

    `refused` marks those that the policy or the machine turned away; `order` lists the admitted in order of admission,
    a preempted one again.
    """

    workload: Workload
    admit_s: Floats
    first_s: Floats
    finish_s: Floats
    refused: NDArray[np.bool_]
    order: list[int]

    @property
    def makespan_s(self) -> float:
        """The end of the last request; 0 if none ran."""
        return float(np.nanmax(self.finish_s)) if (~np.isnan(self.finish_s)).any() else 0.0

    @property
    def ttft_s(self) -> Floats:
        """Seconds from arrival to the first token, of the requests that got one."""
        waits = self.first_s - self.workload.arrival
        return waits[~np.isnan(waits)]

    def per_request(self) -> Iterator[dict[str, object]]:
        """One record per request, by arrival; times are None where it did not come to that."""
        columns = (self.admit_s, self.first_s, self.finish_s)
        for index, record in enumerate(self.workload.records):
            admit_s, first_s, finish_s = (None if np.isnan(times[index]) else float(times[index]) for times in columns)
            yield {
                "id": record.id,
                "tenant": record.tenant,
                "arrival_s": record.arrival_s,
                "admit_s": admit_s,
                "first_s": first_s,
                "finish_s": finish_s,
                "prompt_tokens": record.prompt_tokens,
                "output_tokens": record.output_tokens,
                "refused": bool(self.refused[index]),
            }
