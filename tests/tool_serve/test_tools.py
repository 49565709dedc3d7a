"""Declarations: what `@tool` takes, refuses and makes of classes, functions and argument streams."""

import asyncio
import threading
from typing import Literal

import pytest

from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.faults import ToolDeclarationError
from llmsys.tool_serve.functions import ArgStream
from llmsys.tool_serve.results import HeadTail, ToolResult
from llmsys.tool_serve.runtime import State, ToolRuntime
from llmsys.tool_serve.steps import in_thread
from llmsys.tool_serve.tools import Partial, PartialTool, tool
from tests.tool_serve.turns import opened, sealed, unit, value


def called(declared, *events, **args):
    """One call of a tool with arguments; its outcome."""

    async def play():
        session = ToolRuntime([declared]).open_turn("r")
        session.take([opened(0, declared.name), *events])
        await asyncio.sleep(0)
        session.take([sealed(0, **args)])
        return (await session.end_turn())[0]

    return asyncio.run(play())


@tool(effect="pure")
def weather(city: str, unit: Literal["C", "F"] = "C", days: int = 1) -> str:
    """Tell the weather.

    More that the model does not need.
    """
    return f"{city} {unit} {days}"


def test_a_functions_hints_are_its_schema():
    assert weather.description == "Tell the weather."
    assert weather.effect is Effect.PURE
    assert weather.parameters["properties"]["unit"]["enum"] == ["C", "F"]
    assert weather.parameters["required"] == ["city"]
    assert weather.declaration()["function"]["name"] == "weather"


def test_a_function_gets_its_arguments_converted_and_its_defaults():
    assert called(weather, city="Rome", days="2").result.content == "Rome C 2"


def test_arguments_that_do_not_fit_the_hints_are_named_by_path():
    outcome = called(weather, city="Rome", days="soon")

    assert outcome.state is State.FAILED
    assert outcome.result.error == "arguments"
    assert outcome.result.content.startswith("error: $.days: Input should be a valid integer")


def test_a_function_that_declares_nothing_counts_as_effectful():
    @tool
    def bare() -> None:
        """Do something."""

    assert bare.effect is Effect.EFFECTFUL
    assert called(bare).result == ToolResult("")


def test_a_function_that_is_no_coroutine_runs_in_a_thread():
    @tool(effect="pure")
    def where() -> bool:
        """Say whether this is the main thread."""
        return threading.current_thread() is threading.main_thread()

    assert called(where).result.content == "false"


def test_a_function_that_ends_the_process_ends_only_its_call():
    @tool(effect="pure")
    def leave() -> None:
        """Leave."""
        raise SystemExit(3)

    assert called(leave).result.content == "error: RuntimeError: the tool raised SystemExit(3)"


STREAMED = {"type": "object", "properties": {"host": {"type": "string"}, "code": {"type": "string"}}}


def test_an_argument_stream_gives_values_and_units_before_the_seal():
    log = []

    @tool(effect="pure", parameters=STREAMED, partial="statements:code")
    async def search(args: ArgStream) -> str:
        """Search."""
        log.append(await args.get("host"))
        log.extend([part async for part in args.units()])
        return str(await args.get("missing", "none")) + str(await args.sealed())

    events = [value(0, "host", "h"), unit(0, 1.0), unit(0, 2.0)]
    outcome = called(search, *events, host="h", code="1.02.0")

    assert log == ["h", "1.0", "2.0"]
    assert outcome.result.content == "none{'host': 'h', 'code': '1.02.0'}"


def test_what_an_async_generator_yields_is_joined():
    @tool(effect="pure", parameters=STREAMED, partial="values")
    async def parts(args: ArgStream):
        """Yield."""
        yield "a"
        yield await args.get("host")

    assert called(parts, host="b").result.content == "ab"


def test_an_argument_stream_that_never_reads_is_ended_with_its_call():
    ended = []

    @tool(effect="pure", parameters=STREAMED)
    async def forever(args: ArgStream) -> str:
        """Wait."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def play():
        session = ToolRuntime([forever]).open_turn("r")
        session.take([opened(0, "forever")])
        await asyncio.sleep(0.01)
        await session.retract("enough")

    asyncio.run(play())

    assert ended == [True]


def no_hint(a):
    """Nothing."""


def any_number(*numbers: int):
    """Nothing."""


def a_stream(args: ArgStream):
    """Nothing."""


def no_schema(a: object()):
    """Nothing."""


class Bare(PartialTool):
    """Nothing."""


@pytest.mark.parametrize(
    ("target", "declared", "match"),
    [
        (no_hint, {}, "parameter a has no type hint"),
        (any_number, {}, "passed by name"),
        (a_stream, {}, "expected parameters=SCHEMA"),
        (Bare, {}, "no `parameters`"),
        (int, {}, "neither a PartialTool nor a function"),
        (weather.make, {"name": "two words"}, "tool name 'two words'"),
        (weather.make, {"effect": "harmless"}, "effect 'harmless'; expected one of pure, staged"),
        (weather.make, {"partial": "words:a"}, "expected 'values' or KIND:ARGUMENT"),
        (weather.make, {"partial": "lines"}, "expected 'values' or KIND:ARGUMENT"),
        (weather.make, {"name": "w", "timeout_s": -1}, "must be positive"),
        (weather.make, {"name": "w", "parameters": {"type": "string"}}, "of type 'string', not object"),
    ],
)
def test_a_declaration_that_cannot_be_used_says_what_would_be_right(target, declared, match):
    with pytest.raises(ToolDeclarationError, match=match):
        tool(**declared)(target) if declared else tool(target)


def test_what_a_tool_is_fed_is_a_kind_and_a_path():
    assert Partial.parse("statements:program.code") == Partial("statement", ("program", "code"))
    assert Partial.parse("values") == Partial("values")


@pytest.mark.parametrize(
    ("returned", "content"),
    [
        (b"\xffab", "\ufffdab"),
        (float("nan"), "null"),
        ({"a": float("inf"), 1: (2, 3)}, '{"a":null,"1":[2,3]}'),
        (2**80, str(2**80)),
        ("\ud800", "?"),
        (None, ""),
        (ToolResult("x", "y"), "x"),
    ],
)
def test_whatever_a_tool_returns_becomes_text(returned, content):
    assert ToolResult.of(returned).content == content


def test_head_and_tail_are_kept_whatever_the_sizes_of_the_pieces():
    data = bytes(range(48, 58)) * 100
    for size in (1, 7, 999, 1000, 5000):
        kept = HeadTail(100)
        for start in range(0, len(data), size):
            kept.add(data[start : start + size])

        assert kept.text() == f"{data[:50].decode()}\n[... 900 bytes left out ...]\n{data[-50:].decode()}"


def test_what_fits_is_kept_whole():
    kept = HeadTail(10)
    for one in b"0123456789":
        kept.add(bytes([one]))

    assert kept.text() == "0123456789"


def test_a_thread_that_outlives_its_loop_does_no_harm():
    release = threading.Event()
    over = threading.Event()

    def wait():
        release.wait()
        over.set()

    async def play():
        task = asyncio.create_task(in_thread(wait))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(play())
    release.set()

    assert over.wait(10)
