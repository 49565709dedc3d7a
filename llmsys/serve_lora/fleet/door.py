"""A fleet behind the doors that a server knows: an engine's streams and counts, its adapter slots, its meter.

Knows nothing of HTTP; how requests find replicas is the dispatcher's.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from pathlib import Path

from llmsys.engine.block_manager import BlockCounts
from llmsys.engine.errors import AdapterError, EngineError, RequestError
from llmsys.engine.outputs import EngineStats
from llmsys.engine.sequence import Request, TokenEvent
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.fleet.fleet import Fleet
from llmsys.serve_lora.fleet.messages import AdapterRef, Pins, Report
from llmsys.serve_lora.fleet.tasks import Job

__all__ = ["FleetDoor", "FleetMeter", "FleetSlots"]

REMEMBERED = 1 << 14
SETTLE_S = 5.0


class FleetSlots:
    """The adapters that all replicas know, as the registry drives them; a slot's number is the pin's."""

    def __init__(self, fleet: Fleet, shelf: AdapterShelf) -> None:
        self._fleet, self._shelf = fleet, shelf
        self._refs: dict[str, AdapterRef] = {}
        self._generations = count(1)
        self._pins: dict[int, str] = {}
        self._numbers = count()

    def register(self, name: str, path: Path | str) -> None:
        """Give a checked path a name; a known name becomes a new generation."""
        digest = self._shelf.get(Path(path)).digest.hex()
        self._refs[name] = AdapterRef(name, str(Path(path).resolve()), next(self._generations), digest)
        self._tell()

    def unregister(self, name: str) -> None:
        """Forget a name; sequences under way end on it."""
        del self._refs[name]
        self._tell(forgotten=[name])

    def ref(self, name: str) -> AdapterRef:
        """What a name means now. Raises AdapterError."""
        if name not in self._refs:
            raise AdapterError(f"no such adapter {name!r}")
        return self._refs[name]

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot of some replica."""
        return tuple(sorted({name for report in _reports(self._fleet) for name in report.resident}))

    def references(self) -> int:
        """Slots held, counted per sequence."""
        return sum(report.references for report in _reports(self._fleet))

    def acquire(self, name: str) -> int:
        """Let every replica hold a name's slot."""
        self.ref(name)
        number = next(self._numbers)
        self._pins[number] = name
        self._tell()
        return number

    def release(self, slot: int) -> None:
        """Let it go again."""
        del self._pins[slot]
        self._tell()

    def _tell(self, forgotten: Iterable[str] = ()) -> None:
        held = [self._refs[name] for name in self._pins.values() if name in self._refs]
        self._fleet.tell_pins(Pins(held, list(forgotten)))


class FleetMeter:
    """Device seconds as the replicas report them, by tenant and by recent request."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._request_s: dict[int, float] = {}

    @property
    def device_s(self) -> dict[str, float]:
        """Seconds charged to each tenant."""
        total = Counter(self._fleet.gone.device_s)
        for report in _reports(self._fleet):
            for tenant, seconds in report.device_s.items():
                total[tenant] += seconds  # type: ignore[assignment]
        return dict(total)

    def note(self, job: Job) -> None:
        """Remember what a request was charged."""
        self._request_s[job.request.request_id] = job.device_s
        while len(self._request_s) > REMEMBERED:
            del self._request_s[next(iter(self._request_s))]

    def seconds_of(self, request_id: int) -> float:
        """Device seconds of a request on all replicas that worked on it; of one that ended long ago, 0.

        Of a replica that was lost it counts what that had reported, twice a second.
        """
        return self._request_s.get(request_id, 0.0)


class FleetDoor:
    """Streams of a fleet. seed: of requests without one; max_len: longest sequence."""

    def __init__(self, fleet: Fleet, slots: FleetSlots, meter: FleetMeter, *, seed: int, max_len: int) -> None:
        self._fleet, self._slots, self._meter = fleet, slots, meter
        self._seed, self._max_len = seed, max_len
        self._numbers = count()

    @property
    def failure(self) -> str | None:
        """Why no request is taken, None while there are replicas, or can be."""
        return self._fleet.failure

    async def stream(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Run a request and yield its events, wherever it runs; leaving the loop cancels it.

        Raises RequestError, AdapterError, CapacityError, and EngineError where no replica can end it.
        """
        job = self._job(request)
        self._fleet.dispatcher.submit(job)
        unfinished = request.sampling.n
        try:
            while unfinished:
                item = await job.inbox.get()
                if isinstance(item, EngineError):
                    raise item
                if item.finish is not None:
                    unfinished -= 1
                    await self._settle(job)
                yield item
        finally:
            self._fleet.dispatcher.leave(job)

    async def _settle(self, job: Job) -> None:
        """Note what a request was charged, once the replicas that it was taken from have said so, or soon after."""
        if job.owed and not job.unfinished:
            with suppress(TimeoutError):
                await asyncio.wait_for(job.settled.wait(), SETTLE_S)
        self._meter.note(job)

    def stats(self) -> EngineStats:
        """All replicas' counts, those that are gone included, as they reported them last."""
        now, ever = _reports(self._fleet), [*_reports(self._fleet), *self._fleet.gone.reports]
        return EngineStats(
            running=sum(report.running for report in now),
            waiting=self._fleet.dispatcher.queued() + sum(report.waiting for report in now),
            parked=0,
            blocks=BlockCounts(
                free=sum(report.blocks_free for report in now),
                cached=sum(report.blocks_cached for report in now),
                referenced=sum(report.blocks_referenced for report in now),
                total=max(sum(report.blocks_total for report in now), 1),
            ),
            adapters=sum((Counter(report.adapters) for report in now), Counter()),
            steps=sum(report.steps for report in ever),
            prompt_tokens=sum(report.prompt_tokens for report in ever),
            cached_tokens=sum(report.cached_tokens for report in ever),
            output_tokens=sum(report.output_tokens for report in ever),
            preemptions=sum(report.preemptions for report in ever),
            finished=sum(report.finished for report in ever),
        )

    def _job(self, request: Request) -> Job:
        """The request with its number, its arrival and a seed of its own, so that it can go on anywhere."""
        if self._fleet.failure is not None:
            raise EngineError(self._fleet.failure)
        prompt = [token for token in request.prompt if isinstance(token, int)]
        if not prompt:
            raise RequestError("the prompt is empty; expected at least one token")
        if len(prompt) >= self._max_len:
            raise RequestError(f"the prompt has {len(prompt)} tokens; expected at most {self._max_len - 1}")
        number = next(self._numbers)
        sampling = request.sampling
        if sampling.seed is None:
            own = int.from_bytes(blake2b(f"{self._seed}:{number}".encode(), digest_size=8).digest())
            sampling = replace(sampling, seed=own)
        now_s = asyncio.get_running_loop().time()
        numbered = replace(
            request, prompt=tuple(prompt), sampling=sampling, id=str(number), request_id=number, arrival_s=now_s
        )
        ref = self._slots.ref(request.adapter) if request.adapter is not None else None
        return Job(numbered, ref, sampling.n)


def _reports(fleet: Fleet) -> list[Report]:
    return [member.link.report for member in fleet.members if member.link.report is not None]
