"""Models behind a run: what each turn of a conversation gives, piece by piece.

`ScriptBackend` plays turns from a file at a fixed pace: the deterministic model of all timings. The engine's models are
in `engine_backend.py`. Knows no tool's work.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from llmsys.artifacts import read_records
from llmsys.errors import LlmsysError

__all__ = ["Backend", "BrokenTurn", "Piece", "ScriptBackend", "ScriptDelta", "ScriptTurn", "TurnRequest"]


class BrokenTurn(LlmsysError):
    """A turn whose stream ended before the turn did. left_nothing: none of its calls has done what lasts."""

    left_nothing = False


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A turn to write: the conversation so far, the tools' declarations, and the bound of its tokens."""

    id: str
    turn: int
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more of a turn: text, or deltas of structured calls; `finish` with the last one."""

    text: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish: str | None = None


class Backend(Protocol):
    """A model. `form` is the format that it writes calls in, "auto" where that is not known.

    `turn` raises BrokenTurn for a stream that ends before its turn.
    """

    form: str

    def turn(self, request: TurnRequest) -> AsyncIterator[Piece]:
        """The pieces of a turn; leaving the iteration ends its writing."""

    async def close(self) -> None:
        """Let go of the model."""


class _Match(msgspec.Struct, frozen=True):
    custom_id: str | None = None
    contains: str | None = None


class ScriptDelta(msgspec.Struct, frozen=True):
    """A piece of a turn: text, or a part of a structured call."""

    text: str = ""
    tool_call: dict[str, Any] | None = None


class ScriptTurn(msgspec.Struct, frozen=True):
    """One turn of a script: whom it answers, its pieces, seconds to the first, pieces a second.

    broken: it has no end.
    """

    deltas: tuple[ScriptDelta, ...]
    match: _Match = _Match()
    tok_per_s: float = 0.0
    ttft_s: float = 0.0
    finish: str = "stop"
    broken: bool = False


class ScriptBackend:
    """Turns from a file of lines: the n-th turn of a request is the n-th line that matches it."""

    def __init__(self, turns: Sequence[ScriptTurn], form: str = "auto") -> None:
        self.form = form
        self._turns = turns
        self._played: Counter[str] = Counter()

    @classmethod
    def read(cls, path: Path, form: str = "auto") -> "ScriptBackend":
        """A script from its file. Raises BadInput at the line at fault."""
        return cls(list(read_records(str(path), ScriptTurn)), form)

    async def turn(self, request: TurnRequest) -> AsyncIterator[Piece]:
        """As the protocol says. Raises LlmsysError for a turn that the script does not have."""
        texts = [str(one.get("content") or "") for one in request.messages]
        fitting = [one for one in self._turns if _fits(one.match, request.id, texts)]
        number = self._played[request.id]
        self._played[request.id] += 1
        if number >= len(fitting):
            raise LlmsysError(
                f"request {request.id}: the script has {len(fitting)} turns for it, none for turn {number}"
            )
        script = fitting[number]
        await asyncio.sleep(script.ttft_s)
        for at, delta in enumerate(script.deltas[: request.max_tokens]):
            if at and script.tok_per_s:
                await asyncio.sleep(1 / script.tok_per_s)
            yield Piece(delta.text, (delta.tool_call,) if delta.tool_call is not None else ())
        if script.broken:
            raise BrokenTurn(f"request {request.id}: the script breaks off in turn {number}")
        yield Piece(finish="length" if len(script.deltas) > request.max_tokens else script.finish)

    async def close(self) -> None:
        """Nothing is held."""


def _fits(match: _Match, request: str, texts: Sequence[str]) -> bool:
    named = match.custom_id is None or match.custom_id == request
    return named and (match.contains is None or any(match.contains in text for text in texts))
