"""Text to token ids and back, and the model's chat template.

transformers reads the tokenizer of a model directory or a GGUF file, once; what it found is kept as plain files
(`save`, `restore`) that need nothing but the `tokenizers` library. Never reaches for a model hub.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from llmsys.engine.chat_template import ChatTemplate
from llmsys.engine.errors import ModelError, RequestError

__all__ = ["Tokenizer"]

TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
"""Tokens that end a chat turn in known templates, whether or not the tokenizer calls them its end of sequence."""
_BACKEND, _FACTS = "tokenizer.json", "chat.json"


class Tokenizer:
    """Encode, decode, and lay a conversation out as the model was trained to see it.

    eos_ids: tokens that end an answer; template: the chat template's text, None for a model without; words: special
    tokens by the name that templates use.
    """

    def __init__(
        self, backend: Backend, eos_ids: frozenset[int], *, template: str | None, words: Mapping[str, Any]
    ) -> None:
        self.eos_ids = eos_ids
        self._backend = backend
        self._source = template
        self._words = dict(words)
        self._template: ChatTemplate | None = None

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read the tokenizer of a model directory or a GGUF file. Raises ModelError if there is none."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            found = _read(path)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: no readable tokenizer ({error}); expected one beside the weights") from error
        backend = getattr(found, "backend_tokenizer", None)
        if not isinstance(backend, Backend):
            raise ModelError(f"{path}: tokenizer {type(found).__name__}; expected one of the tokenizers library")
        turns = {backend.token_to_id(token) for token in TURN_ENDS}
        ids = turns | {found.eos_token_id} | _declared_ends(path)
        template = found.get_chat_template() if found.chat_template else None
        return cls(
            backend,
            frozenset(token for token in ids if token is not None),
            template=template,
            words=dict(found.special_tokens_map),
        )

    @classmethod
    def restore(cls, directory: Path) -> "Tokenizer":
        """Read what `save` wrote; OSError or ValueError for what it did not write."""
        facts = json.loads((directory / _FACTS).read_text(encoding="utf-8"))
        backend = Backend.from_buffer((directory / _BACKEND).read_bytes())
        return cls(backend, frozenset(facts["eos_ids"]), template=facts["template"], words=facts["words"])

    def save(self, directory: Path) -> None:
        """Write everything that `restore` needs into a directory."""
        self._backend.save(str(directory / _BACKEND))
        facts = {"eos_ids": sorted(self.eos_ids), "template": self._source, "words": self._words}
        (directory / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    def export(self, directory: Path) -> None:
        """Write the tokenizer's files into a model directory, as transformers names and reads them."""
        from transformers import PreTrainedTokenizerFast

        named = PreTrainedTokenizerFast(tokenizer_object=self._backend, chat_template=self._source, **self._words)
        named.save_pretrained(str(directory))

    def as_json(self) -> str:
        """The tokenizer in the form of the `tokenizers` library, for what builds tables from it."""
        return str(self._backend.to_str())

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens in the text are read as such."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def apply_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer.

        Raises RequestError for a model without a chat template and for messages that its template refuses.
        """
        if self._source is None:
            raise RequestError("the model has no chat template; expected a prompt of text or token ids")
        if self._template is None:
            self._template = ChatTemplate(self._source, self._words)
        return self.encode(self._template.render(messages))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


def _read(path: Path) -> Any:  # noqa: ANN401
    """transformers' tokenizer. For a GGUF file by the one class there is: the automatic way parses it three times."""
    if path.is_dir():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(path))
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)


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
