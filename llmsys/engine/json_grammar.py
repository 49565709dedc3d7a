"""JSON that an answer is held to while it is decoded: `response_format` as a mask over each row of logits.

Masks come from llguidance. Knows nothing of requests beyond the row that it may change.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmsys.artifacts import encode
from llmsys.engine.errors import RequestError
from llmsys.engine.token_mask import TokenMask
from llmsys.gpu import require

if TYPE_CHECKING:
    from torch import Tensor

    from llmsys.engine.tokens import Tokenizer

__all__ = ["JsonGrammar", "JsonMask", "schema_of"]

OBJECT: Mapping[str, object] = {"type": "object"}
SCHEMA_BYTES = 1 << 16
# without a bound a model may write blanks until its limit
SPACING = {"whitespace_pattern": r"[\x20\x0A]{1,2}"}


def schema_of(response_format: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """The JSON schema that a `response_format` asks for, None for plain text.

    Raises RequestError for a type that there is not, and for a json_schema without a schema.

    >>> schema_of({"type": "json_object"})
    {'type': 'object'}
    """
    kind = "text" if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return OBJECT
    if kind != "json_schema":
        raise RequestError(f"response_format has type {kind!r}; expected text, json_object or json_schema")
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise RequestError("response_format has no json_schema.schema; expected a JSON schema as an object")
    return schema


class JsonGrammar:
    """One tokenizer's tables, and a mask for each answer that is being decoded."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._tables: Any = None

    def mask(self, schema: Mapping[str, object], *, prompt_tokens: int, vocab: int) -> "JsonMask":
        """What changes logits [vocab] so that the tokens after the prompt are such JSON; for one answer only.

        The first call builds the tokenizer's tables, which takes about a second. Raises RequestError for a schema that
        cannot be held to, Unavailable without llguidance.
        """
        kit = require("llguidance")
        if (size := len(encode(schema))) > SCHEMA_BYTES:
            raise RequestError(f"response_format's schema has {size} bytes; expected at most {SCHEMA_BYTES}")
        ends = sorted(self._tokenizer.eos_ids)
        if self._tables is None:
            self._tables = kit.LLTokenizer(self._tokenizer.as_json(), n_vocab=vocab, eos_token=ends)
        try:
            grammar = kit.LLMatcher.grammar_from_json_schema(dict(schema), overrides=SPACING)
        except ValueError as error:
            raise RequestError(f"response_format's schema: {error}") from error
        matcher = kit.LLMatcher(self._tables, grammar)
        if fault := matcher.get_error():
            raise RequestError(f"response_format's schema: {fault.strip().splitlines()[0]}")
        return JsonMask(matcher, schema, prompt_tokens=prompt_tokens, vocab=vocab, ends=ends)


class JsonMask:
    """A logits processor that follows one answer as it grows; past its end there are end tokens only.

    schema: of the JSON that the answer is held to.
    """

    def __init__(
        self,
        matcher: Any,  # noqa: ANN401
        schema: Mapping[str, object],
        *,
        prompt_tokens: int,
        vocab: int,
        ends: Sequence[int],
    ) -> None:
        self.schema = schema
        self._matcher = matcher
        self._read = prompt_tokens
        self._mask = TokenMask(vocab)
        self._ends = list(ends)

    def __call__(self, ids: Sequence[int], logits: "Tensor") -> None:
        """Forbid every token that no such JSON goes on with: ids are prompt and output so far, logits [vocab]."""
        new = list(ids[self._read :])
        self._read = len(ids)
        over = self._matcher.is_stopped() or (bool(new) and not self._matcher.consume_tokens(new))
        if over or self._matcher.is_stopped():
            logits.fill_(-math.inf)
            logits[self._ends] = 0.0
            return
        self._mask.apply(self._matcher, logits)
