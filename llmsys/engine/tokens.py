"""Text to token ids and back, and the model's chat template.

Wraps the tokenizer that transformers reads from a model directory or a GGUF file; never reaches for a model hub.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmsys.engine.errors import ModelError

__all__ = ["Tokenizer"]


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
        ids = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} - {None, tokenizer.unk_token_id}
        return cls(tokenizer, frozenset(int(token) for token in ids))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens in the text are read as such."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def apply_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer."""
        ids = self._tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
