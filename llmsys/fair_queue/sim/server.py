"""One simulated server, step by step: admission, prefill, decode, with any policy and any rule of memory.

The steps are the VTC artifact's: admission when nothing runs or `admit_every` decode steps have passed since the last;
a prefill stalls decoding and gives each request its first token. With chunked prefill, or a policy that forms batches,
prompt tokens join the decode steps instead. Knows no other server and not when requests arrive.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmsys.artifacts import Event, TraceRecord
from llmsys.fair_queue.policy import BatchFormer, CacheAware, Policy, Preemptive, Request, Throttled
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine, peak_tokens
from llmsys.fair_queue.sim.prefix_cache import PrefixCache
from llmsys.fair_queue.sim.result import Result

__all__ = ["OnEvent", "Server"]

OnEvent = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class _Running:
    """A request in the batch: `todo` prompt tokens are still to be computed, `pinned` blocks are in the cache."""

    index: int
    record: TraceRecord
    generated: int = 0
    todo: int = 0
    pinned: int = 0

    @property
    def held(self) -> int:
        return self.record.prompt_tokens + self.generated

    @property
    def final(self) -> int:
        return self.record.prompt_tokens + self.record.output_tokens


class Server:
    """A batch in steps. `begin` starts the next step if there is one, `complete` ends it; `ends_s` is when, else None.

    Writes times into `result` and events, in order of time, to `on_event`.
    """

    def __init__(
        self,
        number: int,
        policy: Policy,
        hardware: Hardware,
        machine: Machine,
        result: Result,
        on_event: OnEvent | None,
    ) -> None:
        self.number = number
        self.ends_s: float | None = None
        self.waiting = 0
        self.ended: list[int] = []
        self._policy = policy
        self._hardware = hardware
        self._machine = machine
        self._result = result
        self._on_event = on_event
        self._former = policy if isinstance(policy, BatchFormer) else None
        self._chunked = machine.chunk > 0 or self._former is not None
        self._cache = PrefixCache(machine.block_tokens) if machine.prefix_cache else None
        self._batch: list[_Running] = []
        self._step: list[_Running] = []
        self._known: dict[str, _Running] = {}
        self._since_admission = 0
        self._refused: _Running | None = None

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return self.waiting + len(self._batch)

    def offer(self, index: int, at_s: float) -> None:
        """Queue the request at `index` of the workload, or refuse it."""
        record = self._result.workload.records[index]
        fits = self._machine.holds(record.prompt_tokens, record.output_tokens)
        if fits and self._policy.arrive(_request(record), at_s).accepted:
            self._known[record.id] = _Running(index, record)
            self.waiting += 1
            self._emit("arrive", index, at_s, record.output_tokens)
        else:
            self._result.refused[index] = True
            self._emit("reject", index, at_s)

    def wake_s(self, now_s: float) -> float | None:
        """When an idle server should look again although nothing arrives; None if never."""
        if self.waiting and isinstance(self._policy, Throttled):
            return self._policy.wake_s(now_s)
        return None

    def begin(self, now_s: float) -> None:
        """Start the next step, if something runs or may start."""
        due = not self._batch or self._since_admission >= self._machine.admit_every
        new = self._admit_all(now_s) if due and self.waiting else []
        if new:
            self._since_admission = 0
        if self._chunked:
            self._begin_mixed(now_s)
        elif new:
            self._step = new
            self.ends_s = now_s + self._hardware.prefill_s(self._take_chunks(1 << 40))
        elif self._batch:
            self._make_room(now_s)
            self._step = list(self._batch)
            self._since_admission += 1
            self.ends_s = now_s + self._decode_s(self._step)

    def complete(self) -> None:
        """End the step: its requests get their tokens, and those that are done leave."""
        assert self.ends_s is not None
        now_s, self.ends_s = self.ends_s, None
        self._computed()
        for one in self._step:
            if one.generated < one.record.output_tokens:
                one.generated += 1
                if np.isnan(self._result.first_s[one.index]):
                    self._result.first_s[one.index] = now_s
                self._policy.tokens(one.record.id, 1, now_s)
                self._emit("token", one.index, now_s, 1)
        for one in self._step:
            if one.generated == one.record.output_tokens:
                self._finish(one, now_s)
        self._batch = [one for one in self._batch if one.record.id in self._known]

    def _finish(self, one: _Running, now_s: float) -> None:
        self._policy.finish(one.record.id, now_s)
        del self._known[one.record.id]
        self._result.finish_s[one.index] = now_s
        self.ended.append(one.index)
        self._let_go(one)
        self._emit("finish", one.index, now_s)

    def _decode_s(self, those: list[_Running]) -> float:
        return self._hardware.decode_s(len(those), sum(one.held for one in those))

    def _begin_mixed(self, now_s: float) -> None:
        """A step of decodes and of as much prefill as the chunk, or the policy, allows."""
        self._make_room(now_s)
        if not self._batch:
            return
        decoding = [one for one in self._batch if not one.todo]
        decode_s = self._decode_s(decoding) if decoding else 0.0
        budget = self._machine.chunk
        if self._former is not None:
            lent = self._former.prefill_tokens(now_s, decode_s=decode_s, token_s=self._hardware.p1)
            budget = min(lent, budget or self._machine.max_prefill)
        chunk = self._take_chunks(budget)
        self._step = decoding + [one for one in self._batch if one not in decoding and not one.todo]
        self._since_admission += 1
        self.ends_s = now_s + (decode_s + chunk * self._hardware.p1 if decoding else self._hardware.prefill_s(chunk))

    def _take_chunks(self, budget: int) -> int:
        """Take prompt tokens off the batch's requests, oldest first; returns how many."""
        taken = 0
        for one in self._batch:
            part = min(one.todo, budget - taken)
            one.todo -= part
            taken += part
        return taken

    def _admit_all(self, now_s: float) -> list[_Running]:
        """Admit; where the policy would stop others for the next in line, and that helps, do so and admit again."""
        new = self._admit(now_s)
        while (victims := self._way_for_the_next(now_s)) is not None:
            for victim in victims:
                self._preempt(victim, now_s, "priority")
            new = [one for one in new if one not in victims] + self._admit(now_s)
        return new

    def _admit(self, now_s: float) -> list[_Running]:
        """Ask the policy; every request that fits is reserved for at once."""
        new: list[_Running] = []
        self._refused = None

        def fits(request: Request) -> bool:
            candidate = self._known[request.id]
            if self._fits(candidate, self._batch, new):
                new.append(candidate)
                return True
            self._refused = candidate
            return False

        for request in self._policy.admit(now_s, fits):
            self._start(self._known[request.id], now_s)
        self._batch += new
        return new

    def _start(self, one: _Running, now_s: float) -> None:
        result = self._result
        self.waiting -= 1
        result.order.append(one.index)
        cached = 0
        if self._cache is not None:
            cached = self._cache.match(one.record.prefix, one.record.prompt_tokens)
            one.pinned = self._cache.start(one.record.prefix)
        one.todo = one.held - cached
        if np.isnan(result.admit_s[one.index]):
            result.admit_s[one.index] = now_s
            if cached and isinstance(self._policy, CacheAware):
                self._policy.cached(one.record.id, cached, now_s)
        self._emit("admit", one.index, now_s, cached_tokens=cached)

    def _fits(self, candidate: _Running, batch: list[_Running], new: list[_Running]) -> bool:
        joining = 0 if self._chunked else sum(one.held for one in new)
        return self._has_room(candidate, batch, new) and (
            joining == 0 or joining + candidate.held <= self._machine.max_prefill
        )

    def _has_room(self, candidate: _Running, batch: list[_Running], new: list[_Running]) -> bool:
        machine, together = self._machine, [*batch, *new]
        if len(together) >= machine.max_batch:
            return False
        if machine.reserve == "sum":
            return sum(one.final for one in together) + candidate.final <= machine.memory
        if machine.reserve == "paged":
            # one token of room for everyone, or the next step would preempt at once
            return sum(one.held + 1 for one in [*together, candidate]) <= machine.memory
        running = [(one.held, max(one.record.output_tokens - one.generated - 1, 0)) for one in batch]
        starting = [(one.held + 1, max(one.record.output_tokens - one.generated - 1, 0)) for one in [*new, candidate]]
        return peak_tokens(running + starting) < machine.memory

    def _way_for_the_next(self, now_s: float) -> list[_Running] | None:
        """The fewest running requests that the policy would stop and without which the next in line fits."""
        if self._refused is None or not isinstance(self._policy, Preemptive):
            return None
        if self._has_room(self._refused, self._batch, []):
            return None
        stopped: list[_Running] = []
        for name in self._policy.victims(now_s):
            stopped.append(self._known[name])
            if self._has_room(self._refused, [one for one in self._batch if one not in stopped], []):
                return stopped
        return None

    def _make_room(self, now_s: float) -> None:
        """Preempt the newest until the step's tokens have room, with paged memory; one request alone always has."""
        while self._machine.reserve == "paged" and sum(one.held + 1 for one in self._batch) > self._machine.memory:
            self._preempt(self._batch[-1], now_s, "memory")

    def _preempt(self, victim: _Running, now_s: float, reason: str) -> None:
        self._batch.remove(victim)
        self.waiting += 1
        self._let_go(victim)
        self._policy.preempted(victim.record.id, now_s)
        self._emit("preempt", victim.index, now_s, reason=reason)

    def _computed(self) -> None:
        """Take the blocks of prompts that are whole now into the cache, and keep it within the memory that is left."""
        if self._cache is None:
            return
        for one in self._step:
            one.pinned = self._cache.computed(one.record.prefix, one.pinned)
        self._cache.trim(self._machine.memory - sum(one.held for one in self._batch))

    def _let_go(self, one: _Running) -> None:
        if self._cache is not None:
            self._cache.release(one.record.prefix, one.pinned)
            one.pinned = 0

    def _emit(
        self, event: str, index: int, at_s: float, n: int = 0, *, cached_tokens: int = 0, reason: str = ""
    ) -> None:
        if self._on_event is not None:
            record = self._result.workload.records[index]
            prompt = record.prompt_tokens if event in ("arrive", "admit", "reject") else 0
            self._on_event(
                Event(
                    at_s,
                    event,
                    record.id,
                    record.tenant,
                    n,
                    prompt,
                    cached_tokens,
                    reason=reason,
                    replica=self.number,
                )
            )


def _request(record: TraceRecord) -> Request:
    return Request(
        record.id,
        record.tenant,
        record.prompt_tokens,
        record.output_tokens,
        record.group,
        record.priority,
        record.prefix,
        record.ttft_slo_s,
    )
