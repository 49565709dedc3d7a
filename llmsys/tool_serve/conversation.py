"""A request to its answer: the model writes a turn, its calls run meanwhile, their results go back, until none is left.

Knows neither a model nor a tool by name.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from llmsys.tool_serve.backends import Backend, BrokenTurn, Piece, TurnRequest
from llmsys.tool_serve.bounds import CallShape, turn_bound
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Event, Passage, Unit
from llmsys.tool_serve.formats import OpenAIDeltas, open_parser
from llmsys.tool_serve.records import Decoding
from llmsys.tool_serve.runtime import Outcome, State, ToolRuntime, arguments_text
from llmsys.tool_serve.schema import Checked
from llmsys.tool_serve.tools import Tool
from llmsys.tool_serve.turn import NORMAL_ENDS, TurnSession
from llmsys.tool_serve.units import Units

__all__ = ["Answer", "Conversations", "TurnTimes"]

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """A turn, in seconds: when it began, its first piece, decoding's end, the results' end; the tools' work; its bound.

    bound_s: the least time that decoding and this work, released as it was, can take (`bounds.py`).
    """

    start_s: float
    first_s: float
    decoded_s: float
    over_s: float
    busy_s: float
    bound_s: float

    @property
    def blocking_s(self) -> float:
        """What it would have taken with the tools after the turn, one by one."""
        return self.decoded_s - self.start_s + self.busy_s


@dataclass(slots=True)
class Answer:
    """What became of a request: its messages from the model and the tools, its calls, how it ended, its times."""

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    turns: list[TurnTimes] = field(default_factory=list)
    finish: str = "stop"

    def times(self) -> dict[str, float | int]:
        """The times of all turns together, as result lines have them."""
        turns = self.turns
        total = sum(one.over_s - one.start_s for one in turns)
        decode = sum(one.decoded_s - one.start_s for one in turns)
        busy = sum(one.busy_s for one in turns)
        return {
            "turns": len(turns),
            "t_first_token_s": turns[0].first_s - turns[0].start_s if turns else 0.0,
            "t_total_s": total,
            "t_decode_s": decode,
            "t_tool_busy_s": busy,
            "t_overlap_s": max(0.0, decode + busy - total),
            "t_blocking_est_s": sum(one.blocking_s for one in turns),
            "bound_s": sum(one.bound_s for one in turns),
        }


class _Reader:
    """The pieces of one turn as events: text through a format, structured calls by their deltas, both checked."""

    def __init__(self, form: str, tools: Mapping[str, Tool]) -> None:
        schemas = {name: one.parameters for name, one in tools.items()}
        partials = {name: one.partial for name, one in tools.items()}
        self._text = open_parser("auto" if form == "openai" else form, schemas)
        self._deltas = OpenAIDeltas()
        self._checked = Checked(self._text, schemas)
        self._units = Units(self._checked, partials)
        self._structured = False

    def read(self, piece: Piece) -> list[Event]:
        """The events that a piece completes. In a turn with structured calls its text holds none."""
        events: list[Event] = []
        if piece.text:
            events += [Passage(piece.text, 0)] if self._structured else self._text.feed(piece.text)
        for delta in piece.tool_calls:
            self._structured = True
            events += self._deltas.take({"tool_calls": [delta]})
        return self._units.split(self._checked.check(events))

    def close(self) -> list[Event]:
        """The events of the turn's end."""
        events = self._deltas.close() if self._structured else self._text.close()
        return self._units.split(self._checked.check(events))


