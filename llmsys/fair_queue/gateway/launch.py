"""From options' text to a running gateway: stores by name, sizes, secrets, and the event loop.

The loop is uvloop's: an exchange's CPU is mostly its event loop's.
"""

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeGuard

import platformdirs
import uvloop

from llmsys.errors import UsageFault
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.gateway import Gateway, Settings
from llmsys.fair_queue.gateway.journal import Journal, NoJournal
from llmsys.fair_queue.gateway.owner import own
from llmsys.fair_queue.gateway.redis_counters import RedisStore
from llmsys.fair_queue.gateway.store import MemoryStore, SqliteStore, Store

__all__ = ["is_redis", "open_store", "parse_size", "secret_from", "serve", "serve_counters"]

GC_EVERY = 10_000
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Read bytes, with K, M or G for powers of 1024. Raises UsageFault.

    >>> parse_size("32M")
    33554432
    """
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text)
    if found is None:
        raise UsageFault(f"size {text!r} is not a number of bytes, as in 65536 or 32M")
    return int(found[1]) * UNITS[found[2]]


def secret_from(variable: str | None) -> str:
    """The value of an environment variable; empty without a name. Raises UsageFault if it is not set."""
    if variable is None:
        return ""
    value = os.environ.get(variable)
    if not value:
        raise UsageFault(f"environment variable {variable}, which --backend-key-env names, is not set")
    return value


def is_redis(text: str | None) -> TypeGuard[str]:
    """Whether a store's name is a Redis server's."""
    return text is not None and text.startswith(("redis://", "rediss://", "unix://"))


def open_store(text: str | None, *, reset: bool) -> Store:
    """The store that memory, sqlite:PATH or redis://… names; by default a file in the user's state directory.

    With `reset` a file that is there is moved aside. Raises UsageFault, and what the stores raise.
    """
    if text == "memory":
        return MemoryStore()
    if is_redis(text):
        return RedisStore(text)
    if text is None:
        path = Path(platformdirs.user_state_dir("llmsys")) / "fair-queue.sqlite"
    elif text.startswith("sqlite:") and len(text) > len("sqlite:"):
        path = Path(text.removeprefix("sqlite:"))
    else:
        raise UsageFault(f"--state {text!r} is not memory, sqlite:PATH or redis://HOST")
    if reset:
        _move_aside(path)
    return SqliteStore(path)


def serve(
    settings: Settings,
    store: Store,
    estimator: PromptEstimator,
    *,
    events: Path | None,
    log_every: int,
    ready: Callable[[dict[str, object]], None],
    say: Callable[[str], None],
) -> None:
    """Run a gateway until a signal; `ready` gets its addresses once it listens. Raises LlmsysError."""
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(events, every=log_every)) if events is not None else NoJournal()

        async def main() -> None:
            def listening(port: int, admin_port: int) -> None:
                listen, admin = settings.listen, settings.admin
                ready({"listening": f"http://{listen.host}:{port}", "admin": f"http://{admin.host}:{admin_port}"})

            await Gateway(settings, store, journal, estimator, say).serve(listening)

        gc.freeze()  # what was made at the start is never garbage: do not look at it again
        gc.set_threshold(GC_EVERY)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


def serve_counters(listening: socket.socket, open_kept: Callable[[], Store]) -> None:
    """Own the counters of several workers until SIGTERM; kept in the store that is opened here. Raises LlmsysError."""

    async def main() -> None:
        owning = asyncio.create_task(own(listening, open_kept()))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, owning.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await owning

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
