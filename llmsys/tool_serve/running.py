"""`run`: batch lines in, result lines out, several requests at once over one model and one set of tools.

Knows no option: `RunSettings` is what the verb was told.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from llmsys.artifacts import BatchRequest, encode, replace_file, write_chrome_trace
from llmsys.errors import LlmsysError
from llmsys.tool_serve.backends import Backend
from llmsys.tool_serve.catalog import Catalog
from llmsys.tool_serve.conversation import Answer, Conversations
from llmsys.tool_serve.effects import Policy, Speculate
from llmsys.tool_serve.records import CallEvent, Decoding, call_spans
from llmsys.tool_serve.runtime import Limits, Outcome, ToolRuntime
from llmsys.tool_serve.tools import Tool

Answered: TypeAlias = tuple[BatchRequest, Answer | LlmsysError]

__all__ = ["Run", "RunSettings", "journal_directory", "result_line"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How requests are run. events and chrome_trace: files for what happened; journal: of staged calls."""

    policy: Policy = Policy.PARTIAL
    speculate: Speculate = Speculate.DECLARED
    on_invalid: str = "stop"
    form: str = "auto"
    max_turns: int = 8
    max_tokens: int = 512
    concurrency: int = 8
    limits: Limits = field(default_factory=Limits)
    journal: Path | None = None
    events: Path | None = None
    chrome_trace: Path | None = None


class Run:
    """Requests to answers. `rolled_back` counts what killed runs had staged, undone at the start."""

    def __init__(self, backend: Backend, catalog: Catalog, settings: RunSettings) -> None:
        self.rolled_back = 0
        self._backend, self._catalog, self._settings = backend, catalog, settings
        self._events: list[CallEvent] = []
        self._decodings: list[Decoding] = []

    async def answers(
        self, requests: Iterable[BatchRequest]
    ) -> AsyncIterator[tuple[BatchRequest, Answer | LlmsysError]]:
        """Each request with its answer, as they finish; a backend's fault ends the one request that met it.

        Leaving the iteration takes back the calls under way and rolls back what they staged.
        """
        settings, waiting = self._settings, iter(requests)
        runtime = ToolRuntime(
            self._catalog.tools, settings.limits, policy=settings.policy, speculate=settings.speculate,
            on_invalid=settings.on_invalid, journal=settings.journal, on_event=self._events.append,
        )  # fmt: skip
        talks = Conversations(
            self._backend, runtime, form=settings.form, max_turns=settings.max_turns, on_decoding=self._decodings.append
        )
        running: set[asyncio.Task[Answered]] = set()
        try:
            self.rolled_back = len(await runtime.recover())
            while True:
                while len(running) < settings.concurrency and (request := next(waiting, None)) is not None:
                    running.add(asyncio.create_task(self._answer(talks, request)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await runtime.close()
            await self._catalog.close()
            await self._backend.close()

    def write_logs(self) -> None:
        """Write the files of events and of the timeline, if they were asked for."""
        with ExitStack() as stack:
            if self._settings.events is not None:
                stream = stack.enter_context(replace_file(self._settings.events))
                for event in (*self._events, *(one.event() for one in self._decodings)):
                    stream.write(encode(event))
        if self._settings.chrome_trace is not None:
            write_chrome_trace(self._settings.chrome_trace, call_spans(self._events, self._decodings))

    async def _answer(self, talks: Conversations, request: BatchRequest) -> Answered:
        body = request.body
        how: dict[str, Any] = {"temperature": body.temperature or 0.0, "seed": body.seed}
        most = body.max_completion_tokens or body.max_tokens or self._settings.max_tokens
        client = [
            Tool(one.function.name, one.function.description, one.function.parameters, None) for one in body.tools or ()
        ]
        messages = [msgspec.to_builtins(one) for one in body.messages or ()]
        try:
            answer = await talks.answer(
                request.custom_id, messages, tenant=request.tenant or "default", client=client, max_tokens=most, **how
            )
        except LlmsysError as error:
            return request, error
        return request, answer


def journal_directory() -> Path:
    """Where the journal of staged calls stands by default: in the user's directory of state."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "llmsys" / "tool-serve"


def result_line(request: BatchRequest, found: Answer | LlmsysError) -> dict[str, Any]:
    """One line of the batch's results: the API's response object, with `llmsys` in its body; or the error."""
    line: dict[str, Any] = {"id": f"run-{request.custom_id}", "custom_id": request.custom_id}
    if isinstance(found, LlmsysError):
        return line | {"response": None, "error": {"code": type(found).__name__, "message": str(found)}}
    last = next((one for one in reversed(found.messages) if one["role"] == "assistant"), {"role": "assistant"})
    body = {
        "id": f"chatcmpl-{request.custom_id}",
        "object": "chat.completion",
        "model": request.body.model,
        "choices": [{"index": 0, "message": last, "finish_reason": found.finish}],
        "llmsys": found.times() | {"calls": [_call(one) for one in found.outcomes], "messages": found.messages},
    }
    return line | {"response": {"status_code": 200, "request_id": line["id"], "body": body}, "error": None}


def _call(outcome: Outcome) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "name": outcome.name,
        "args": outcome.args,
        "state": outcome.state.value,
        "error": outcome.result.error if outcome.result is not None else None,
        "open_s": outcome.opened_s,
        "sealed_s": outcome.sealed_s,
        "over_s": outcome.over_s,
        "facts": dict(outcome.result.data) if outcome.result is not None else {},
    }
