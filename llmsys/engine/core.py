"""`Engine`: requests in, token events out, one synchronous step at a time.

An engine belongs to one thread; only `cancel` and `stats` may be called from others. It knows nothing about asyncio,
HTTP or files.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from itertools import count

from llmsys.engine.block_manager import BlockManager
from llmsys.engine.completion import Collector
from llmsys.engine.config import EngineConfig
from llmsys.engine.errors import CapacityError, EngineError, RequestError
from llmsys.engine.forward import run_forward
from llmsys.engine.intake import Intake
from llmsys.engine.journal import Journal
from llmsys.engine.memory_budget import MemoryBudget
from llmsys.engine.outputs import Completion, EngineEvent, EngineStats
from llmsys.engine.parts import Adapters, Executor, TextCodec
from llmsys.engine.prompt_scores import score_prompts
from llmsys.engine.sampler import sample
from llmsys.engine.scheduler import Limits, Scheduler
from llmsys.engine.sequence import Request, SamplingParams, Sequence, State, TokenEvent
from llmsys.engine.stream import Stream

__all__ = ["Engine"]


@dataclass(slots=True)
class _Record:
    """A request that the engine remembers: its choices, how many are not finished, those that wait for the first."""

    request: Request
    streams: list[Stream]
    unfinished: int
    held_back: list[Sequence]

    def live(self) -> list[Stream]:
        return [stream for stream in self.streams if stream.sequence.state is not State.FINISHED]

    def queued(self) -> list[Sequence]:
        return [stream.sequence for stream in self.live() if stream.sequence not in self.held_back]


class Engine:
    """Many requests of many tenants, each with its adapter, lengths and sampling, in one running batch.

    blocks: how many blocks of keys and values the runner can hold; shared_blocks: whether its `copy_prefix` shares
    memory (paged) or copies it (rows); model: digest of the weights. block_bytes: size of a block if adapters take
    their memory out of the same budget, 0 if they have one of their own. clock: seconds, read only to stamp events.
    """

    def __init__(
        self,
        runner: Executor,
        tokenizer: TextCodec,
        adapters: Adapters,
        config: EngineConfig,
        *,
        blocks: int,
        model: bytes = b"",
        device_type: str = "cpu",
        shared_blocks: bool = False,
        block_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[EngineEvent], None] | None = None,
    ) -> None:
        self.adapters = adapters
        self.tokenizer = tokenizer
        self.config = config
        self._runner = runner
        self._blocks = BlockManager(
            runner,
            blocks=blocks,
            block_tokens=config.block_tokens,
            rows=config.kv_rows,
            prefix_cache=config.prefix_cache,
            shared=shared_blocks,
        )
        limits = Limits(
            config.batch_tokens(device_type), config.max_sequences, config.max_preemptions, config.chunked_prefill
        )
        self._scheduler = Scheduler(self._blocks, adapters, config.policy, limits, model=model)
        self.max_len = min(runner.max_len, config.max_len or runner.max_len, self._blocks.capacity_tokens)
        if block_bytes:
            largest = adapters.bytes_of(config.lora_rank_max) if config.lora_slots else 0
            budget = MemoryBudget(self._blocks, self._scheduler.give_way, block_bytes=block_bytes)
            self.max_len = budget.keep(self.max_len, beside_bytes=largest)
            adapters.share(budget)
        self._intake = Intake(tokenizer, adapters, vocab_size=runner.vocab_size, max_len=self.max_len, seed=config.seed)
        self._journal = Journal(config.policy, clock, on_event)
        self._numbers = count()
        self._records: dict[int, _Record] = {}
        self._finished: OrderedDict[int, None] = OrderedDict()
        self._cancelled: deque[int] = deque()

    @classmethod
    def load(
        cls,
        model: str,
        *,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[EngineEvent], None] | None = None,
    ) -> "Engine":
        """Load a model directory, a GGUF file or "smollm2" and return an engine around it.

        Raises ModelError for a file that cannot be read, Unavailable for a device or package that is missing.
        """
        from llmsys.engine.assembly import assemble

        config = config or EngineConfig()
        parts = assemble(model, config)
        return cls(
            parts.runner,
            parts.tokenizer,
            parts.adapters,
            config,
            blocks=parts.blocks,
            model=parts.digest,
            device_type=parts.device_type,
            shared_blocks=parts.shared_blocks,
            block_bytes=parts.token_bytes * config.block_tokens if config.memory_bytes else 0,
            clock=clock,
            on_event=on_event,
        )

    def add(self, request: Request) -> int:
        """Queue a request and return its number.

        Raises RequestError for what can never run, AdapterError for an unknown adapter, CapacityError when the queue's
        bound is reached.
        """
        return self._add(request, source=None)

    def cancel(self, request_id: int) -> None:
        """End a request at the start of the next step; a request that has ended, or never was, is left alone."""
        self._cancelled.append(request_id)

    def fork(
        self,
        request_id: int,
        n: int = 1,
        *,
        suffixes: Items[Items[int]] | None = None,
        sampling: SamplingParams | None = None,
    ) -> list[int]:
        """Queue n requests that go on from where this one is now, sharing its keys and values; return their numbers.

        suffixes: token ids appended to each, one list per fork. They are requests of their own, which the policy picks.
        """
        record = self._single(request_id)
        if suffixes is not None and len(suffixes) != n:
            raise RequestError(f"{len(suffixes)} suffixes for {n} forks", request_id=request_id)
        self._check_queue(n)
        sequence = record.streams[0].sequence
        params = self._intake.check_continuation(sampling or record.request.sampling)
        origin = replace(record.request, sampling=params, id="")
        prompt, source = tuple(sequence.token_ids), (sequence.id, len(sequence.token_ids))
        return [self._add(replace(origin, prompt=(*prompt, *tail)), source) for tail in suffixes or [()] * n]

    def extend(self, request_id: int, token_ids: Items[int], *, sampling: SamplingParams | None = None) -> None:
        """Append input to a finished or parked request and let it go on, with its keys and values.

        Its limits (max_tokens, stop) start afresh, under new sampling parameters if they are given. A finished request
        arrives anew, with this input as its prompt.
        """
        record = self._single(request_id)
        sequence = record.streams[0].sequence
        if sequence.state not in (State.PARKED, State.FINISHED) or sequence.finish == "error":
            raise RequestError("only a parked or finished request can be extended", request_id=request_id)
        added = self._intake.tokens(token_ids)
        self._intake.check_length(len(sequence.token_ids) + len(added))
        params = self._intake.check_continuation(sampling or record.request.sampling)
        if sequence.state is State.PARKED:
            sequence.request = record.request = replace(record.request, sampling=params)
        else:
            now_s = self._journal.now_s()
            sequence.request = record.request = replace(
                record.request, prompt=tuple(added), sampling=params, arrival_s=now_s
            )
        self._intake.extend(sequence, added)
        record.streams = [Stream(sequence, self.tokenizer)]
        if sequence.state is State.PARKED:
            self._scheduler.resume(sequence)
        else:
            self._reopen(record)

    def park(self, request_id: int) -> None:
        """Take a request out of the batch; its keys and values stay as long as nothing that runs needs the memory."""
        for sequence in self._known(request_id).queued():
            if sequence.state is not State.PARKED:
                self._scheduler.park(sequence)

    def resume(self, request_id: int) -> None:
        """Let a parked request go on; one that is not parked is left alone."""
        for sequence in self._known(request_id).queued():
            if sequence.state is State.PARKED:
                self._scheduler.resume(sequence)

    def step(self) -> list[TokenEvent]:
        """Run one iteration and return what came out of it, in order; empty when nothing can run."""
        events = self.take_cancellations()
        planned_s = self._journal.now_s()
        turn, logits = run_forward(self._runner, self._scheduler, planned_s)
        self._journal.planned(turn, planned_s)
        produced = [self._stream(sequence).close("error", sequence.error) for sequence in turn.failed]
        if logits is not None:
            self._scheduler.advance(turn.plan)
            sampling = [chunk.sequence for chunk in turn.chunks if chunk.samples]
            rows = score_prompts(logits, turn.chunks)
            choices = sample(rows, sampling, self.tokenizer.eos_ids) if sampling else []
            produced += [self._stream(s).accept(choice) for s, choice in zip(sampling, choices, strict=True)]
        for event in produced:
            if event.token_id >= 0:
                self._journal.emitted(self._records[event.request_id].request)
        self._journal.settle()
        for event in produced:
            self._follow_up(event)
        return events + produced

    def generate(
        self, requests: Iterable[Request], *, progress: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        """Run requests to their end; return one completion per request and choice, in the order given.

        progress is called with every completion as it comes. Needs an engine with nothing else to do, as events of
        other requests would be lost: EngineError otherwise. A request that cannot run raises, and the others end.
        """
        if self.busy:
            raise EngineError("generate needs an idle engine; other requests are not finished")
        collector = Collector()
        numbers: list[int] = []

        def turn() -> None:
            for completion in collector.take(self.step()):
                if progress is not None:
                    progress(completion)

        try:
            for request in requests:
                while len(self._scheduler.waiting) >= self.config.max_waiting:
                    turn()
                numbers.append(self.add(request))
            while self.busy:
                turn()
        except BaseException:
            for number in numbers:
                self.cancel(number)
            self.take_cancellations()
            raise
        return collector.of(numbers)

    def take_cancellations(self) -> list[TokenEvent]:
        """End what was cancelled, without a step; return the ends. `step` begins with this."""
        events: list[TokenEvent] = []
        while self._cancelled:
            record = self._records.get(self._cancelled.popleft())
            if record is None:
                continue
            record.held_back = []
            ends = [stream.close("cancelled") for stream in record.live()]
            for event in ends:
                self._follow_up(event)
            events += ends
        return events

    @property
    def vocab_size(self) -> int:
        """Scores in a row of logits."""
        return self._runner.vocab_size

    @property
    def busy(self) -> bool:
        """Whether any request is not finished, parked ones included."""
        return len(self._records) > len(self._finished)

    def unfinished(self, request_id: int) -> int:
        """Choices of a request that have not ended; 0 for one that is unknown."""
        record = self._records.get(request_id)
        return 0 if record is None else record.unfinished

    def stats(self) -> EngineStats:
        """Return a snapshot; safe from another thread, takes no lock."""
        scheduler = self._scheduler
        running = tuple(scheduler.running)
        return EngineStats(
            running=len(running),
            waiting=len(scheduler.waiting) + len(scheduler.returning),
            parked=len(scheduler.parked),
            blocks=self._blocks.counts,
            adapters=Counter(s.request.adapter for s in running if s.request.adapter is not None),
            **self._journal.totals(),
        )

    def _add(self, request: Request, source: tuple[int, int] | None) -> int:
        request = replace(request, request_id=next(self._numbers))
        try:
            self._check_queue(1)
            request = self._intake.resolve(request, self._journal.now_s())
        except EngineError as error:
            error.request_id = request.request_id
            self._journal.rejected(request, str(error))
            raise
        others = [next(self._numbers) for _ in range(request.sampling.n - 1)]
        first, *rest = self._intake.sequences(request, [request.request_id, *others])
        first.source = source
        streams = [Stream(sequence, self.tokenizer) for sequence in (first, *rest)]
        self._records[request.request_id] = _Record(request, streams, len(streams), rest)
        self._journal.arrived(request)
        self._scheduler.queue(first)
        return request.request_id

    def _check_queue(self, more: int) -> None:
        waiting, bound = len(self._scheduler.waiting), self.config.max_waiting
        if waiting + more > bound:
            raise CapacityError(f"{waiting} requests are waiting, {more} more would pass the bound of {bound}")

    def _known(self, request_id: int) -> _Record:
        record = self._records.get(request_id)
        if record is None:
            raise RequestError(f"request {request_id} is unknown or finished too long ago", request_id=request_id)
        return record

    def _single(self, request_id: int) -> _Record:
        record = self._known(request_id)
        if len(record.streams) > 1:
            raise RequestError(f"the request has {len(record.streams)} choices; expected n=1", request_id=request_id)
        return record

    def _stream(self, sequence: Sequence) -> Stream:
        return self._records[sequence.request.request_id].streams[sequence.index]

    def _follow_up(self, event: TokenEvent) -> None:
        """Let go of what has ended, and start the choices that waited for the first one's prompt."""
        record = self._records[event.request_id]
        if event.finish is not None:
            self._finish(record, event)
        if event.index == 0:
            waiting, record.held_back = record.held_back, []
            for sequence in waiting:
                self._scheduler.come_back(sequence)

    def _finish(self, record: _Record, event: TokenEvent) -> None:
        sequence = record.streams[event.index].sequence
        sequence.finish, sequence.error = event.finish, event.error
        self._scheduler.finish(sequence, keep=event.finish != "error")
        record.unfinished -= 1
        if not record.unfinished and event.finish is not None:
            self._journal.ended(record.request, event.finish)
            self._finished[event.request_id] = None
            while len(self._finished) > self.config.max_finished:
                del self._records[self._finished.popitem(last=False)[0]]

    def _reopen(self, record: _Record) -> None:
        """Let a finished request arrive once more, with the input it was extended by."""
        sequence = record.streams[0].sequence
        del self._finished[record.request.request_id]
        record.unfinished = 1
        sequence.admitted = False
        self._journal.arrived(record.request)
        self._scheduler.queue(sequence)
