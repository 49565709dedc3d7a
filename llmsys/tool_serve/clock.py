"""An event loop whose time jumps to the next timer in place of waiting for it: exact, repeatable times.

Real work (a thread, a process) counts as no time at all: while some is under way (`held`), time stands still. Knows no
call and no tool; with an ordinary loop `held` does nothing.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "held", "run_virtual"]

T = TypeVar("T")

HUNG_S = 60.0  # real seconds after which work that still holds the clock is left to its timeout


class _Jumping(selectors.DefaultSelector):
    """A selector that advances its loop's time by the timeout instead of sleeping through it."""

    now_s = 0.0
    holds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.holds or timeout is None:
            ready = super().select(HUNG_S if timeout is not None else None)
            if ready or timeout is None:
                return ready
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that starts at 0 s and never sleeps."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s

    def hold(self, by: int) -> None:
        """Add to the count of real work under way, or take from it."""
        self._jumping.holds += by


@contextmanager
def held() -> Iterator[None]:
    """Let virtual time stand still within the block, which waits for real work."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        yield
        return
    loop.hold(1)
    try:
        yield
    finally:
        loop.hold(-1)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
