"""`bench --registered`: does it matter how many adapters there are, and does anybody else notice?

The same load, by Zipf's law over as many adapters as are registered, on a server's own parts: its registry, its shelf,
its slots. All requests come at once; a bystander streams the base model all the while, and the pauses between its
tokens are what a stall of others would show in. Knows nothing of tables.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from llmsys.engine.loader import read_config
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.errors import UsageFault
from llmsys.gpu import describe, find_model
from llmsys.serve_lora.random_adapters import write_random_adapter
from llmsys.serve_lora.server.backend import Backend, load, opened
from llmsys.serve_lora.server.settings import EngineSettings, ServerSettings
from llmsys.serve_lora.tenant_totals import quantile

__all__ = ["RegisteredBench", "RegisteredPlan", "RegisteredRow", "registered_plan", "zipf_numbers"]

CONTENTS = 4
PROMPT_TOKENS = 24
REGISTERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class RegisteredPlan:
    """How many adapters are registered in turn, and the load: `requests` answers of `tokens` tokens each."""

    registered: tuple[int, ...]
    model: str = "smollm2"
    requests: int = 64
    tokens: int = 32
    batch: int = 32
    slots: int = 32
    rank: int = 16
    dtype: str = "bfloat16"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RegisteredRow:
    """One number of adapters. asked: of which so many were asked for; ratio: output_tok_s over the first row's.

    pause_*: between the bystander's tokens. reads: adapters read from disk; late_reads: those that a step waited for.
    """

    registered: int
    asked: int
    output_tok_s: float
    ratio: float
    ttft_p50_s: float
    ttft_p99_s: float
    pause_p50_s: float
    pause_p99_s: float
    pause_max_s: float
    reads: int
    late_reads: int
    resident: int

    def as_row(self) -> dict[str, str | int | float | None]:
        """Cells of a table, pauses in milliseconds."""
        return {
            "registered": self.registered,
            "asked": self.asked,
            "tok/s": self.output_tok_s,
            "× first": self.ratio,
            "ttft p50 s": self.ttft_p50_s,
            "ttft p99 s": self.ttft_p99_s,
            "pause p50 ms": 1e3 * self.pause_p50_s,
            "pause p99 ms": 1e3 * self.pause_p99_s,
            "pause max ms": 1e3 * self.pause_max_s,
            "reads": self.reads,
            "late": self.late_reads,
            "resident": self.resident,
        }


def registered_plan(registered: str, *, model: str, batch: int) -> RegisteredPlan:
    """The plan that options ask for. Raises UsageFault for what is no list of numbers."""
    counts = registered.split(",")
    if not all(count.isdecimal() and 1 <= int(count) <= REGISTERED_MAX for count in counts):
        raise UsageFault(f"--registered {registered!r}; expected numbers of 1 to {REGISTERED_MAX}, as in 32,1000")
    return RegisteredPlan(tuple(map(int, counts)), model=model, batch=batch)


def zipf_numbers(adapters: int, n: int, *, seed: int) -> list[int]:
    """n adapters' numbers, the k-th most popular with a share in proportion to 1/k."""
    weights = 1 / np.arange(1, adapters + 1)
    return [int(at) for at in np.random.default_rng(seed).choice(adapters, n, p=weights / weights.sum())]


