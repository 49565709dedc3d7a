"""Turns with real tools at a fixed pace of decoding, under every policy: how long each takes, and how near the bound.

The workloads are the six of Conveyor's evaluation (code, search, planning, database, validation, calculator), and
parallel calls. The model is a script, so that policies differ in nothing but when tools start; a peer reads the same
pieces at the same pace. Knows no table.
"""

import asyncio
import json
import re
import sqlite3
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsys.tool_serve.backends import ScriptBackend, ScriptDelta, ScriptTurn
from llmsys.tool_serve.bench_peers import PacedCall, eager_tools_seconds, has_eager_tools
from llmsys.tool_serve.catalog import Catalog, open_catalog
from llmsys.tool_serve.conversation import Answer, Conversations
from llmsys.tool_serve.effects import Policy
from llmsys.tool_serve.runtime import ToolRuntime

__all__ = ["WORKLOADS", "Measured", "measure", "paced_calls"]

CHARS_PER_TOKEN = 4
LOOP = 2_500_000
ROWS = 200_000
CALL = '<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'
CALLS = re.compile(r'<tool_call>\{"name": "(\w+)", "arguments": (.*?)\}</tool_call>')


@dataclass(frozen=True, slots=True)
class Measured:
    """One workload at one rate: median seconds by policy, the median bound of partial execution, and what it saved.

    of_bound: seconds over the bound, median of the ratios; after_seal_s: from a call's end to its result, median.
    eager_tools_s: the peer's median, None where it is not installed; against_eager: that over partial's.
    """

    workload: str
    tok_per_s: float
    blocking_s: float
    seal_s: float
    partial_s: float
    bound_s: float
    saved: float
    seal_saved: float
    of_bound: float
    after_seal_s: float
    same_transcripts: bool
    eager_tools_s: float | None
    against_eager: float | None


@dataclass(frozen=True, slots=True)
class Workload:
    """The tools of a workload in a directory, and its turns: what the model writes, by number."""

    tools: Callable[[Path], list[str]]
    text: Callable[[int], str]


def measure(
    workload: str, *, rate: float, repeat: int, directory: Path, on_turn: Callable[[int], None] = lambda n: None
) -> Measured:
    """Run `repeat` different turns of a workload under each policy, one at a time. rate: tokens per second."""
    chosen = WORKLOADS[workload]
    specs = chosen.tools(directory)
    answers: dict[Policy, list[Answer]] = {}
    for policy in (Policy.BLOCKING, Policy.SEAL, Policy.PARTIAL):
        answers[policy] = []
        for number in range(repeat):
            answers[policy].append(asyncio.run(_answer(specs, policy, chosen.text(number), rate)))
            on_turn(1)
    peer: list[float] = []
    for number in range(repeat if has_eager_tools() else 0):
        peer.append(asyncio.run(_peer(specs, chosen.text(number), rate)))
        on_turn(1)
    return _measured(workload, rate, answers, peer)


async def _peer(specs: list[str], text: str, rate: float) -> float:
    """Seconds that eager-tools takes for a turn."""
    catalog = open_catalog(specs, sandbox="auto")
    try:
        await catalog.warm_up()
        seconds, _ = await eager_tools_seconds(catalog.tools, paced_calls(text), rate=rate)
    finally:
        await catalog.close()
    return seconds


def paced_calls(text: str) -> list[PacedCall]:
    """The calls of a text as structured deltas, one for each piece that the text is cut into.

    >>> ["".join(call.parts) for call in paced_calls('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')]
    ['{"a": 1}']
    """
    found = list(CALLS.finditer(text))
    parts: list[list[str]] = [[] for _ in found]
    for at in range(0, len(text), CHARS_PER_TOKEN):
        end = at + CHARS_PER_TOKEN
        within = [n for n, one in enumerate(found) if one.start(2) < end and one.end(2) > at]
        begun = [n for n, one in enumerate(found) if one.start() <= at]
        number = within[0] if within else begun[-1]
        parts[number].append(text[max(at, found[number].start(2)) : min(end, found[number].end(2))])
    return [PacedCall(one[1], tuple(some)) for one, some in zip(found, parts, strict=True)]


async def _answer(specs: list[str], policy: Policy, text: str, rate: float) -> Answer:
    catalog: Catalog = open_catalog(specs, sandbox="auto")
    on_invalid = "finish" if policy is Policy.BLOCKING else "stop"
    runtime = ToolRuntime(catalog.tools, policy=policy, on_invalid=on_invalid)
    pieces = tuple(ScriptDelta(text[at : at + CHARS_PER_TOKEN]) for at in range(0, len(text), CHARS_PER_TOKEN))
    backend = ScriptBackend([ScriptTurn(pieces, tok_per_s=rate)], "hermes")
    try:
        await catalog.warm_up()
        return await Conversations(backend, runtime, max_turns=1).answer("bench", [])
    finally:
        await runtime.close()
        await catalog.close()


