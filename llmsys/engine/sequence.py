"""What moves through the engine: a request, the sequence of tokens it becomes, one step's plan, and what comes out.

Knows nothing about torch, blocks or policies. A sequence's states:

    WAITING → RUNNING → FINISHED        admitted, then done
    RUNNING → WAITING                   preempted: its keys and values are computed again
    RUNNING ⇄ PARKED                    out of the batch, keys and values kept
    FINISHED, PARKED → WAITING          extended or resumed
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmsys.engine.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Chunk",
    "Finish",
    "Message",
    "Plan",
    "Request",
    "SamplingParams",
    "Scored",
    "Sequence",
    "State",
    "TokenEvent",
]

Finish: TypeAlias = Literal["stop", "length", "cancelled", "error"]
Message: TypeAlias = Mapping[str, str]
Scored: TypeAlias = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability, and the likeliest tokens with theirs."""
LogitsProcessor: TypeAlias = "Callable[[Items[int], Tensor], None] | None"

_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 1 << 31),
    "min_tokens": (0, 1 << 31),
    "temperature": (0, 2),
    "top_k": (0, 1 << 31),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (0, (1 << 64) - 1),
    "n": (1, 128),
    "logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
}
_STOP_STRINGS = 16
_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; the ranges are the OpenAI API's, and a value outside raises RequestError.

    Order of transforms: repetition, presence and frequency penalty, logit_bias, allowed_token_ids, logits_processor,
    temperature (0 is greedy), top_k (0 is off), top_p, min_p. `logprobs` is the number of alternatives reported beside
    the chosen token (None: nothing is reported) of the model's own distribution, before any transform;
    `prompt_logprobs` the same for the prompt's tokens from the second on, which takes no part of it from the cache.
    `logits_processor(ids, logits)` changes the row `logits` [vocab] in place, given prompt and output so far.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: str | Items[str] = ()
    stop_token_ids: Items[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: Items[int] | None = None
    logits_processor: LogitsProcessor = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestError(f"{name} is {value}; expected {low:g} to {high:g}")
        if self.top_p == 0:
            raise RequestError("top_p is 0; expected more than 0 (temperature 0 is greedy)")
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stops)
        if len(stops) > _STOP_STRINGS or not all(stops):
            raise RequestError(f"stop has {len(stops)} strings; expected at most {_STOP_STRINGS}, none of them empty")
        for token, bias in self.logit_bias.items():
            if not -_BIAS <= bias <= _BIAS:
                raise RequestError(f"logit_bias of token {token} is {bias}; expected {-_BIAS:g} to {_BIAS:g}")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError("allowed_token_ids is empty; expected at least one token")


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for; `Engine.add` gives it its number, its arrival and its prompt as token ids.

    prompt: text, token ids, or chat messages ({"role", "content"}). adapter: a registered name, None is the base.
    id and group are the caller's own names and come back in events. Requests of one `cache_salt` share cached prefixes;
    others cannot even probe for them by timing. output: tokens of the answer that came out elsewhere, behind which it
    goes on as if it had never stopped: limits, penalties, draws and text count them; needs n=1. choice: which of n
    choices it is there, as its draws depend on that.
    """

    prompt: str | Items[int] | Items[Message]
    sampling: SamplingParams = SamplingParams()
    adapter: str | None = None
    tenant: str = "default"
    priority: int = 0
    id: str = ""
    group: str | None = None
    cache_salt: str = ""
    output: Items[int] = ()
    choice: int = 0
    request_id: int = -1
    arrival_s: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt in tokens, once `Engine.add` has tokenized it."""
        if isinstance(self.prompt, str):
            raise RequestError("the prompt is text; its tokens are known after Engine.add")
        return len(self.prompt)


class State(Enum):
    """Where a sequence is; the module docstring has the arrows."""

    WAITING = auto()
    RUNNING = auto()
    PARKED = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """One stream of tokens: prompt and output, and how much of it has keys and values.

    token_ids: prompt, then output. prompt_tokens: where the output starts (all that came before, once extended).
    computed_tokens: keys and values exist for that many. adapter_slot: -1 is the base model. index: which of the
    request's n choices. source: (sequence id, tokens) it was forked from, whose keys and values it may copy. root:
    start of its prefix hashes. uncharged_tokens: input that the policy has not been told of. admitted: has run before.
    prompt_scores: of the prompt's tokens from the second on, as far as they are computed, if they are asked for.
    """

    id: int
    request: Request
    token_ids: list[int]
    prompt_tokens: int
    computed_tokens: int = 0
    adapter_slot: int = -1
    state: State = State.WAITING
    index: int = 0
    source: tuple[int, int] | None = None
    root: bytes = b""
    seed: int = 0
    max_tokens: int = 0
    uncharged_tokens: int = 0
    admitted: bool = False
    preemptions: int = 0
    cached_tokens: int = 0
    finish: Finish | None = None
    error: str | None = None
    prompt_scores: list[Scored] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        """Tokens generated since the prompt, or since the last extension."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are asked for; the first of n choices has them for all."""
        return self.request.sampling.prompt_logprobs is not None and self.index == 0

    @property
    def final_tokens(self) -> int:
        """Length at which the sequence must end."""
        return self.prompt_tokens + self.max_tokens

    @property
    def pending_tokens(self) -> int:
        """Tokens that are there but have no keys and values yet: 1 while decoding, more while prefilling."""
        return len(self.token_ids) - self.computed_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens start .. start+count of a sequence, to be computed in this step.

    samples: whether the logits of the chunk's last token are wanted. scores: whether those of all its tokens are.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    scores: bool = False

    @property
    def rows(self) -> int:
        """Rows of logits that are wanted: of all tokens, of the last, or none."""
        return self.count if self.scores else int(self.samples)


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one step: at most one chunk per sequence."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Tokens that this step computes."""
        return sum(chunk.count for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one request, or its end.

    token_id is -1 where the event carries an end without a token (cancelled, error). `text` may be empty while a
    character or a possible stop string is incomplete. top_logprobs: (token, log-probability), most likely first.
    prompt_tokens and cached_tokens (of the prompt, not computed again) come with the end, and so do prompt_logprobs.
    """

    request_id: int
    token_id: int
    text: str = ""
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    index: int = 0
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: tuple[Scored, ...] = ()
