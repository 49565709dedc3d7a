"""Plain functions as tools: their schema from their type hints, their arguments checked and converted by pydantic.

A function whose only parameter is an `ArgStream` starts when its tool is named and takes its arguments as they are
written. Knows nothing of effects.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from llmsys.tool_serve.events import Unit, Value
from llmsys.tool_serve.faults import ToolArgumentError, ToolDeclarationError
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, Fed, Maker, PartialTool

__all__ = ["ArgStream", "function_tool"]


class ArgStream:
    """The arguments of one call while they are written."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._units: list[str] = []
        self._sealed: dict[str, Any] | None = None
        self._news = asyncio.Event()

    async def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401 (any JSON value)
        """An argument, as soon as it is complete; `default` if the sealed call has none of that name."""
        while name not in self._values and self._sealed is None:
            await self._news_came()
        return (self._sealed or self._values).get(name, default)

    async def units(self) -> AsyncIterator[str]:
        """The units of the argument that the tool's `partial` names, as they complete."""
        read = 0
        while read < len(self._units) or self._sealed is None:
            if read == len(self._units):
                await self._news_came()
                continue
            yield self._units[read]
            read += 1

    async def sealed(self) -> dict[str, Any]:
        """All arguments, complete and valid."""
        while self._sealed is None:
            await self._news_came()
        return self._sealed

    def push(self, event: Fed) -> None:
        """Take what the call's writer completed."""
        if isinstance(event, Unit):
            self._units.append(event.text)
        elif isinstance(event, Value) and len(event.path) == 1:
            self._values[str(event.path[0])] = event.value
        self._news.set()

    def seal(self, args: dict[str, Any]) -> None:
        """Say that nothing follows."""
        self._sealed = args
        self._news.set()

    async def _news_came(self) -> None:
        self._news.clear()
        await self._news.wait()


def function_tool(
    target: Callable[..., Any], parameters: Mapping[str, Any] | None, name: str
) -> tuple[Maker, dict[str, Any]]:
    """What makes one call's object, and the schema. Raises ToolDeclarationError for hints that make no schema."""
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError) as error:
        raise ToolDeclarationError(f"tool {name}: type hints that cannot be read: {error}") from error
    signature = inspect.signature(target)
    if [hints.get(one) for one in signature.parameters] == [ArgStream]:
        if not parameters:
            raise ToolDeclarationError(f"tool {name}: takes an ArgStream; expected parameters=SCHEMA beside it")
        return lambda: _Streaming(target), dict(parameters)
    model, schema = _checked(signature, hints, name)
    return lambda: _Function(target, model), dict(parameters or schema)


def _checked(signature: inspect.Signature, hints: Mapping[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    from pydantic import ConfigDict, create_model
    from pydantic.errors import PydanticUserError

    fields: dict[str, Any] = {}
    for one in signature.parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise ToolDeclarationError(f"tool {name}: parameter {one}; expected parameters that are passed by name")
        if one.name not in hints:
            raise ToolDeclarationError(f"tool {name}: parameter {one.name} has no type hint; expected one")
        fields[one.name] = (hints[one.name], ... if one.default is one.empty else one.default)
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise ToolDeclarationError(f"tool {name}: {str(error).splitlines()[0]}") from error
    schema.pop("title", None)
    return model, schema


class _Function(PartialTool):
    """A function that runs when its call is complete: a coroutine on the loop, any other in a thread."""

    def __init__(self, target: Callable[..., Any], model: Any) -> None:  # noqa: ANN401 (a class that pydantic made)
        self._target = target
        self._model = model

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        from pydantic import ValidationError

        try:
            checked = self._model.model_validate(args)
        except ValidationError as error:
            first = error.errors()[0]
            path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in first["loc"])
            raise ToolArgumentError(f"${path}", first["msg"]) from error
        given = {name: getattr(checked, name) for name in type(checked).model_fields}
        if inspect.iscoroutinefunction(self._target):
            return ToolResult.of(await self._target(**given))
        from llmsys.tool_serve.steps import in_thread

        return ToolResult.of(await in_thread(self._target, **given))


class _Streaming(PartialTool):
    """A coroutine or async generator that reads an ArgStream; what a generator yields is joined."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self._target = target
        self._args = ArgStream()
        self._work: asyncio.Task[ToolResult] | None = None

    async def begin(self, ctx: CallContext) -> None:
        self._work = asyncio.create_task(self._run())

    async def feed(self, event: Fed) -> None:
        self._args.push(event)

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        assert self._work is not None
        self._args.seal(args)
        return await self._work

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._work

    async def _run(self) -> ToolResult:
        if inspect.isasyncgenfunction(self._target):
            return ToolResult("".join([str(part) async for part in self._target(self._args)]))
        return ToolResult.of(await self._target(self._args))
