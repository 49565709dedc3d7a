"""`order` beside the script that people write: CPU time of whole processes, in turns, on the same made-up lines.

The limit is a process that reads the lines and writes them again. CPU time, because a shared machine stretches walls.
"""

import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median

from llmsys.artifacts import encode
from llmsys.errors import LlmsysError
from llmsys.fair_queue.bench import naive_order

__all__ = ["OrderBench", "OrderRow", "bench_order"]

COPY = "import sys\nwith open(sys.argv[1], 'rb') as f:\n    for line in f: sys.stdout.buffer.write(line)"
TARGET = 3.0


@dataclass(slots=True, frozen=True)
class OrderRow:
    """CPU seconds of a process, median over the rounds, lines per CPU second, and how many times the script's speed."""

    name: str
    cpu_s: float
    lines_per_s: float
    times_naive: float


@dataclass(slots=True, frozen=True)
class OrderBench:
    """The rows; `ratio` is how many times as fast as the script we are, `target` how many it should be."""

    lines: int
    tenants: int
    rows: list[OrderRow]
    ratio: float
    target: float


def bench_order(
    *, lines: int, tenants: int, rounds: int, window: int = 10_000, on_done: Callable[[int], None] | None = None
) -> OrderBench:
    """Time both, and the limit, in turns. Raises LlmsysError if the two write different bytes or one fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        _write_lines(path, lines, tenants)
        commands = {
            "llmsys": ["-m", "llmsys", "fair-queue", "order", str(path), "--window", str(window)],
            "naive script": [naive_order.__file__, str(path), str(window)],
            "copy (limit)": ["-c", COPY, str(path)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        digests: dict[str, str] = {}
        # the first turn compiles and is not counted
        for turn in range(rounds + 1):
            for name, command in commands.items():
                seconds, digests[name] = _run(command, Path(folder) / "out")
                times[name] += [seconds] if turn else []
            if on_done is not None:
                on_done(1)
    if digests["llmsys"] != digests["naive script"]:
        raise LlmsysError("order and the naive script wrote different bytes")
    cpu_s = {name: median(seconds) for name, seconds in times.items()}
    naive_s = cpu_s["naive script"]
    rows = [OrderRow(name, seconds, lines / seconds, naive_s / seconds) for name, seconds in cpu_s.items()]
    return OrderBench(lines, tenants, rows, naive_s / cpu_s["llmsys"], TARGET)


def _write_lines(path: Path, lines: int, tenants: int) -> None:
    draw = random.Random(42)
    with path.open("wb") as stream:
        for number in range(lines):
            record = {
                "id": f"{number:07d}",
                "tenant": f"tenant-{draw.randrange(tenants)}",
                "arrival_s": number / 1000,
                "prompt_tokens": draw.randrange(1, 1000),
                "output_tokens": draw.randrange(1, 500),
            }
            stream.write(encode(record))


def _run(arguments: list[str], out: Path) -> tuple[float, str]:
    """CPU seconds of a Python process and the digest of what it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with out.open("wb") as stream:
        run = subprocess.run([sys.executable, *arguments], stdout=stream, stderr=subprocess.PIPE, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise LlmsysError(f"{' '.join(arguments[:4])} failed: {run.stderr.decode(errors='replace').strip()[-300:]}")
    with out.open("rb") as stream:
        digest = sha256(stream.read()).hexdigest()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, digest
