"""What the engine tells the outside: a whole completion, a life event of a request, a snapshot of its state.

Knows nothing about how any of it came to be; `TokenEvent`, the stream itself, is in `sequence.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmsys.engine.block_manager import BlockCounts
from llmsys.engine.sequence import Finish, Scored

__all__ = ["Completion", "EngineEvent", "EngineStats", "EventKind"]

EventKind: TypeAlias = Literal["arrive", "admit", "token", "finish", "cancel", "reject", "preempt"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished choice of one request.

    token_ids include a token that ended the answer, text does not. prompt_tokens were given, cached_tokens of them were
    not computed again. logprobs and top_logprobs have one entry per token if the request asked for them, else none;
    prompt_logprobs one per token of the prompt from the second on, with the first of the choices.
    """

    request_id: int
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    error: str | None = None
    prompt_logprobs: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something that happened to a request, t_s seconds after the engine was made.

    n: tokens of this step for "token"; reason: the finish for "finish", the error's text for "reject".
    """

    kind: EventKind
    t_s: float
    request_id: int
    id: str
    tenant: str
    n: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment; the last six count from its start. adapters: running sequences by adapter name."""

    running: int
    waiting: int
    parked: int
    blocks: BlockCounts
    adapters: Mapping[str, int]
    steps: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    finished: int
