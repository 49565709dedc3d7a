"""Tools: what each declares, and the object that works on one call of it.

A tool is a `PartialTool` class, or a function (`functions.py`); `@tool` makes either a `Tool`, which holds the
declaration and makes one object per call. Knows no scheduler: `runtime.py` decides which step runs when.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Path, Text, Unit, Value
from llmsys.tool_serve.faults import ToolDeclarationError
from llmsys.tool_serve.results import ToolResult

__all__ = ["UNIT_KINDS", "CallContext", "Fed", "Partial", "PartialTool", "Tool", "tool"]

UNIT_KINDS = {"statements": "statement", "lines": "line", "sql": "sql", "url": "url", "text": "text"}
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Fed: TypeAlias = Value | Text | Unit
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(slots=True)
class CallContext:
    """Whose call it is. `memory` is what a staged tool remembered; after a crash its rollback finds it here."""

    request: str
    tenant: str
    call: str
    tool: str
    memory: dict[str, str] = field(default_factory=dict)
    write_memory: Callable[[Mapping[str, str]], None] = field(default=lambda _: None, repr=False)

    def remember(self, **facts: str) -> None:
        """Keep what rollback needs, on disk before this returns: call it before the effect that it undoes."""
        self.memory |= facts
        self.write_memory(self.memory)


class PartialTool:
    """One call of a tool, step by step, one at a time. A step may be a coroutine, or a function: that runs in a thread.

    `begin`: the tool is named, warm up. `feed`: a value or unit of the arguments, in order. `finish`: the arguments are
    complete and valid, answer. Staged tools: `commit` at the end of the message, else `rollback`, one of them, once.
    """

    parameters: Mapping[str, Any] = {}

    def begin(self, ctx: CallContext) -> Awaitable[None] | None:
        """Warm up."""

    def feed(self, event: Fed) -> Awaitable[None] | None:
        """Work on a part of the arguments."""

    def finish(self, args: dict[str, Any]) -> Awaitable[ToolResult | str] | ToolResult | str:
        """Answer the call."""
        raise NotImplementedError

    def commit(self) -> Awaitable[None] | None:
        """Make the effect last."""

    def rollback(self, reason: str) -> Awaitable[None] | None:
        """Undo what was staged."""

    def recover(self, ctx: CallContext) -> Awaitable[None] | None:
        """Undo what a killed process had staged, from `ctx.memory` alone: `begin` was not called on this object."""
        raise NotImplementedError

    def close(self) -> Awaitable[None] | None:
        """Give back what the call holds; always called, last."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What a tool is fed: units of `kind` of the string at `path`, or with kind "values" each complete value."""

    kind: str
    path: Path = ()

    @classmethod
    def parse(cls, text: str) -> "Partial":
        """`values`, or KIND:NAME such as `statements:code`. Raises ToolDeclarationError."""
        kind, _, name = text.partition(":")
        if text == "values":
            return cls("values")
        if kind not in UNIT_KINDS or not name:
            kinds = ", ".join(UNIT_KINDS)
            raise ToolDeclarationError(f"partial={text!r}; expected 'values' or KIND:ARGUMENT, KIND one of {kinds}")
        return cls(UNIT_KINDS[kind], tuple(name.split(".")))


class Maker(Protocol):
    """What makes the object for one call."""

    def __call__(self) -> PartialTool: ...


@dataclass(frozen=True, slots=True)
class Tool:
    """A declared tool. `make` is None for client tools: announced, never run here.

    `timeout_s` None: the runtime's. `concurrency` 0: no bound of its own. `resource` names what calls are ordered by,
    with arguments in braces: "fs:{path}". `approval`: the runtime's hook must say yes before it acts.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    make: Maker | None
    effect: Effect = Effect.EFFECTFUL
    partial: Partial | None = None
    timeout_s: float | None = None
    concurrency: int = 0
    resource: str | None = None
    approval: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ToolDeclarationError(f"tool name {self.name!r}; expected 1 to 64 letters, digits, _, . or -")
        if self.parameters.get("type", "object") != "object":
            raise ToolDeclarationError(f"tool {self.name}: parameters of type {self.parameters['type']!r}, not object")
        if self.concurrency < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ToolDeclarationError(f"tool {self.name}: concurrency and timeout_s must be positive")

    @property
    def fields(self) -> tuple[str, ...]:
        """The arguments that `resource` names."""
        return tuple(re.findall(r"\{(\w+)\}", self.resource or ""))

    def key(self, args: Mapping[str, Any]) -> str | None:
        """The resource of a call; "*", which is every resource, while an argument that it names is not known."""
        if self.resource is None:
            return None
        if any(name not in args for name in self.fields):
            return "*"
        return re.sub(r"\{(\w+)\}", lambda found: str(args[found[1]]), self.resource)

    def declaration(self) -> dict[str, object]:
        """An entry of `tools` in an OpenAI request."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def renamed(self, name: str) -> "Tool":
        """The same under another name."""
        return replace(self, name=name)


@overload
def tool(target: T, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    effect: str = "effectful",
    partial: str | None = None,
    timeout_s: float | None = None,
    concurrency: int = 0,
    resource: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    approval: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(target: Callable[..., Any] | None = None, /, **declared: Any) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Declare a class or function as a tool: bare, or with what it declares.

    Functions take their schema from their type hints; one whose only parameter is an `ArgStream` needs `parameters`.
    Raises ToolDeclarationError.

    >>> @tool(effect="pure")
    ... def add(a: int, b: int = 1) -> int:
    ...     "Add two numbers."
    ...     return a + b
    >>> add.name, add.effect.value, add.parameters["required"]
    ('add', 'pure', ['a'])
    """
    if target is not None:
        return _declare(target, declared)
    return lambda found: _declare(found, declared)


def _declare(target: Callable[..., Any], declared: Mapping[str, Any]) -> Tool:
    name = declared.get("name") or target.__name__
    if declared.get("effect", "effectful") not in set(Effect):
        raise ToolDeclarationError(f"tool {name}: effect {declared['effect']!r}; expected one of {', '.join(Effect)}")
    partial = declared.get("partial")
    make, parameters = _made(target, declared.get("parameters"), name)
    return Tool(
        name=name,
        description=inspect.cleandoc(target.__doc__ or "").split("\n\n")[0].replace("\n", " "),
        parameters=parameters,
        make=make,
        effect=Effect(declared.get("effect", "effectful")),
        partial=Partial.parse(partial) if partial else None,
        timeout_s=declared.get("timeout_s"),
        concurrency=declared.get("concurrency", 0),
        resource=declared.get("resource"),
        approval=declared.get("approval", False),
    )


def _made(target: Callable[..., Any], parameters: Mapping[str, Any] | None, name: str) -> tuple[Maker, dict[str, Any]]:
    if isinstance(target, type) and issubclass(target, PartialTool):
        given = parameters or target.parameters
        if not given:
            raise ToolDeclarationError(f"tool {name}: no `parameters`; expected a JSON schema of its arguments")
        return target, dict(given)
    if isinstance(target, type) or not callable(target):
        raise ToolDeclarationError(f"tool {name}: {target!r} is neither a PartialTool nor a function")
    from llmsys.tool_serve.functions import function_tool

    return function_tool(target, parameters, name)
