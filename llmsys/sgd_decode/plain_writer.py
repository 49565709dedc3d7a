"""An answer in one piece: what autoregressive decoding does.

Knows nothing of plans.
"""

from collections.abc import Callable, Iterator, Sequence

from llmsys.sgd_decode.answers import Answer, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job, Message
from llmsys.sgd_decode.events import DecodeEvent
from llmsys.sgd_decode.glimpses import Glimpse
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.writing import Text

__all__ = ["PlainWriter"]


class PlainWriter:
    """One job from start to end; a text that repeats itself is ended."""

    def __init__(
        self,
        question: Question,
        settings: DecodeSettings,
        messages: Sequence[Message] | None = None,
        listen: Callable[[DecodeEvent], None] = lambda event: None,
    ) -> None:
        """messages: the conversation that is answered, where it is not the question's."""
        self.question = question
        self.done = False
        self.cancelled: list[str] = []
        self._settings = settings
        self._messages = messages or question.messages
        self._listen = listen
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
                self._messages,
                limit,
                self.question.stop,
                temperature=settings.temperature,
                seed=settings.seed,
                tenant=self.question.tenant,
            )
        ]

    def take(self, delta: Delta) -> None:
        """A piece of the answer, or its end."""
        self._text.add(delta.text)
        self._tokens.answer += delta.tokens
        self._listen(DecodeEvent(delta.t_s, "node_token", self.question.id, 0, delta.tokens, delta.text))
        if self._text.loops and delta.end is None:
            self.cancelled.append(delta.job)
        if delta.end is not None or self._text.loops:
            self._end, self.done = delta, True
            self._tokens.add_prompt(delta)

    @property
    def tokens(self) -> TokenCount:
        """What was written so far."""
        return self._tokens

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

    def glimpses(self) -> Iterator[Glimpse]:
        """The answer so far: none of it is ever taken back."""
        yield Glimpse(0, "", str(self._text), self.done)