def _measured(workload: str, rate: float, answers: dict[Policy, list[Answer]], peer: Sequence[float]) -> Measured:
    totals = {policy: [float(one.times()["t_total_s"]) for one in found] for policy, found in answers.items()}
    middle = {policy: statistics.median(found) for policy, found in totals.items()}
    partial = answers[Policy.PARTIAL]
    bounds = [float(one.times()["bound_s"]) for one in partial]
    waits = [call.over_s - call.sealed_s for one in partial for call in one.outcomes if call.sealed_s is not None]
    said = [[one.messages for one in found] for found in answers.values()]
    eager_s = statistics.median(peer) if peer else None
    return Measured(
        workload=workload,
        tok_per_s=rate,
        blocking_s=middle[Policy.BLOCKING],
        seal_s=middle[Policy.SEAL],
        partial_s=middle[Policy.PARTIAL],
        bound_s=statistics.median(bounds),
        saved=1 - middle[Policy.PARTIAL] / middle[Policy.BLOCKING],
        seal_saved=1 - middle[Policy.SEAL] / middle[Policy.BLOCKING],
        of_bound=statistics.median(t / b for t, b in zip(totals[Policy.PARTIAL], bounds, strict=True)),
        after_seal_s=statistics.median(waits) if waits else 0.0,
        same_transcripts=said[0] == said[1] == said[2],
        eager_tools_s=eager_s,
        against_eager=eager_s / middle[Policy.PARTIAL] if eager_s is not None else None,
    )


def _call(name: str, **arguments: Any) -> str:  # noqa: ANN401 (JSON values)
    return CALL.format(name=name, arguments=json.dumps(arguments))


def _program(number: int) -> str:
    """Six statements of about as much work as their writing takes at 40 tokens per second."""
    lines = [f"s{k} = sum((j * {number + k + 1}) % 97 for j in range({LOOP}))" for k in range(6)]
    return _call("python", code="\n".join([*lines, "print(" + " + ".join(f"s{k}" for k in range(6)) + ")"]))


def _question(number: int) -> str:
    return _call("sqlite", sql=f"SELECT sum(price * {number + 1}) FROM sales WHERE shop % {number + 2} = 0; SELECT 1;")


def _shop(directory: Path) -> list[str]:
    path = directory / "shop.db"
    if not path.exists():
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE sales (shop INTEGER, price REAL)")
            connection.executemany("INSERT INTO sales VALUES (?, ?)", _sales())
        connection.close()
    return [f"builtin:sqlite={path}"]


def _sales() -> Iterator[tuple[int, float]]:
    return ((row % 977, row * 0.25) for row in range(ROWS))


def _library(directory: Path) -> list[str]:
    """The documents of the search: this package's own sources."""
    return [f"builtin:search={Path(__file__).parents[1]}"]


def _wrong(number: int) -> str:
    """A call whose first argument is none of the tool's, and a long second one."""
    return _call("calculator", expr=number, expression=" + ".join(str(number + k) for k in range(60)))


def _plan(number: int) -> str:
    """Five steps, each with a result of the one before."""
    first = f'$1 = search("{WORDS[number % len(WORDS)]}")'
    steps = [f'${k} = search("${k - 1} {WORDS[(number + k) % len(WORDS)]} in detail")' for k in range(2, 6)]
    return _call("plan", plan="\n".join([first, *steps]) + "\n")


def _query(number: int) -> str:
    return _call("search", query=f"{WORDS[number % len(WORDS)]} of {WORDS[(number + 3) % len(WORDS)]}", k=3)


def _naps(number: int) -> str:
    """Three calls that wait at once where they may."""
    return "".join(_call("sleep", seconds=1.0 + 0.1 * ((number + k) % 3)) for k in range(3))


WORDS: Sequence[str] = ("scheduler", "adapter", "checkpoint", "cluster", "bandwidth", "statement", "placement")
WORKLOADS: dict[str, Workload] = {
    "code": Workload(lambda _: ["builtin:python"], _program),
    "search": Workload(_library, _query),
    "planning": Workload(lambda _: ["llmsys.tool_serve.bench_plan_tool:PLANNER"], _plan),
    "database": Workload(_shop, _question),
    "validation": Workload(lambda _: ["builtin:calculator"], _wrong),
    "calculator": Workload(lambda _: ["builtin:calculator"], lambda n: _call("calculator", expression=f"{n} * 7 + 1")),
    "parallel": Workload(lambda _: ["builtin:sleep"], _naps),
}
"""What can be measured, by name."""
