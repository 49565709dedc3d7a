"""The grammar that a plan is held to while it is decoded: needs can name earlier lines only, so no plan has a cycle.

Masks come from llguidance. Knows nothing of engines beyond the row of logits it may change.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmsys.engine.token_mask import TokenMask
from llmsys.errors import Unavailable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlanGrammar", "plan_regex"]

TITLE = "[A-Za-z0-9][^|<>\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]{2,24}[A-Za-z0-9)]"
"""Without anything that ends a line, and short: with all around it, a line of a plan is to take 14 tokens."""


def plan_regex(max_parts: int) -> str:
    """The regular language of plans with 2 to `max_parts` parts, or `single`.

    >>> import re
    >>> plan = "1. Why so | needs - | level 2;2. How so | needs 1 | level 4;end".replace(";", chr(10))
    >>> bool(re.fullmatch(plan_regex(3), plan))
    True
    """
    rest = ""
    for number in range(max_parts, 2, -1):
        rest = f"({_line(number)}{rest})?"
    return f"single|{_line(1)}{_line(2)}{rest}end"


def _line(number: int) -> str:
    return rf"{number}\. {TITLE} \| needs {_needs(number)} \| level [1-5]\n"


def _needs(number: int) -> str:
    """`-`, or a strictly increasing list over the earlier numbers: its first, then each later one or not."""
    lists = (str(first) + "".join(f"(,{later})?" for later in range(first + 1, number)) for first in range(1, number))
    return f"({'|'.join(['-', *lists])})"


class PlanGrammar:
    """One tokenizer's tables, and a mask for each plan that is being decoded."""

    def __init__(self, tokenizer: str, eos_ids: Iterable[int]) -> None:
        """tokenizer: in the JSON form of the `tokenizers` library. Raises Unavailable without llguidance."""
        try:
            import llguidance
        except ImportError as error:
            raise Unavailable("llguidance is not installed", "pip install 'llmsys[tools]', or --no-grammar") from error
        self.kit = llguidance
        self._tokenizer = tokenizer
        self._eos_ids = sorted(eos_ids)
        self._tables: dict[int, Any] = {}

    def mask(self, prompt_tokens: int, *, max_parts: int) -> "_Mask":
        """What changes logits so that the tokens after the prompt are a plan; for one decoding only."""
        return _Mask(self, plan_regex(max_parts), prompt_tokens)

    def tables(self, vocab: int) -> Any:  # noqa: ANN401
        """The tokenizer's tables for rows of `vocab` logits, which may be more than it has tokens."""
        if vocab not in self._tables:
            self._tables[vocab] = self.kit.LLTokenizer(self._tokenizer, n_vocab=vocab, eos_token=self._eos_ids)
        return self._tables[vocab]


class _Mask:
    """A logits processor that follows one plan as it grows."""

    def __init__(self, grammar: PlanGrammar, regex: str, prompt_tokens: int) -> None:
        self._grammar = grammar
        self._regex = regex
        self._read = prompt_tokens
        self._matcher: Any = None
        self._mask: TokenMask | None = None

    def __call__(self, ids: Sequence[int], logits: "Tensor") -> None:
        """Forbid every token that no plan goes on with: ids are prompt and output so far, logits [vocab]."""
        if self._mask is None:
            kit, vocab = self._grammar.kit, logits.shape[0]
            grammar = kit.LLMatcher.grammar_from_regex(self._regex)
            self._matcher, self._mask = kit.LLMatcher(self._grammar.tables(vocab), grammar), TokenMask(vocab)
        new = list(ids[self._read :])
        self._read = len(ids)
        if new and not self._matcher.consume_tokens(new):
            raise ValueError(f"the plan left its grammar: {self._matcher.get_error()}")
        self._mask.apply(self._matcher, logits)
