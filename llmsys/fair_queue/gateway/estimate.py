"""How many tokens a prompt has, before any backend has counted them.

With a tokenizer its texts are counted, else its bytes; either is divided by a ratio that is learned per model from what
backends report. Knows no counter: the difference is settled by whoever charged the estimate.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from llmsys.errors import BadInput
from llmsys.fair_queue.gateway.body import body_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PromptEstimator"]

BYTES_PER_TOKEN = 4.0
MOST_MODELS = 1000
RATE = 0.05


class PromptEstimator:
    """Estimates prompt tokens; `learn` brings the model's ratio nearer to the truth.

    Raises BadInput if `tokenizer`, a directory, has no tokenizer.json that can be read.
    """

    def __init__(self, tokenizer: Path | None = None) -> None:
        self._tokenizer = None if tokenizer is None else _load(tokenizer)
        self._start = BYTES_PER_TOKEN if tokenizer is None else 1.0
        self.ratios: dict[str, float] = {}

    def units(self, body: bytes) -> int:
        """What is counted of a request: tokens of its texts, or bytes."""
        if self._tokenizer is None:
            return len(body)
        return len(self._tokenizer.encode(body_text(body), add_special_tokens=False).ids)

    def tokens(self, units: int, model: str) -> int:
        """The estimate for so many units; at least 1."""
        return max(1, round(units / self.ratios.get(model, self._start)))

    def learn(self, units: int, model: str, prompt_tokens: int) -> None:
        """A backend counted `prompt_tokens` for so many units."""
        if units <= 0 or prompt_tokens <= 0 or (model not in self.ratios and len(self.ratios) >= MOST_MODELS):
            return
        ratio = self.ratios.get(model)
        seen = units / prompt_tokens
        self.ratios[model] = seen if ratio is None else (1 - RATE) * ratio + RATE * seen


def _load(directory: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BadInput(str(path), str(error), "a tokenizer.json as transformers writes it") from error
