"""A model of our own engine behind a run: turns as they are decoded, calls held to the tools' schemas if asked.

A turn that is held is one call as JSON, which parses and validates whatever the model; others are free text in which
calls stand between Hermes's tags. The engine runs in a thread of its own. Knows no tool's work.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from llmsys.artifacts import BatchBody
from llmsys.tool_serve.backends import Piece, TurnRequest

if TYPE_CHECKING:
    from llmsys.engine import AsyncEngine, Engine
    from llmsys.engine.json_grammar import JsonMask

__all__ = ["EngineBackend"]


class EngineBackend:
    """One engine. constrain: "auto" holds the first turn of a request to a call, "call" each, "off" none."""

    form = "auto"

    def __init__(self, engine: "Engine", *, constrain: str) -> None:
        from llmsys.engine.json_grammar import JsonGrammar

        self._engine = engine
        self._constrain = constrain
        self._grammar = JsonGrammar(engine.tokenizer)  # type: ignore[arg-type]  # the loaded model's own
        self._door: AsyncEngine | None = None

    @classmethod
    def load(cls, model: str, *, constrain: str, device: str, dtype: str) -> "EngineBackend":
        """Load a model as `Engine.load` does, with its errors."""
        from llmsys.engine import Engine, EngineConfig

        return cls(Engine.load(model, config=EngineConfig(device=device, dtype=dtype)), constrain=constrain)

    async def turn(self, request: TurnRequest) -> AsyncIterator[Piece]:
        """As the protocol says. Raises RequestError for messages that the model's template refuses."""
        from llmsys.engine import Request, SamplingParams
        from llmsys.engine.tool_prompt import tool_messages

        body = _body(request, required=False)
        prompt = self._engine.tokenizer.apply_chat(tool_messages(body))
        sampling = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            logits_processor=self._mask(request, len(prompt)),
        )
        door = await self._opened()
        async with aclosing(door.stream(Request(prompt, sampling))) as events:
            async for event in events:
                yield Piece(event.text, finish=event.finish)

    async def close(self) -> None:
        """End the engine's thread."""
        if self._door is not None:
            await self._door.__aexit__(None, None, None)
            self._door = None

    async def _opened(self) -> "AsyncEngine":
        from llmsys.engine import AsyncEngine

        if self._door is None:
            self._door = await AsyncEngine(self._engine).__aenter__()
        return self._door

    def _mask(self, request: TurnRequest, prompt_tokens: int) -> "JsonMask | None":
        """What holds this turn to a call of one of the tools, if it is to be held."""
        from llmsys.engine.tool_prompt import forced_schema

        held = self._constrain == "call" or (self._constrain == "auto" and request.turn == 0)
        if not (held and request.tools):
            return None
        schema = forced_schema(_body(request, required=True))
        assert schema is not None
        return self._grammar.mask(schema, prompt_tokens=prompt_tokens, vocab=self._engine.vocab_size)


def _body(request: TurnRequest, *, required: bool) -> BatchBody:
    """The turn as the body of an API's request."""
    fields: dict[str, Any] = {"model": "engine", "messages": [dict(one) for one in request.messages]}
    if request.tools:
        tools = [_closed(one) for one in request.tools] if required else list(request.tools)
        fields |= {"tools": tools, "tool_choice": "required" if required else "auto"}
    return msgspec.convert(fields, BatchBody)


def _closed(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with no arguments but those that it names: a weak model would invent others without end."""
    function = dict(tool["function"])
    parameters = dict(function.get("parameters") or {})
    if "properties" in parameters:
        parameters.setdefault("additionalProperties", False)
    return {"type": "function", "function": function | {"parameters": parameters}}
