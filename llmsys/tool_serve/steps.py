"""One step of a tool, run so that it cannot hold the event loop unnoticed: coroutines timed, the rest in threads.

Knows no call and no gate.
"""

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from llmsys.tool_serve.clock import held

__all__ = ["HELD_LIMIT_S", "Stepped", "in_thread", "run_step"]

HELD_LIMIT_S = 0.05

T = TypeVar("T")


class Stepped:
    """A coroutine whose every stretch between two awaits is timed; `report` gets the seconds of one that was long."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], report: Callable[[float], None]) -> None:
        self._coroutine = coroutine
        self._report = report

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = functools.partial(self._coroutine.send, None)
        while True:
            started = time.perf_counter()
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            finally:
                if (took := time.perf_counter() - started) > HELD_LIMIT_S:
                    self._report(took)
            try:
                sent = yield waits_for
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # the loop's cancellation goes where the coroutine waits
                step = functools.partial(self._coroutine.throw, error)
            else:
                step = functools.partial(self._coroutine.send, sent)


async def in_thread(function: Callable[..., T], *args: object, **named: object) -> T:
    """Run a function in a thread of its own; one that never ends does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def work() -> None:
        value: T | None = None
        fault: Exception | None = None
        try:
            value = function(*args, **named)
        except StopIteration as error:  # a future refuses it
            fault = RuntimeError(f"the tool raised StopIteration: {error}")
        except BaseException as error:  # SystemExit too: it ends the tool, not the server
            fault = error if isinstance(error, Exception) else RuntimeError(f"the tool raised {error!r}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, fault)

    with held():
        threading.Thread(target=work, name="tool", daemon=True).start()
        return await future


async def run_step(step: Callable[..., Any], *args: object, report: Callable[[float], None]) -> Any:  # noqa: ANN401 (what the tool's step returns)
    """One step: awaited with its stretches timed if it is a coroutine function, in a thread if it is not."""
    if inspect.iscoroutinefunction(step):
        return await Stepped(step(*args), report)
    return await in_thread(step, *args)
