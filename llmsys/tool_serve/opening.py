"""From what the verb was told to a run: backend, settings, the loop, result lines and table rows.

Knows no option's name.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from llmsys.artifacts import read_requests
from llmsys.errors import BadInput, LlmsysError, UsageFault
from llmsys.tool_serve.backends import Backend, ScriptBackend
from llmsys.tool_serve.catalog import Catalog
from llmsys.tool_serve.conversation import Answer
from llmsys.tool_serve.effects import Policy, Speculate
from llmsys.tool_serve.running import Run, RunSettings, journal_directory, result_line
from llmsys.tool_serve.runtime import Limits

__all__ = ["RunOutcome", "open_backend", "run_all", "settings_of"]

Cell: TypeAlias = str | int | float | bool | None
SCRIPT = "script:"
EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run came to: requests that failed, staged calls of earlier runs undone, the table's title."""

    failed: int
    rolled_back: int
    title: str


def settings_of(
    *, policy: str, speculate: str, max_calls: int, tool_timeout_s: float, idle_timeout_s: float, journal: Path | None,
    **plain: Any,  # noqa: ANN401 (the other fields of RunSettings)
) -> RunSettings:  # fmt: skip
    """The settings that options ask for."""
    limits = Limits(max_calls=max_calls, tool_timeout_s=tool_timeout_s, idle_timeout_s=idle_timeout_s)
    place = journal or journal_directory()
    return RunSettings(policy=Policy(policy), speculate=Speculate(speculate), limits=limits, journal=place, **plain)


def open_backend(name: str, *, model: str, form: str, constrain: str, device: str, dtype: str) -> Backend:
    """A backend by name. Raises UsageFault, and what opening it raises."""
    if name.startswith(SCRIPT):
        return ScriptBackend.read(Path(name.removeprefix(SCRIPT)), form)
    if name == EMBEDDED:
        from llmsys.tool_serve.engine_backend import EngineBackend

        return EngineBackend.load(model, constrain=constrain, device=device, dtype=dtype)
    if name.startswith(("http://", "https://")):
        from llmsys.tool_serve.http_backend import HttpBackend

        return HttpBackend(name)
    raise UsageFault(f"--backend {name!r}; expected {EMBEDDED}, {SCRIPT}FILE, or URL#MODEL")


def run_all(
    source: str,
    backend: Backend,
    catalog: Catalog,
    settings: RunSettings,
    *,
    on_error: str,
    on_skip: Callable[[BadInput], None],
    on_line: Callable[[dict[str, Any]], None],
    on_row: Callable[[Mapping[str, Cell]], None],
) -> RunOutcome:
    """Answer every request of a file or stdin; lines and rows are given out as they come. Raises BadInput."""
    run = Run(backend, catalog, settings)
    requests = read_requests(source, on_error=on_error, on_skip=on_skip)

    async def main() -> int:
        failed = 0
        async for request, found in run.answers(requests):
            failed += isinstance(found, LlmsysError)
            on_line(result_line(request, found))
            on_row(_row(request.custom_id, found))
        return failed

    try:
        failed = asyncio.run(main())
    finally:
        run.write_logs()
    sandbox = f", sandbox {catalog.sandbox.name}" if catalog.sandbox is not None else ""
    return RunOutcome(failed, run.rolled_back, f"policy {settings.policy.value}{sandbox}")


def _row(request: str, found: Answer | LlmsysError) -> Mapping[str, Cell]:
    """One line of the table: seconds, what was saved of blocking, the bound over what was taken."""
    if isinstance(found, LlmsysError):
        return {"request": request, "turns": None, "calls": None, "error": str(found)}
    times = found.times()
    total, blocking, bound = times["t_total_s"], times["t_blocking_est_s"], times["bound_s"]
    return {
        "request": request,
        "turns": times["turns"],
        "calls": len(found.outcomes),
        "decode s": round(times["t_decode_s"], 3),
        "tool s": round(times["t_tool_busy_s"], 3),
        "overlap s": round(times["t_overlap_s"], 3),
        "saved": f"{1 - total / blocking:.0%}" if blocking else "-",
        "of bound": f"{bound / total:.0%}" if total else "-",
    }
