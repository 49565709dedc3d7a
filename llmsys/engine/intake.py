"""From what a caller asks to sequences that can run: tokens, checks, seeds, clamped lengths.

Everything that can be said about a request before it runs is said here, as RequestError or AdapterError. Knows nothing
about queues, memory or time.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from hashlib import blake2b

from llmsys.engine.errors import AdapterError, RequestError
from llmsys.engine.parts import Adapters, TextCodec
from llmsys.engine.sequence import Message, Request, SamplingParams, Sequence

__all__ = ["Intake"]


class Intake:
    """Checks requests against one model. max_len: longest sequence, prompt and output; seed: of unseeded requests."""

    def __init__(self, tokenizer: TextCodec, adapters: Adapters, *, vocab_size: int, max_len: int, seed: int) -> None:
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._vocab_size = vocab_size
        self._max_len = max_len
        self._seed = seed

    def resolve(self, request: Request, arrival_s: float) -> Request:
        """Return the request with its name, its arrival and its prompt as token ids, all checked."""
        if request.adapter is not None and request.adapter not in (names := sorted(self._adapters.names())):
            known = ", ".join(names) or "none"
            raise AdapterError(f"no such adapter {request.adapter!r}; registered: {known}")
        prompt = tuple(self.tokens(request.prompt))
        self._check_output(request)
        self.check_length(len(prompt) + len(request.output))
        return replace(request, prompt=prompt, id=request.id or str(request.request_id), arrival_s=arrival_s)

    def tokens(self, prompt: str | Items[int] | Items[Message]) -> list[int]:
        """Return a prompt's token ids; RequestError if it is empty or has an id outside the vocabulary."""
        ids: list[int] = []
        if isinstance(prompt, str):
            ids = self._tokenizer.encode(prompt)
        elif prompt and all(isinstance(item, Mapping) for item in prompt):
            ids = self._tokenizer.apply_chat([item for item in prompt if isinstance(item, Mapping)])
        elif all(isinstance(item, int) for item in prompt):
            ids = [item for item in prompt if isinstance(item, int)]
        else:
            raise RequestError("the prompt mixes kinds; expected text, token ids or messages with role and content")
        if not ids:
            raise RequestError("the prompt is empty; expected at least one token")
        if not 0 <= min(ids) <= max(ids) < self._vocab_size:
            raise RequestError(f"prompt ids span {min(ids)} to {max(ids)}; expected 0 to {self._vocab_size - 1}")
        return ids

    def _check_output(self, request: Request) -> None:
        """Refuse an answer so far that this request cannot have given."""
        if not request.output:
            return
        self.tokens(request.output)
        most = request.sampling.max_tokens - 1
        if request.sampling.n > 1 or len(request.output) > most:
            raise RequestError(
                f"output has {len(request.output)} tokens for n={request.sampling.n}; expected n=1 and at most {most}"
            )

    def check_length(self, tokens: int) -> None:
        """Refuse a prompt that leaves no room for an answer."""
        if tokens >= self._max_len:
            raise RequestError(
                f"the prompt has {tokens} tokens; expected at most {self._max_len - 1}, as one of "
                f"{self._max_len} is for the answer"
            )

    def check_continuation(self, params: SamplingParams) -> SamplingParams:
        """Return what goes on from keys and values that are there with n=1; it has no prompt to score."""
        if params.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs is for a new request; a fork or an extension does not compute its prompt"
            )
        return replace(params, n=1)

    def output_limit(self, params: SamplingParams, prompt_tokens: int) -> int:
        """Return how many tokens the answer may have: what was asked for, or what is left of the model's length."""
        return min(params.max_tokens, self._max_len - prompt_tokens)

    def sequences(self, request: Request, ids: Items[int]) -> list[Sequence]:
        """Return the request's n choices; ids are the sequence numbers, the prompt is charged with the first."""
        params = request.sampling
        prompt = [token for token in request.prompt if isinstance(token, int)]
        known = [*prompt, *request.output]
        seed = params.seed if params.seed is not None else self._own_seed(request.request_id)
        return [
            Sequence(
                id=ids[index],
                request=request,
                token_ids=list(known),
                prompt_tokens=len(prompt),
                index=index,
                seed=seed,
                max_tokens=self.output_limit(params, len(prompt)),
                uncharged_tokens=0 if index else len(known),
                source=(ids[0], len(prompt)) if index else None,
            )
            for index in range(params.n)
        ]

    def extend(self, sequence: Sequence, added: Items[int]) -> None:
        """Make more input out of a sequence that has stopped: what it has so far becomes its prompt."""
        sequence.token_ids.extend(added)
        sequence.prompt_tokens = len(sequence.token_ids)
        sequence.max_tokens = self.output_limit(sequence.request.sampling, sequence.prompt_tokens)
        sequence.uncharged_tokens += len(added)
        sequence.finish = None
        sequence.prompt_scores.clear()

    def _own_seed(self, request_id: int) -> int:
        """Return the seed of an unseeded request, from the engine's seed and the order of arrival."""
        return int.from_bytes(blake2b(f"{self._seed}:{request_id}".encode(), digest_size=8).digest())
