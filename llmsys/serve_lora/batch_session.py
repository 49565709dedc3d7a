"""An engine ready for a batch: adapters registered, every step metered, every event in the book.

Knows nothing of where lines come from or where results go.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmsys.artifacts import BatchRequest, BatchResult, Event, EventLog
from llmsys.engine.assembly import EngineParts, assemble
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.loader import read_config
from llmsys.engine.policy import FirstComeFirstServed, Policy
from llmsys.engine.sequence import Request, TokenEvent
from llmsys.gpu import find_model
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.batch_requests import Catalogue, engine_request
from llmsys.serve_lora.batch_run import BatchRun, in_order
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
from llmsys.serve_lora.plan_tap import PlanTap
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.run_book import RunBook
from llmsys.serve_lora.step_cost import StepModel

__all__ = ["BatchSession", "MeteredEngine", "Records", "RunSettings", "open_session"]

READ_AHEAD = 16
HOST_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is made of. `policy_spec` is what the event log says of `policy`; `adapters` maps names to paths."""

    model: str = "smollm2"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    concurrency: int = 64
    max_tokens: int = 128
    lora_slots: int = 32
    lora_rank_max: int = 64
    policy: Policy = field(default_factory=FirstComeFirstServed)
    policy_spec: str = "fcfs"

    def engine_config(self) -> EngineConfig:
        """The engine's settings; up to READ_AHEAD times as many requests wait in it as run."""
        return EngineConfig(
            device=self.device,
            dtype=self.dtype,
            max_sequences=self.concurrency,
            max_waiting=READ_AHEAD * self.concurrency,
            lora_slots=self.lora_slots,
            lora_rank_max=self.lora_rank_max,
            seed=self.seed,
            policy=self.policy,
        )


@dataclass(frozen=True, slots=True)
class Records:
    """What a run leaves behind besides its results; None is not written."""

    events: Path | None = None
    ledger: Path | None = None
    prices: PriceList = field(default_factory=PriceList)


class MeteredEngine:
    """An engine whose every step is charged to the requests in it."""

    def __init__(self, engine: Engine, tap: PlanTap, book: RunBook, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tap = tap
        self._book = book
        self._clock = clock

    def add(self, request: Request) -> int:
        """Queue a request and return its number. Raises EngineError as the engine does."""
        self._book.adding(request, self._clock())
        return self._engine.add(request)

    def step(self) -> list[TokenEvent]:
        """Do one iteration and charge it."""
        start_s = self._clock()
        self._book.gap_ends(start_s)
        events = self._engine.step()
        self._book.step_done(start_s, self._clock(), *self._tap.take())
        return events


@dataclass(frozen=True, slots=True)
class BatchSession:
    """A metered engine, the names it answers to, and the book it keeps."""

    engine: MeteredEngine
    catalogue: Catalogue
    book: RunBook
    decode: Callable[[Iterable[int]], str]
    settings: RunSettings

    def results(self, lines: Iterable[BatchRequest], *, ordered: bool = False) -> Iterator[BatchResult]:
        """Run the lines; their results as they finish, or in the lines' order."""
        run = BatchRun(
            self.engine,
            lambda line: engine_request(line, self.catalogue, max_tokens=self.settings.max_tokens),
            decode=self.decode,
            on_refused=lambda line: self.book.refused(line.tenant_name),
            in_engine=READ_AHEAD * self.settings.concurrency,
        )
        results = run.results(lines)
        return in_order(results) if ordered else (result for _, result in results)


@contextmanager
def open_session(settings: RunSettings, records: Records) -> Iterator[BatchSession]:
    """Load the model and open the records; when the block ends the ledger is closed and the event log appears.

    Raises what `Engine.load` does, BadInput for a ledger path that holds something else.
    """
    config = settings.engine_config()
    parts = assemble(settings.model, config)
    reader = checked_reader(read_config(find_model(settings.model)), rank_max=config.lora_rank_max)
    parts.adapters.read_through(AdapterShelf(reader, limit_bytes=HOST_BYTES).get)
    for name, path in settings.adapters.items():
        parts.adapters.register(name, path)
    with ExitStack() as stack:
        log = stack.enter_context(EventLog(records.events)) if records.events is not None else None
        if log is not None:
            log.write(_meta(settings, config, parts))
        started_s = time.monotonic()

        def clock() -> float:
            return time.monotonic() - started_s

        ledger = stack.enter_context(
            Ledger(_opening(parts.token_bytes, records.prices), model=StepModel(), start_s=clock(), path=records.ledger)
        )
        book = RunBook(ledger, events=log)
        tap = PlanTap(parts.runner, rank_of=parts.adapters.rank)
        engine = Engine(
            tap,
            parts.tokenizer,
            parts.adapters,
            config,
            blocks=parts.blocks,
            model=parts.digest,
            device_type=parts.device_type,
            shared_blocks=parts.shared_blocks,
            clock=clock,
            on_event=book.on_event,
        )
        yield BatchSession(
            engine=MeteredEngine(engine, tap, book, clock),
            catalogue=Catalogue(base={settings.model, Path(settings.model).stem}, adapters=set(settings.adapters)),
            book=book,
            decode=lambda ids: parts.tokenizer.decode(list(ids)),
            settings=settings,
        )
        book.gap_ends(clock())


def _opening(token_bytes: int, prices: PriceList) -> Opening:
    return Opening(version=VERSION, devices=1, kv_token_bytes=token_bytes, prices=prices, unix_s=time.time())


def _meta(settings: RunSettings, config: EngineConfig, parts: EngineParts) -> Event:
    """The log's first record: the rules the run follows. Memory is reserved block by block, as tokens come."""
    return Event(
        t_s=0.0,
        event="meta",
        policy=settings.policy_spec,
        reserve="paged",
        memory=parts.blocks * config.block_tokens,
        clock="wall",
    )
