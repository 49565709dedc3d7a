"""Rolling back what a killed process had staged: once per call, by the first process that starts after it.

Knows no file format: `journal.py` does.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmsys.artifacts import encode
from llmsys.tool_serve.journal import leftovers
from llmsys.tool_serve.steps import run_step
from llmsys.tool_serve.tools import CallContext, Tool

__all__ = ["Recovered", "recover"]


@dataclass(frozen=True, slots=True)
class Recovered:
    """A call that was rolled back now, or why it could not be: then its journal stays for a later start."""

    request: str
    call: str
    tool: str
    fault: str | None


async def recover(directory: Path, tools: Mapping[str, Tool]) -> list[Recovered]:
    """Call `recover` for every staged call that a dead process left in `directory`.

    The object is fresh: its context's `memory` holds what the call remembered. Journals that other processes hold are
    left alone, as are calls of tools that `tools` lacks.
    """
    done: list[Recovered] = []
    for path, descriptor, calls in leftovers(directory):
        faults = 0
        for left in calls:
            context = CallContext(left.request, left.tenant, left.call, left.tool, dict(left.memory))
            fault = await _roll_back(tools.get(left.tool), context)
            faults += fault is not None
            if fault is None:
                os.write(descriptor, encode({"key": left.key, "state": "rolled_back"}))
            done.append(Recovered(left.request, left.call, left.tool, fault))
        if not faults:
            path.unlink(missing_ok=True)
    return done


async def _roll_back(tool: Tool | None, context: CallContext) -> str | None:
    if tool is None or tool.make is None:
        return f"no tool {context.tool!r} is loaded"
    found = tool.make()
    try:
        await run_step(found.recover, context, report=lambda _: None)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
