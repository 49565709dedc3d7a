"""Tenants for traces that have none: one name, a draw by Zipf's law, or a column of the source.

Knows no format. An invented tenant is an assumption; the command says so.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault
from llmsys.fair_queue.traces.published import Imported

__all__ = ["assign_tenants", "poisson_arrivals"]

UNNAMED = "default"
Choose = Callable[[Imported], str]


def assign_tenants(
    rows: Iterable[Imported], *, tenant: str | None = None, rule: str | None = None, seed: int = 42
) -> Iterator[TraceRecord]:
    """Yield records whose tenant is `tenant`, or what `rule` says, or the source's own, or "default".

    rule: `zipf:N,alpha=A` draws one of N tenants, the k-th with weight k^-A; `by=COLUMN` takes the column's value.
    Raises UsageFault for another rule, BadInput for a column that is not there.
    """
    choose = _chooser(tenant, rule, seed)
    for number, row in enumerate(rows):
        yield row.record(number, choose(row))


def poisson_arrivals(rows: Iterable[Imported], *, rate: float, seed: int = 42) -> Iterator[Imported]:
    """Give rows, for sources without times, arrivals at `rate` requests a second on average."""
    clock, now_s = random.Random(seed), 0.0
    for row in rows:
        now_s += clock.expovariate(rate)
        yield replace(row, arrival_s=now_s)


def _chooser(tenant: str | None, rule: str | None, seed: int) -> Choose:
    if tenant is not None and rule is not None:
        raise UsageFault("--tenant and --tenants exclude each other; give one of them")
    if tenant is not None:
        return lambda row: tenant
    if rule is None:
        return lambda row: row.tenant or UNNAMED
    kind, _, rest = rule.partition("=") if rule.startswith("by=") else rule.partition(":")
    if kind == "by" and rest:
        return lambda row: row.row.text(rest)
    if kind == "zipf":
        return _zipf(rest, rule, seed)
    raise UsageFault(f"--tenants {rule!r} is neither zipf:N,alpha=1 nor by=COLUMN")


def _zipf(text: str, rule: str, seed: int) -> Choose:
    count, _, alpha = text.partition(",")
    number = alpha.removeprefix("alpha=") if alpha else "1"
    if not count.isdigit() or int(count) < 1 or not number.replace(".", "", 1).isdigit():
        raise UsageFault(f"--tenants {rule!r} is not zipf:N,alpha=A with N of at least 1 and A of at least 0")
    names = [f"tenant-{index}" for index in range(int(count))]
    weights = [(index + 1) ** -float(number) for index in range(int(count))]
    draw = random.Random(seed)
    return lambda row: draw.choices(names, weights)[0]
