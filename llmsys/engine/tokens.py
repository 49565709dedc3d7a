"""Text to token ids and back, and the model's chat template.

Wraps the tokenizer that transformers reads from a model directory or a GGUF file; never reaches for a model hub.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmsys.engine.errors import ModelError, RequestError

__all__ = ["Tokenizer"]

TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
"""Tokens that end a chat turn in known templates, whether or not the tokenizer calls them its end of sequence."""


class Tokenizer:
    """Encode, decode, and lay a conversation out as the model was trained to see it."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self.eos_ids = eos_ids

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read the tokenizer of a model directory or a GGUF file. Raises ModelError if there is none."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoTokenizer

        source, extra = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), **extra)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: no readable tokenizer ({error}); expected one beside the weights") from error
        turns = {tokenizer.convert_tokens_to_ids(token) for token in TURN_ENDS} - {tokenizer.unk_token_id}
        ids = (turns | {tokenizer.eos_token_id} | _declared_ends(path)) - {None}
        return cls(tokenizer, frozenset(int(token) for token in ids))

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into a model directory, as transformers names them."""
        self._tokenizer.save_pretrained(str(directory))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens in the text are read as such."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def apply_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer.

        Raises RequestError for a model without a chat template and for messages that its template refuses.
        """
        from jinja2 import TemplateError

        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(m) for m in messages], add_generation_prompt=True, return_dict=False
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise RequestError(f"the model's chat template does not take these messages: {error}") from error
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _declared_ends(path: Path) -> set[int]:
    """The end tokens that a model directory's generation_config.json names, one or several; none for other models."""
    file = path / "generation_config.json"
    if not file.is_file():
        return set()
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{file}: {error}; expected the generation_config.json of a transformers model") from error
    return {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}
