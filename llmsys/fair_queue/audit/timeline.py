"""Service per tenant over time, as a figure shows it. Knows no bound."""

from pathlib import Path

import numpy as np

from llmsys.fair_queue.audit.columns import ADMIT, TOKEN, Columns, read_log
from llmsys.fair_queue.audit.scan import Floats

__all__ = ["service_over_time"]


def service_over_time(
    source: str | Path, *, wp: float | None = None, wq: float | None = None, replica: int | None = None
) -> dict[str, tuple[Floats, Floats]]:
    """Accumulated service of every tenant: times in seconds and cost units per weight, one point per charge.

    A prompt is charged when its request is admitted for the first time, output tokens as they come. Raises BadInput as
    `check_file` does.
    """
    columns = read_log(source, replica)
    meta = columns.meta
    charges = _charges(
        columns,
        meta.prompt_weight if wp is None else wp,
        meta.output_weight if wq is None else wq,
    )
    found = {}
    for index, name in enumerate(columns.tenants):
        rows = (columns.tenant == index) & (charges > 0)
        found[name] = (columns.time[rows], np.cumsum(charges[rows]) / meta.weights.get(name, 1.0))
    return found


def _charges(columns: Columns, wp: float, wq: float) -> Floats:
    """Cost of each event."""
    first_admission = (columns.kind == ADMIT) & (columns.time == columns.stamps[columns.request, 1])
    prompts = np.where(first_admission, wp * columns.prompt[columns.request], 0.0)
    return prompts + np.where(columns.kind == TOKEN, wq * columns.tokens, 0.0)
