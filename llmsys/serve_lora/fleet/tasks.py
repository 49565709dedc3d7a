"""A client's request on its way through a fleet, and the pieces of it that replicas work on.

An answer of n choices is one piece until it is interrupted behind its first token; then each unfinished choice is a
piece of its own, with the tokens that are out. Knows nothing of replicas or messages.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmsys.engine.errors import EngineError
from llmsys.engine.sequence import Finish, Request, TokenEvent
from llmsys.serve_lora.fleet.messages import AdapterRef, Said, Work, work_of

__all__ = ["Job", "Piece"]


@dataclass(slots=True, eq=False)
class Job:
    """One request and what it is waited for with; `request` has its number, its seed and its prompt as token ids.

    adapter_ref: what its adapter was when it came. unfinished: choices that have not ended. device_s: charged by the
    replicas, those that it was taken from among them. owed: charges that are still to be told; settled: none is.
    losses: replicas that were lost with a piece of it on board.
    """

    request: Request
    adapter_ref: AdapterRef | None
    unfinished: int
    inbox: asyncio.Queue[TokenEvent | EngineError] = field(default_factory=asyncio.Queue)
    outputs: dict[int, list[int]] = field(default_factory=dict)
    device_s: float = 0.0
    owed: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    losses: int = 0
    left: bool = False

    @property
    def tenant(self) -> str:
        """Who pays."""
        return self.request.tenant

    def whole(self, number: int) -> "Piece":
        """All of it as one piece."""
        return Piece(number, self, tuple(range(self.request.sampling.n)))

    def owe(self) -> None:
        """A replica is still to say what it charged."""
        self.owed += 1
        self.settled.clear()

    def charge(self, device_s: float) -> None:
        """It has said so, or can no more."""
        self.device_s += device_s
        self.owed -= 1
        if not self.owed:
            self.settled.set()

    def fail(self, error: EngineError) -> None:
        """Tell the client that there will be no more."""
        self.left = True
        self.inbox.put_nowait(error)


@dataclass(slots=True, eq=False)
class Piece:
    """Choices of a job that one replica works on, from `outputs` on. moves: how often it was taken from a replica."""

    number: int
    job: Job
    choices: tuple[int, ...]
    outputs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    moves: int = 0

    @property
    def order(self) -> int:
        """Its place in line: that of its request."""
        return self.job.request.request_id

    @property
    def adapter(self) -> str:
        """The adapter's name, empty for the base model."""
        return self.job.request.adapter or ""

    @property
    def sequences(self) -> int:
        """Places in a batch that it takes."""
        return len(self.choices) - len(self.done)

    @property
    def known_tokens(self) -> int:
        """Tokens whose keys and values it holds, or will."""
        prompt = self.job.request.prompt_tokens
        return sum(prompt + len(self.job.outputs.get(choice, ())) for choice in self.choices if choice not in self.done)

    def work(self) -> Work:
        """The message that has it done."""
        whole = work_of(self.job.request, self.number, self.job.adapter_ref)
        first = self.choices[0]
        sampling = whole.sampling | {"n": len(self.choices)}
        output = list(self.outputs.get(first, ()))
        return Work(
            number=self.number,
            prompt=whole.prompt,
            sampling=sampling,
            tenant=whole.tenant,
            adapter=whole.adapter,
            schema=whole.schema,
            cache_salt=whole.cache_salt,
            output=output,
            choice=first,
        )

    def hear(self, said: Said) -> TokenEvent:
        """Take note of an event and return it as the client's."""
        choice = self.choices[said.index]
        if said.token_id >= 0:
            self.job.outputs.setdefault(choice, []).append(said.token_id)
        finish: Finish | None = said.finish  # type: ignore[assignment]
        if finish is not None:
            self.done.add(choice)
            self.job.unfinished -= 1
        if finish is not None and not self.sequences:
            self.job.device_s += said.device_s
        return TokenEvent(
            self.job.request.request_id,
            said.token_id,
            said.text,
            said.logprob,
            said.tops,
            finish,
            choice,
            said.error,
            said.prompt_tokens,
            said.cached_tokens,
        )

    def rest(self, numbers: Sequence[int]) -> "list[Piece]":
        """What is left of it, under new numbers (one per choice is enough)."""
        left = [choice for choice in self.choices if choice not in self.done]
        if not any(self.job.outputs.get(choice) for choice in self.choices):
            return [replace(self, number=numbers[0])]
        return [
            Piece(number, self.job, (choice,), {choice: tuple(self.job.outputs.get(choice, ()))}, moves=self.moves)
            for number, choice in zip(numbers, left, strict=False)
        ]
