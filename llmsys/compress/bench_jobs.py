"""The jobs of `bench` by name: rows as they are measured, then what they sum up to.

Knows no codec.
"""

from collections.abc import Iterator, Sequence

from llmsys.compress.bench_peers import PEERS
from llmsys.compress.bench_speed import SpeedRow, lossless_rows, speed_rows
from llmsys.compress.bench_weights import MethodMean, RateRow, TargetRow, means_of, rate_rows, rate_targets
from llmsys.compress.bench_workloads import MODELS, matrices
from llmsys.compress.planning import check_bits
from llmsys.compress.sweeping import parse_list
from llmsys.errors import UsageFault

__all__ = ["Row", "rows_of", "summary_of"]

Row = RateRow | SpeedRow


def rows_of(job: str, *, models: str, pattern: str, rates: str, methods: str, megabytes: float) -> Iterator[Row | str]:
    """Rows of a job; text names a peer that is missing. Raises UsageFault for names and numbers that are none."""
    chosen = parse_list(models)
    if strange := [model for model in chosen if model not in MODELS]:
        raise UsageFault(f"--model {strange[0]!r}; expected {' or '.join(MODELS)}")
    if job == "weights":
        peers = parse_list(methods) or list(PEERS)
        if unknown := [name for name in peers if name not in PEERS]:
            raise UsageFault(f"--methods {unknown[0]!r}; expected some of {', '.join(PEERS)}")
        try:
            wanted = [check_bits(float(rate)) for rate in parse_list(rates)]
        except ValueError as error:
            raise UsageFault(f"--bits {rates!r}: {error}") from error
        work = (found for model in chosen for found in matrices(model, pattern))
        yield from rate_rows(work, wanted, {name: PEERS[name] for name in peers})
        return
    measured = speed_rows if job == "speed" else lossless_rows
    for model in chosen:
        yield from measured(model, megabytes=megabytes)


def summary_of(job: str, rows: Sequence[Row]) -> list[MethodMean | TargetRow]:
    """Means and targets of the weights job; nothing for the others, whose rows say all."""
    if job != "weights":
        return []
    found = [row for row in rows if isinstance(row, RateRow)]
    return [*means_of(found), *rate_targets(found)]
