"""Other programs' progress by the JSON lines that they print: steps, and the process ids of their ranks."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["PATIENCE_S", "Record", "until_step", "watched"]

PATIENCE_S = 60.0

Record = dict[str, Any]


@contextlib.contextmanager
def watched(command: list[str]) -> "Iterator[tuple[subprocess.Popen[bytes], queue.Queue[bytes]]]":
    """A command in a session of its own and what it prints; all of it is killed at the end."""
    lines: queue.Queue[bytes] = queue.Queue()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    ) as process:
        output = process.stdout
        assert output is not None
        reader = threading.Thread(target=_read, args=(output, lines), daemon=True)
        reader.start()
        try:
            yield process, lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()


def _read(output: IO[bytes], lines: "queue.Queue[bytes]") -> None:
    for line in output:
        lines.put(line)


def until_step(lines: "queue.Queue[bytes]", wanted: int, pids: list[int] | None = None) -> int | None:
    """The first step that is `wanted` or later; None where none comes in time."""
    limit_s = time.monotonic() + PATIENCE_S
    while (left_s := limit_s - time.monotonic()) > 0:
        try:
            record: Record = json.loads(lines.get(timeout=left_s))
        except (queue.Empty, json.JSONDecodeError):
            continue
        if pids is not None and "rank" in record:
            pids.append(int(record["pid"]))
        if record.get("event", "step") == "step" and record.get("step", 0) >= wanted:
            return int(record["step"])
    return None