class RegisteredBench:
    """Runs a plan."""

    def __init__(self, plan: RegisteredPlan, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.plan = plan
        self._clock = clock
        self._shape = read_config(find_model(plan.model))

    def rows(self, on_row: Callable[[RegisteredRow], None]) -> list[RegisteredRow]:
        """Serve the load with each number of adapters; `on_row` hears of each row as it is done."""
        plan = self.plan
        found: list[RegisteredRow] = []
        with tempfile.TemporaryDirectory() as place:
            contents = [
                write_random_adapter(Path(place) / f"content-{at}", self._shape, rank=plan.rank, seed=at)
                for at in range(CONTENTS)
            ]
            for registered in plan.registered:
                names = _linked(Path(place) / f"{registered}", contents, registered)
                row = asyncio.run(self._served(names))
                found.append(replace(row, ratio=row.output_tok_s / (found or [row])[0].output_tok_s))
                on_row(found[-1])
        return found

    def as_record(self, rows: Sequence[RegisteredRow]) -> dict[str, object]:
        """The bench as JSON values."""
        return {"machine": describe(), "plan": asdict(self.plan), "rows": [asdict(row) for row in rows]}

    def remarks(self, rows: Sequence[RegisteredRow]) -> str:
        """What many adapters cost, in a sentence."""
        last = rows[-1]
        return (
            f"{describe()}: {last.registered} registered adapters, {last.resident} of them resident, give "
            f"{last.ratio:.2f} × the throughput of {rows[0].registered}; the bystander's longest pause was "
            f"{1e3 * last.pause_max_s:.0f} ms (median {1e3 * last.pause_p50_s:.0f}), {last.late_reads} steps waited "
            "for a disk"
        )

    async def _served(self, place: Path) -> RegisteredRow:
        plan = self.plan
        engine = EngineSettings(dtype=plan.dtype, max_sequences=plan.batch, lora_slots=plan.slots, max_queue=1 << 20)
        settings = ServerSettings(plan.model, adapters=place, engine=engine)
        loaded = await asyncio.to_thread(load, settings)
        async with opened(loaded, settings) as backend:
            return await _Run(plan, backend, self._clock).row()


class _Run:
    """One number of adapters, on a server's parts that are open."""

    def __init__(self, plan: RegisteredPlan, backend: Backend, clock: Callable[[], float]) -> None:
        self._plan, self._backend, self._clock = plan, backend, clock
        self._names = backend.registry.names()
        self._random = np.random.default_rng(plan.seed)

    async def row(self) -> RegisteredRow:
        plan, backend = self._plan, self._backend
        numbers = zipf_numbers(len(self._names), plan.requests, seed=plan.seed)
        await self._answer(None, 2)
        pauses: list[float] = []
        watching = asyncio.create_task(self._watch(pauses))
        started_s = self._clock()
        waits = await asyncio.gather(*(self._answer(self._names[number], plan.tokens) for number in numbers))
        wall_s = self._clock() - started_s
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return RegisteredRow(
            registered=len(self._names),
            asked=len(set(numbers)),
            output_tok_s=plan.requests * plan.tokens / wall_s,
            ratio=1.0,
            ttft_p50_s=quantile(waits, 0.5) or 0.0,
            ttft_p99_s=quantile(waits, 0.99) or 0.0,
            pause_p50_s=quantile(pauses, 0.5) or 0.0,
            pause_p99_s=quantile(pauses, 0.99) or 0.0,
            pause_max_s=max(pauses, default=0.0),
            reads=backend.shelf.reads,
            late_reads=backend.shelf.late_reads,
            resident=len(backend.pool.resident()),
        )

    async def _answer(self, adapter: str | None, tokens: int) -> float:
        """Seconds to the first token of one answer, which is read to its end."""
        started_s, first_s = self._clock(), 0.0
        if adapter is not None:
            await self._backend.registry.prepare(adapter)
        async for _ in self._backend.door.stream(self._request(adapter, tokens)):
            first_s = first_s or self._clock() - started_s
        return first_s

    async def _watch(self, pauses: list[float]) -> None:
        """Stream the base model without end, and note every pause between two tokens."""
        while True:
            last_s: float | None = None
            async for _ in self._backend.door.stream(self._request(None, 200, tenant="bystander")):
                now_s = self._clock()
                if last_s is not None:
                    pauses.append(now_s - last_s)
                last_s = now_s

    def _request(self, adapter: str | None, tokens: int, *, tenant: str = "load") -> Request:
        prompt = self._random.integers(0, self._backend.vocab_size, PROMPT_TOKENS).tolist()
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        return Request(prompt, sampling, adapter=adapter, tenant=tenant)


def _linked(place: Path, contents: Sequence[Path], adapters: int) -> Path:
    """A directory of so many adapters; their files are links to a few contents."""
    for at in range(adapters):
        own = place / f"a{at:06d}"
        own.mkdir(parents=True)
        for file in contents[at % len(contents)].iterdir():
            os.link(file, own / file.name)
    return place
