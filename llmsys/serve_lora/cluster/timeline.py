"""A simulated run as bars on a timeline: each request's waiting and answering, in rows of its tenant.

Knows nothing of files.
"""

from collections.abc import Iterator

from llmsys.artifacts import Span
from llmsys.serve_lora.cluster.simulation import Outcome

__all__ = ["timeline"]


def timeline(outcome: Outcome) -> Iterator[Span]:
    """Two bars per request, waiting and answering, in the first row of its tenant that is free."""
    free_s: dict[str, list[float]] = {}
    for job in outcome.jobs:
        assert job.first_s is not None
        assert job.finish_s is not None
        arrival_s, rows = job.record.arrival_s, free_s.setdefault(job.tenant, [])
        row = next((at for at, end_s in enumerate(rows) if end_s <= arrival_s), len(rows))
        rows[row:] = [job.finish_s, *rows[row + 1 :]]
        track = f"{job.tenant} {row + 1}"
        facts: dict[str, str | int | float | bool | None] = {
            "id": job.record.id,
            "adapter": job.adapter,
            "moves": job.moves,
        }
        yield Span("wait", track, arrival_s, job.first_s - arrival_s, facts)
        told = facts | {"prompt_tokens": job.record.prompt_tokens, "output_tokens": job.produced}
        yield Span(job.adapter or "base", track, job.first_s, job.finish_s - job.first_s, told)
