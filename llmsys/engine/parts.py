"""What the control side asks of the parts around it: a runner, a tokenizer, adapter slots, a store of prefixes.

`Runner`, `tokens.Tokenizer` and `AdapterPool` fit these; so does anything else with the same few methods. Knows
nothing about how any of them works.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from llmsys.engine.sequence import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["AdapterBudget", "AdapterSlots", "Adapters", "Executor", "PrefixStore", "TextCodec"]


class PrefixStore(Protocol):
    """Keys and values by sequence: one row each, of which any prefix can be copied to another row."""

    def release(self, sequence_id: int) -> None:
        """Forget the keys and values of a sequence."""

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give `target_id` the keys and values of the first `tokens` tokens of `source_id`."""


class Executor(PrefixStore, Protocol):
    """Runs one plan through the model."""

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""

    @property
    def max_len(self) -> int:
        """Longest sequence, prompt and output together."""

    def execute(self, plan: Plan) -> "Tensor":
        """Return float32 [sum of chunk.rows, vocab_size] in plan order; the caller may change it."""


class AdapterSlots(Protocol):
    """Adapters in device memory, each in a slot that is held as long as a sequence uses it."""

    def acquire(self, name: str) -> int:
        """Load if needed and hold; AdapterBusy if every slot is held, AdapterError if it cannot be loaded."""

    def is_resident(self, name: str) -> bool:
        """Whether `acquire` of this name has nothing to load."""

    def is_ready(self, name: str) -> bool:
        """Whether `acquire` of this name would not wait; if it would, what it would wait for has begun."""

    def release(self, slot: int) -> None:
        """Give back one hold."""

    def shed(self) -> bool:
        """Give memory shared with keys and values back, of an adapter that nobody holds; False where there is none."""

    def digest(self, name: str) -> bytes:
        """Identify the content and generation that `acquire` of this name gives now."""


class AdapterBudget(Protocol):
    """Memory that adapters share with others."""

    def take(self, wanted_bytes: int) -> bool:
        """Take memory for an adapter; False where there is no room."""

    def give_back(self, taken_bytes: int) -> None:
        """Return what one `take` took."""


class Adapters(AdapterSlots, Protocol):
    """Adapter slots with names."""

    def register(self, name: str, path: "Path | str") -> None:
        """Give a path a name; nothing is loaded yet."""

    def names(self) -> Iterable[str]:
        """Names that can be acquired."""

    def bytes_of(self, rank: int) -> int:
        """Memory that an adapter of this rank takes."""

    def share(self, budget: AdapterBudget) -> None:
        """Take the memory of adapters from this budget, beside the bounds that there are; none may be resident."""


class TextCodec(Protocol):
    """Text to token ids and back."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Tokenize plain text."""

    def apply_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokenize a conversation, ready for the answer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a run of tokens; bytes that are no character yet become U+FFFD."""
