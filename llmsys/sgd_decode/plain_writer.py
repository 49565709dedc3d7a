"""An answer in one piece: what autoregressive decoding does.

Knows nothing of plans.
"""

from llmsys.sgd_decode.answers import Answer, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.writing import Text

__all__ = ["PlainWriter"]


class PlainWriter:
    """One job from start to end; a text that repeats itself is ended."""

    def __init__(self, question: Question, settings: DecodeSettings) -> None:
        self.question = question
        self.done = False
        self.cancelled: list[str] = []
        self._settings = settings
        self._text = Text()
        self._tokens = TokenCount()
        self._started_s: float | None = None
        self._end: Delta | None = None

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """The job, once a slot is free."""
        if free < 1 or self._started_s is not None:
            return []
        self._started_s = now_s
        limit = self.question.max_tokens or self._settings.answer_tokens
        settings = self._settings
        return [
            Job(
                f"{self.question.number}/answer",
                self.question.messages,
                limit,
                temperature=settings.temperature,
                seed=settings.seed,
                tenant=self.question.tenant,
            )
        ]

    def take(self, delta: Delta) -> None:
        """A piece of the answer, or its end."""
        self._text.add(delta.text)
        self._tokens.answer += delta.tokens
        if self._text.loops and delta.end is None:
            self.cancelled.append(delta.job)
        if delta.end is not None or self._text.loops:
            self._end, self.done = delta, True
            self._tokens.prefill += delta.prompt_tokens - delta.cached_tokens
            self._tokens.prefill_saved += delta.cached_tokens

    def answer(self) -> Answer:
        """The answer, once it is done."""
        assert self._end is not None
        assert self._started_s is not None
        finish = self._end.end or "stop"
        return Answer(
            self.question,
            str(self._text),
            "ar",
            total_s=self._end.t_s - self._started_s,
            tokens=self._tokens,
            finish=finish,
            fault=self._end.error,
            start_s=self._started_s,
        )
