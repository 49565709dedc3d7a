"""One sequence on its way out: a sampled token becomes text, and perhaps the end.

An end token ("stop") is reported but its text is not; stop strings act as soon as they are complete; "length" comes
last. Knows nothing about batches, memory or policies.
"""

from llmsys.engine.detokenizer import Detokenizer
from llmsys.engine.logits import end_tokens
from llmsys.engine.parts import TextCodec
from llmsys.engine.sampler import Sampled
from llmsys.engine.sequence import Finish, Sequence, TokenEvent

__all__ = ["Stream"]


class Stream:
    """Text and end of one sequence's output, from its prompt (or its last extension) on."""

    def __init__(self, sequence: Sequence, tokenizer: TextCodec) -> None:
        params = sequence.request.sampling
        self.sequence = sequence
        self._ends = end_tokens(params, tokenizer.eos_ids)
        self._text = Detokenizer(tokenizer.decode, tuple(params.stop), include_stop=params.include_stop_str_in_output)
        for token in sequence.token_ids[sequence.prompt_tokens :]:
            self._text.push(token)  # their text came out elsewhere

    def accept(self, sampled: Sampled) -> TokenEvent:
        """Append a token to the sequence and return its event; `finish` is set on the event, not on the sequence."""
        sequence = self.sequence
        if sampled.error is not None:
            return self.close("error", self._name(sampled.error))
        token = sampled.token_id
        sequence.token_ids.append(token)
        if token in self._ends:
            return self._event(token, self._text.flush(), sampled, "stop")
        text = self._text.push(token)
        finish: Finish | None = "stop" if self._text.stopped else "length" if self._is_full() else None
        if finish:
            text += self._text.flush()
        return self._event(token, text, sampled, "stop" if self._text.stopped else finish)

    def close(self, finish: Finish, error: str | None = None) -> TokenEvent:
        """Return the event of an end without a token, with the text that was held back."""
        return self._event(-1, self._text.flush(), Sampled(-1, error=error), finish)

    def _event(self, token: int, text: str, sampled: Sampled, finish: Finish | None) -> TokenEvent:
        sequence = self.sequence
        return TokenEvent(
            sequence.request.request_id,
            token,
            text,
            sampled.logprob,
            sampled.top,
            finish,
            sequence.index,
            sampled.error,
            sequence.request.prompt_tokens if finish else 0,
            sequence.cached_tokens if finish else 0,
            tuple(sequence.prompt_scores) if finish else (),
        )

    def _is_full(self) -> bool:
        return len(self.sequence.token_ids) >= self.sequence.final_tokens

    def _name(self, error: str) -> str:
        adapter = self.sequence.request.adapter
        return f"{error} (adapter {adapter})" if adapter else error
