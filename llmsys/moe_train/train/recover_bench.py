"""From a worker's death to the next committed step: ours, stop-and-resume with our own code, and torchrun's restart.

All three train the same model on the same text with as many workers, and are killed alike (SIGKILL). A step is
committed when its line has been read. Knows no tables.
"""

import os
import signal
import sys
import tempfile
import time
from statistics import median

from llmsys.moe_train.plan_bench import BenchFound, Target
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.torchrun_peer import SAVE_EVERY
from llmsys.moe_train.train.trainer import Trainer
from llmsys.moe_train.train.watching import PATIENCE_S, Record, until_step, watched

__all__ = ["bench_recover"]

WORKERS, SEQ, BATCH = 4, 32, 16
BETWEEN = 16  # steps from one kill to the next, in which a new worker joins
KILL_AT = 8
TORCHFT_S = 5.1  # measured with torchft 0.2.0 for the specification, default limits


def bench_recover(*, runs: int) -> BenchFound:
    """Kill `runs` workers of ours, one after the other, and restart each peer once."""
    ours, step_s = _ours(runs)
    found: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, measure in (("stop and resume", _resumed), ("torchrun restart", _torchrun)):
        seconds = measure()
        if seconds is None:
            missing[name] = f"no step within {PATIENCE_S:g} s of the kill"
        else:
            found[name] = seconds
    p50, worst = median(ours), max(ours)
    rows: list[dict[str, str | float]] = [
        {
            "what": "in process (ours)",
            "p50_s": p50,
            "max_s": worst,
            "without_a_step_s": max(p50 - step_s, 0.0),
            "times_ours": 1.0,
        }
    ]
    rows += [
        {
            "what": name,
            "p50_s": seconds,
            "max_s": seconds,
            "without_a_step_s": seconds - step_s,
            "times_ours": seconds / p50,
        }
        for name, seconds in found.items()
    ]
    targets = [
        Target("kill to next step, p50, less one step, s", max(p50 - step_s, 0.0), 1.0),
        Target("kill to next step, worst, less one step, s", max(worst - step_s, 0.0), 2.5),
        Target("times faster than torchft's 5.1 s (as specified)", TORCHFT_S / p50, 5.0, at_least=True),
        *(Target(f"times faster than {name}", seconds / p50, 1.0, at_least=True) for name, seconds in found.items()),
    ]
    return BenchFound(rows, targets, missing)


def _ours(runs: int) -> tuple[list[float], float]:
    """Seconds from every kill to the next step, and the median step."""
    adds = ";".join(f"{KILL_AT + number * BETWEEN + 2}:add:1" for number in range(runs))
    config = RunConfig(
        steps=KILL_AT + runs * BETWEEN, seq=SEQ, batch=BATCH, workers=WORKERS, faults=adds, heartbeat_s=10.0
    )
    pids: dict[str, int] = {}
    killed_s: float | None = None
    found, steps, last_s, kills = [], [], 0.0, 0
    for event in Trainer(config).run():
        record: Record = event
        now = time.monotonic()
        match record["event"]:
            case "start":
                pids = dict(record["pids"])
            case "join":
                pids[str(record["worker"])] = record["pid"]
            case "step":
                if killed_s is not None:
                    found.append(now - killed_s)
                    killed_s = None
                else:
                    steps.append(now - last_s)
                last_s = now
                if kills < runs and record["step"] >= KILL_AT + kills * BETWEEN and record["workers"] == WORKERS:
                    _, pid = pids.popitem()
                    killed_s, kills = time.monotonic(), kills + 1
                    os.kill(pid, signal.SIGKILL)
    return found, median(steps)


def _resumed() -> float | None:
    """Kill a whole run and start it again from its checkpoint."""
    with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as place:
        sizes = ["--seq", SEQ, "--batch", BATCH, "--workers", WORKERS, "--slots", 4, "--heartbeat", "10s", "--quiet"]
        start = [sys.executable, "-m", "llmsys", "moe-train", "run", *sizes, "--steps", 10000, "--out", place]
        command = [str(part) for part in [*start, "--ckpt-every", SAVE_EVERY]]
        with watched(command) as (process, lines):
            step = until_step(lines, KILL_AT)
            killed_s = time.monotonic()
            process.kill()
            process.wait()
        if step is None:
            return None
        with watched([*command, "--resume", place]) as (_, lines):
            return _since(killed_s, until_step(lines, step + 1))


def _torchrun() -> float | None:
    """Kill one rank and wait for torchrun to restart all of them."""
    with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as place:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
        script = [
            "--max-restarts=2",
            "-m",
            "llmsys.moe_train.train.torchrun_peer",
            place,
            "10000",
            str(SEQ),
            str(BATCH),
        ]
        with watched([*launch, *script]) as (_, lines):
            pids: list[int] = []
            step = until_step(lines, KILL_AT, pids)
            if step is None:
                return None
            killed_s = time.monotonic()
            os.kill(pids[-1], signal.SIGKILL)
            return _since(killed_s, until_step(lines, step + 1))


def _since(killed_s: float, step: int | None) -> float | None:
    return None if step is None else time.monotonic() - killed_s
