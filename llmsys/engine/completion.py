"""Gather a stream of token events into whole completions.

Knows nothing about the engine: events in, one `Completion` per finished choice out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmsys.engine.outputs import Completion
from llmsys.engine.sequence import TokenEvent

__all__ = ["Collector"]


@dataclass(slots=True)
class _Draft:
    """What has come so far of one choice."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)


class Collector:
    """Completions of a set of requests, in the order in which the requests are asked for."""

    def __init__(self) -> None:
        self._drafts: dict[tuple[int, int], _Draft] = {}
        self._done: dict[int, dict[int, Completion]] = {}

    def take(self, events: Iterable[TokenEvent]) -> list[Completion]:
        """Add events in their order; return what they completed."""
        return [done for event in events if (done := self._take(event)) is not None]

    def of(self, request_ids: Iterable[int]) -> list[Completion]:
        """Return the completions of these requests in this order, each request's choices by index."""
        return [done for number in request_ids for _, done in sorted(self._done.get(number, {}).items())]

    def _take(self, event: TokenEvent) -> Completion | None:
        draft = self._drafts.setdefault((event.request_id, event.index), _Draft())
        draft.text.append(event.text)
        if event.token_id >= 0:
            draft.token_ids.append(event.token_id)
        if event.logprob is not None:
            draft.logprobs.append(event.logprob)
            draft.top_logprobs.append(event.top_logprobs)
        if event.finish is None:
            return None
        del self._drafts[event.request_id, event.index]
        completion = Completion(
            event.request_id,
            event.index,
            "".join(draft.text),
            tuple(draft.token_ids),
            event.finish,
            event.prompt_tokens,
            event.cached_tokens,
            tuple(draft.logprobs),
            tuple(draft.top_logprobs),
            event.error,
            event.prompt_logprobs,
        )
        self._done.setdefault(event.request_id, {})[event.index] = completion
        return completion
