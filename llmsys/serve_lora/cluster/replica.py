"""One simulated replica: a running batch whose steps take what the step model says.

Steps in which nothing changes but lengths are taken together, so that a simulation costs time by events, not by
tokens. Knows nothing of other replicas or of the queue.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from llmsys.serve_lora.cluster.jobs import Job
from llmsys.serve_lora.cluster.profile import ReplicaProfile
from llmsys.serve_lora.step_cost import StepRow, split_step, step_parts

__all__ = ["Charge", "Replica", "Stretch"]

Charge = Callable[[str, float], None]


@dataclass(slots=True)
class Stretch:
    """`steps` equal steps from start_s on, the first taking step_s and each next one growth_s more, after load_s.

    chunks: the tokens of each job in a step. loads: who waits for an adapter, and for how long.
    """

    start_s: float
    steps: int
    step_s: float
    growth_s: float
    chunks: list[tuple[Job, int]]
    loads: list[tuple[str, float]]

    @property
    def load_s(self) -> float:
        """Seconds before the first step."""
        return math.fsum(seconds for _, seconds in self.loads)

    def end_s(self, steps: int) -> float:
        """When the first so many steps are over."""
        growth = self.growth_s * steps * (steps - 1) / 2
        return self.start_s + self.load_s + steps * self.step_s + growth

    def begun(self, now_s: float) -> int:
        """How many steps have begun by now: at least one."""
        low, high = 1, self.steps
        while low < high:
            middle = (low + high) // 2
            if self.end_s(middle) >= now_s:
                high = middle
            else:
                low = middle + 1
        return low


class Replica:
    """A replica from its start to its release. merged_for: the adapter whose weights are folded in, None for none."""

    def __init__(
        self, number: int, profile: ReplicaProfile, *, start_s: float, owner: str, merged_for: str | None
    ) -> None:
        self.number = number
        self.start_s = start_s
        self.ready = False
        self.owner = owner
        self.merged_for = merged_for
        self.running: list[Job] = []
        self.resident: OrderedDict[str, None] = OrderedDict()
        self.idle_since_s = start_s
        self.stretch: Stretch | None = None
        self.version = 0
        self._profile = profile
        self._model = profile.model

    def fits(self, job: Job) -> bool:
        """Whether a job can be admitted now: a place in the batch, room for its tokens, a slot for its adapter."""
        if not self.ready or len(self.running) >= self._profile.max_batch:
            return False
        if self.merged_for is not None and self.merged_for != job.adapter:
            return False
        if job.adapter and self.merged_for is None:
            held = self._held_adapters()
            if job.adapter not in held and len(held) >= self._profile.lora_slots:
                return False
        return self.held_tokens() + job.known + 1 + len(self.running) <= self._profile.kv_tokens

    def held_tokens(self) -> int:
        """Tokens whose memory is taken."""
        return sum(job.known for job in self.running)

    def admit(self, job: Job) -> None:
        """Put a job into the batch; its first step is the next that begins."""
        self.running.append(job)
        self.owner = job.tenant

    def plan(self, now_s: float) -> Stretch:
        """The next steps: one while prompts are computed, else as many as end nobody and fit the memory."""
        chunks, budget = [], self._profile.batch_tokens
        for job in sorted(self.running, key=lambda job: (job.pending > 1 or not job.produced, job.order)):
            tokens = min(job.pending, budget)
            budget -= tokens
            if tokens > 0:
                chunks.append((job, tokens))
        decoding = all(job.produced and job.pending == 1 for job, _ in chunks) and len(chunks) == len(self.running)
        rows = self._rows(chunks)
        steps = 1
        if decoding:
            room = (self._profile.kv_tokens - self.held_tokens()) // len(self.running)
            steps = max(min(room, *(job.remaining for job in self.running)), 1)
        loads = [load for job, _ in chunks if (load := self._load(job)) is not None]
        step_s = math.fsum(step_parts(rows, self._model))
        self.stretch = Stretch(now_s, steps, step_s, self._model.context_s * len(chunks), chunks, loads)
        return self.stretch

    def settle(self, steps: int, charge: Charge) -> list[Job]:
        """End the stretch after so many of its steps; charge its time; return the jobs that are done."""
        assert self.stretch is not None
        stretch, self.stretch = self.stretch, None
        end_s = stretch.end_s(steps)
        for tenant, seconds in stretch.loads:
            charge(tenant, seconds)
        rows = self._rows(stretch.chunks, ahead=(steps - 1) // 2)
        shares = split_step(end_s - stretch.start_s - stretch.load_s, rows, self._model)
        for row, share in zip(rows, shares, strict=True):
            charge(row.tenant, share)
        done = []
        for job, tokens in stretch.chunks:
            job.computed += tokens if steps == 1 else steps
            if job.computed == job.known or steps > 1:
                job.produced += steps
                job.first_s = job.first_s if job.first_s is not None else end_s
            if job.remaining <= 0:
                job.finish_s = end_s
                done.append(job)
        self.running = [job for job in self.running if job.finish_s is None]
        return done

    def newest_over_memory(self) -> list[Job]:
        """Take out the newest jobs until the next step fits (Punica, §5); they lose their keys and values."""
        taken = []
        while len(self.running) > 1 and self.held_tokens() + len(self.running) > self._profile.kv_tokens:
            newest = max(self.running, key=lambda job: job.order)
            self.take_out(newest)
            taken.append(newest)
        return taken

    def take_out(self, job: Job) -> None:
        """Remove a job; prompt and tokens are to be computed again elsewhere."""
        self.running.remove(job)
        job.computed = 0
        job.moves += 1

    def _rows(self, chunks: list[tuple[Job, int]], *, ahead: int = 0) -> list[StepRow]:
        rank, merged = self._profile.adapter_rank, self.merged_for is not None
        rows = [job.row(tokens, rank=rank, merged=merged) for job, tokens in chunks]
        if ahead == 0:
            return rows
        return [
            StepRow(r.request, r.tenant, r.adapter, r.rank, r.prefill_tokens, r.decode_tokens, r.context_tokens + ahead)
            for r in rows
        ]

    def _held_adapters(self) -> set[str]:
        """Adapters of running jobs, whose slots cannot be taken."""
        return {job.adapter for job in self.running if job.adapter}

    def _load(self, job: Job) -> tuple[str, float] | None:
        """Bring the job's adapter in, and out the one used longest ago by a job that has ended."""
        if not job.adapter or self.merged_for is not None:
            return None
        known = job.adapter in self.resident
        self.resident[job.adapter] = None
        self.resident.move_to_end(job.adapter)
        if known:
            return None
        if len(self.resident) > self._profile.lora_slots:
            held = self._held_adapters()
            del self.resident[next(name for name in self.resident if name not in held)]
        return job.tenant, self._profile.adapter_load_s