class Conversations:
    """Requests against one model and one runtime. form: the format of calls, "auto" for what the model says."""

    def __init__(
        self,
        backend: Backend,
        runtime: ToolRuntime,
        *,
        form: str = "auto",
        max_turns: int = 8,
        on_decoding: Callable[[Decoding], None] = lambda _: None,
    ) -> None:
        self._backend, self._runtime = backend, runtime
        self._form = backend.form if form == "auto" else form
        self._max_turns = max_turns
        self._on_decoding = on_decoding

    async def answer(
        self,
        request: str,
        messages: Sequence[Message],
        *,
        tenant: str = "default",
        client: Sequence[Tool] = (),
        max_tokens: int = 512,
        **how: Any,  # noqa: ANN401
    ) -> Answer:
        """Take a request to its end: a turn without calls, or the bound of turns, then with finish "turns".

        client: tools that the request brings, which are announced and not run. how: temperature and seed of
        `TurnRequest`. Raises what the backend raises; its calls are taken back then. A turn that broke off is asked
        for once more, unless one of its calls has done what cannot be taken back.
        """
        answer, said = Answer(request), list(messages)
        for turn in range(self._max_turns):
            tools = [one.declaration() for one in self._runtime.with_client(client).values()]
            asked = TurnRequest(request, turn, tuple(said), tools, max_tokens, **how)
            try:
                new, goes_on = await self._turn(asked, tenant, client, answer)
            except BrokenTurn as error:
                if not error.left_nothing:
                    raise
                new, goes_on = await self._turn(asked, tenant, client, answer)
            said += new
            answer.messages += new
            if not goes_on:
                return answer
        answer.finish = "turns"
        return answer

    async def _turn(
        self, asked: TurnRequest, tenant: str, client: Sequence[Tool], answer: Answer
    ) -> tuple[list[dict[str, Any]], bool]:
        """One turn; its messages, and whether its results ask for another."""
        runtime = self._runtime
        session = runtime.open_turn(asked.id, tenant, client=client)
        reader = _Reader(self._form, runtime.with_client(client))
        start_s = runtime.now_s()
        try:
            text, first_s, released, finish = await self._decode(asked, session, reader)
        except BaseException as error:
            outcomes = await session.retract("the model's turn broke off")
            if isinstance(error, BrokenTurn):
                error.left_nothing = not any(self._lasts(one) for one in outcomes)
            raise
        decoded_s = runtime.now_s()
        self._on_decoding(Decoding(asked.id, asked.turn, start_s, decoded_s))
        outcomes = await session.end_turn("tool_calls" if session.stop_reason is not None else finish)
        over_s = runtime.now_s()
        shapes = [_shape(one, released.get(one.index, []), start_s) for one in outcomes]
        busy_s = sum(one.work_s for one in shapes)
        bound_s = turn_bound(shapes, decode_s=decoded_s - start_s, concurrency=runtime.limits.max_calls)
        answer.turns.append(TurnTimes(start_s, first_s, decoded_s, over_s, busy_s, bound_s))
        answer.outcomes += outcomes
        answer.finish = finish
        results = [one for one in outcomes if one.result is not None]
        if any(one.result is None for one in outcomes):
            answer.finish = "tool_calls"
        ended = session.stop_reason is not None or finish in NORMAL_ENDS
        return _messages(text, outcomes), ended and bool(results) and len(results) == len(outcomes)

    def _lasts(self, outcome: Outcome) -> bool:
        """Whether a call that was taken back may have done something for good by then."""
        tool = self._runtime.tools.get(outcome.name)
        if tool is None or tool.effect is Effect.PURE:
            return False
        if tool.effect is Effect.STAGED:
            return outcome.state is State.DONE
        return any(one.step != "begin" for one in outcome.works)

    async def _decode(
        self, asked: TurnRequest, session: TurnSession, reader: _Reader
    ) -> tuple[str, float, dict[int, list[float]], str]:
        """The turn's text outside calls, when its first piece came, when each call's units did, how it finished."""
        runtime, text, finish = self._runtime, [], "stop"
        released: dict[int, list[float]] = {}
        first_s: float | None = None

        def take(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Passage):
                    text.append(event.text)
                elif isinstance(event, Unit):
                    released.setdefault(event.call, []).append(runtime.now_s())
            session.take(events)

        async with aclosing(self._backend.turn(asked)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                first_s = runtime.now_s() if first_s is None else first_s
                finish = piece.finish or finish
                take(reader.read(piece))
                if session.stop_reason is not None:
                    break
        take(reader.close())
        return "".join(text), first_s if first_s is not None else runtime.now_s(), released, finish


def _shape(outcome: Outcome, released: Sequence[float], start_s: float) -> CallShape:
    """A call's work and when each piece of it could begin, from the turn's start."""
    sealed_s = max(outcome.sealed_s or outcome.over_s, outcome.opened_s)
    waiting = list(released)
    releases, works, latest = [], [], 0.0
    for work in outcome.works:
        if work.step == "begin":
            known_s = outcome.opened_s
        elif work.step == "feed" and waiting:
            known_s = waiting.pop(0)
        else:
            known_s = min(work.start_s, sealed_s)
        latest = max(latest, min(known_s, sealed_s) - start_s)
        releases.append(latest)
        works.append(work.end_s - work.start_s)
    return CallShape(max(sealed_s - start_s, latest), 0.0, tuple(releases), tuple(works))


def _messages(text: str, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What the turn adds to the conversation: the model's message, then each tool's."""
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    if outcomes:
        said["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": arguments_text(one)}}
            for one in outcomes
        ]
    told = [one for one in outcomes if one.result is not None]
    return [
        said,
        *({"role": "tool", "tool_call_id": one.id, "content": one.result.content} for one in told if one.result),
    ]
