"""One step's plan: who computes which tokens, who is admitted, who has to give way.

Order within a step: running decodes first (one token each), then the next chunk of every admitted prompt, then
admissions: sequences that come back (preempted, resumed, forked) before those the policy picks. Knows nothing about
torch, text or sampling; blocks and adapter slots it only holds and gives back.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import islice

from llmsys.engine.block_manager import BlockManager, prefix_root
from llmsys.engine.errors import AdapterBusy, AdapterError, EngineError
from llmsys.engine.parts import AdapterSlots
from llmsys.engine.policy import Policy
from llmsys.engine.sequence import Chunk, Plan, Request, Sequence, State

__all__ = ["Limits", "Scheduler", "Turn"]


READ_AHEAD = 3
"""Of those that wait, whose adapters are read while another is waited for."""
LOADS_PER_STEP = 1
"""Adapters placed in one step while others run; they have been read by then."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every step, as in `EngineConfig`."""

    batch_tokens: int
    sequences: int
    preemptions: int
    chunked_prefill: bool = True

    @property
    def running(self) -> int:
        """Sequences that may run at once: each must get at least one token in every step."""
        return min(self.sequences, self.batch_tokens)


@dataclass(slots=True)
class Turn:
    """What one call of `Scheduler.plan` decided.

    limit: tokens that the step may compute, left: those not planned yet. failed: could not get their adapter, with
    their `error` set; the caller finishes them. loads: adapters that had to be loaded.
    """

    limit: int
    left: int
    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    failed: list[Sequence] = field(default_factory=list)
    prefills: int = 0
    loads: int = 0

    @property
    def plan(self) -> Plan:
        """The work for the runner."""
        return Plan(tuple(self.chunks))

    def halved(self) -> "Turn":
        """Return a turn that goes on from this one's decisions with half its tokens and no chunk yet."""
        limit = max(1, self.limit // 2)
        return replace(self, limit=limit, left=limit, chunks=[], prefills=0)


class Scheduler:
    """Owns every sequence that is not finished: waiting, coming back, running or parked."""

    def __init__(
        self, blocks: BlockManager, adapters: AdapterSlots, policy: Policy, limits: Limits, *, model: bytes
    ) -> None:
        self.waiting: dict[int, Sequence] = {}
        self.returning: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.parked: dict[int, Sequence] = {}
        self._blocks = blocks
        self._adapters = adapters
        self._policy = policy
        self._limits = limits
        self._model = model

    def plan(self, now_s: float) -> Turn:
        """Return the next step's work; sequences count as computed only after `advance`."""
        turn = Turn(self._limits.batch_tokens, self._limits.batch_tokens)
        self._secure_decodes(turn)
        self._add_chunks(turn)
        if self._admit_returning(turn) and self.waiting and self._has_slot(turn):
            self._admit_picked(turn, now_s)
        return turn

    def replan(self, turn: Turn) -> Turn:
        """Plan a step that could not be run again, with half its tokens and without further admissions."""
        turn = turn.halved()
        self._add_chunks(turn)
        return turn

    def advance(self, plan: Plan) -> None:
        """Take note that the plan's tokens now have keys and values."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.computed_tokens = chunk.start + chunk.count
            self._blocks.advance(sequence.id, sequence.token_ids, sequence.computed_tokens)

    def come_back(self, sequence: Sequence) -> None:
        """Queue a sequence that the policy has admitted before, or that belongs to a request it has admitted."""
        sequence.state = State.WAITING
        self.returning.append(sequence)

    def queue(self, sequence: Sequence) -> None:
        """Queue a sequence for the policy to pick."""
        sequence.state = State.WAITING
        self.waiting[sequence.request.request_id] = sequence

    def park(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch and keep its keys and values, unless memory runs short."""
        self._withdraw(sequence)
        sequence.state = State.PARKED
        self.parked[sequence.id] = sequence

    def resume(self, sequence: Sequence) -> None:
        """Let a parked sequence go on."""
        del self.parked[sequence.id]
        if sequence.admitted or sequence.index:
            self.come_back(sequence)
        else:
            self.queue(sequence)

    def finish(self, sequence: Sequence, *, keep: bool) -> None:
        """Let go of everything a sequence holds; with `keep` its prefix stays findable."""
        self._withdraw(sequence)
        sequence.state = State.FINISHED
        self._release_memory(sequence, keep=keep)
        if sequence.adapter_slot >= 0:
            self._adapters.release(sequence.adapter_slot)
            sequence.adapter_slot = -1

    def relieve(self, turn: Turn) -> bool:
        """Make memory by one preemption, unless at most one sequence runs; return whether anything was freed."""
        if self._free_idle():
            return True
        if len(self.running) < 2 or all(map(self._protected, self.running)):
            return False
        self._preempt_victim(turn)
        return True

    def give_way(self) -> bool:
        """Free memory that stands idle if nobody runs; return whether anything was freed."""
        return not self.running and self._free_idle()

    def _secure_decodes(self, turn: Turn) -> None:
        """Make sure that every running sequence has room for the tokens it has, at the cost of others."""
        for sequence in tuple(self.running):
            while sequence.state is State.RUNNING and not self._blocks.grow(sequence.id, len(sequence.token_ids)):
                if not self._free_idle():
                    self._preempt_victim(turn)

    def _preempt_victim(self, turn: Turn) -> None:
        """Let the policy choose who gives up its memory; it comes back at the head of the queue."""
        candidates = [sequence for sequence in self.running if not self._protected(sequence)]
        chosen = self._policy.victim([sequence.request for sequence in candidates]).request_id
        victims = [sequence for sequence in candidates if sequence.request.request_id == chosen]
        if not victims:
            raise EngineError(f"the policy's victim, request {chosen}, is not among those it was given")
        victim = victims[-1]
        self._withdraw(victim)
        self._release_memory(victim)
        victim.state = State.WAITING
        victim.preemptions += 1
        self.returning.appendleft(victim)
        turn.preempted.append(victim)

    def _free_idle(self) -> bool:
        """Take memory that is not at work: an adapter's, else the longest parked's, else the last to come back's."""
        if self._adapters.shed():
            return True
        idle = (*self.parked.values(), *reversed(tuple(self.returning)[1:]))
        holder = next((sequence for sequence in idle if self._blocks.in_use(sequence.id)), None)
        if holder is None:
            return False
        self._release_memory(holder)
        return True

    def _admit_returning(self, turn: Turn) -> bool:
        """Place those that come back, in order; return whether none is left waiting for room."""
        while self.returning and self._has_slot(turn):
            sequence = self.returning[0]
            if not self._place(turn, sequence) and not sequence.error:
                return False
            self.returning.popleft()
        return not self.returning

    def _admit_picked(self, turn: Turn, now_s: float) -> None:
        """Let the policy pick from the waiting queue until something does not fit."""

        def admit(request: Request) -> bool:
            sequence = self.waiting[request.request_id]
            if not self._has_slot(turn) or not (self._place(turn, sequence) or sequence.error):
                return False
            del self.waiting[request.request_id]
            return True

        waiting = [sequence.request for sequence in self.waiting.values()]
        for request in self._policy.pick(waiting, admit, now_s):
            if request.request_id in self.waiting:
                raise EngineError(
                    "the policy yielded a request that admit() had not taken", request_id=request.request_id
                )

    def _has_slot(self, turn: Turn) -> bool:
        return turn.left > 0 and len(self.running) < self._limits.running

    def _place(self, turn: Turn, sequence: Sequence) -> bool:
        """Give a sequence its adapter, its blocks and its first chunk; False, holding nothing new, if it has to wait.

        An adapter that cannot be had at all sets the sequence's `error` and puts it among the failed.
        """
        whole = not self._limits.chunked_prefill and turn.prefills and len(sequence.token_ids) > turn.left
        held = sequence.adapter_slot
        if whole or not self._hold_adapter(turn, sequence):
            return False
        while not self._reserve(sequence):
            if not self._adapters.shed() and not self.give_way():
                if sequence.adapter_slot != held:
                    self._adapters.release(sequence.adapter_slot)
                    sequence.adapter_slot = held
                return False
        sequence.state = State.RUNNING
        sequence.admitted = True
        self.running.append(sequence)
        turn.admitted.append(sequence)
        self._add_chunk(turn, sequence)
        return True

    def _hold_adapter(self, turn: Turn, sequence: Sequence) -> bool:
        """Acquire the adapter unless the sequence has it from before: it ends on the generation it started with."""
        request, digest = sequence.request, b""
        if sequence.adapter_slot >= 0:
            return True
        if request.adapter is not None:
            loads = not self._adapters.is_resident(request.adapter)
            if loads and len(self.running) > len(turn.admitted) and self._would_stall(turn, request.adapter):
                return False
            turn.loads += loads
            try:
                sequence.adapter_slot = self._adapters.acquire(request.adapter)
                digest = self._adapters.digest(request.adapter)
            except AdapterBusy:
                return False
            except AdapterError as error:
                sequence.error = str(error)
                turn.failed.append(sequence)
                return False
        own = f"\0{sequence.id}" if sequence.scores_prompt else ""
        sequence.root = prefix_root(self._model, digest, request.cache_salt + own)
        return True

    def _would_stall(self, turn: Turn, adapter: str) -> bool:
        """Whether those that run would wait for this adapter, or for more than one in this step.

        While it is read, so are those of the oldest that wait.
        """
        if self._adapters.is_ready(adapter):
            return turn.loads >= LOADS_PER_STEP
        for sequence in islice(self.waiting.values(), READ_AHEAD):
            if sequence.request.adapter is not None:
                self._adapters.is_ready(sequence.request.adapter)
        return True

    def _reserve(self, sequence: Sequence) -> bool:
        """Reserve the prompt and one block more, or the whole length once the sequence is protected."""
        tokens = min(len(sequence.token_ids) + self._blocks.block_tokens, sequence.final_tokens)
        if self._protected(sequence):
            tokens = sequence.final_tokens
        if self._blocks.in_use(sequence.id):
            return self._blocks.grow(sequence.id, tokens)
        cached = self._blocks.allocate(sequence.id, sequence.root, sequence.token_ids, tokens, source=sequence.source)
        if cached is None:
            return False
        sequence.computed_tokens = cached
        if not sequence.admitted:
            sequence.cached_tokens = cached
        return True

    def _add_chunks(self, turn: Turn) -> None:
        for sequence in sorted(self.running, key=_prefilling):
            self._add_chunk(turn, sequence)

    def _add_chunk(self, turn: Turn, sequence: Sequence) -> None:
        """Plan a sequence's next tokens as far as the budget goes; a prompt that may not be cut runs past it, alone."""
        count = pending = sequence.pending_tokens
        if self._limits.chunked_prefill:
            count = min(pending, turn.left)
        if turn.left < 1 or (count > turn.left and turn.prefills):
            return
        start = sequence.computed_tokens
        scores = sequence.scores_prompt and start < sequence.prompt_tokens
        turn.chunks.append(Chunk(sequence, start, count, samples=count == pending, scores=scores))
        turn.left -= count
        turn.prefills += pending > 1

    def _protected(self, sequence: Sequence) -> bool:
        return sequence.preemptions >= self._limits.preemptions

    def _withdraw(self, sequence: Sequence) -> None:
        """Take a sequence out of whichever queue it is in."""
        self.parked.pop(sequence.id, None)
        if sequence.state is State.RUNNING:
            self.running.remove(sequence)
        elif self.waiting.get(sequence.request.request_id) is sequence:
            del self.waiting[sequence.request.request_id]
        elif sequence in self.returning:
            self.returning.remove(sequence)

    def _release_memory(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Give up the keys and values; what is cached of them may still be found later."""
        self._blocks.free(sequence.id, keep=keep)
        sequence.computed_tokens = 0


def _prefilling(sequence: Sequence) -> bool:
    return sequence.pending_tokens > 1
