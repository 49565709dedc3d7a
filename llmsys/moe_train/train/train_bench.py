"""What training costs without faults: grouped experts beside a loop over them, our steps beside a plain trainer's.

The plain trainer is data parallel under torchrun with every expert on every rank; both take the same batch of the same
text. On shared cores trust the ratios. Knows no tables.
"""

import sys
import tempfile
import time
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from llmsys.gpu import measure
from llmsys.moe_train.plan_bench import BenchFound, Target
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.experts import expert_products
from llmsys.moe_train.train.trainer import Trainer
from llmsys.moe_train.train.watching import PATIENCE_S, until_step, watched

__all__ = ["bench_train"]

EXPERTS, ROWS, WIDTH, HIDDEN = 32, 2048, 128, 192
WORKERS, SEQ, BATCH = 2, 64, 16
STEPS, WARM_UP = 30, 5


def bench_train(*, runs: int, seed: int) -> BenchFound:
    """Milliseconds forward and backward of one matrix product per expert, and of whole steps."""
    rows, targets = _products(runs, seed)
    ours_ms, plain_ms = _ours(), _plain()
    missing = {} if plain_ms is not None else {"plain trainer": f"no step {STEPS} within {PATIENCE_S:g} s"}
    rows.append({"what": f"step, ours, {WORKERS} workers", "ms": ours_ms, "times_ours": 1.0})
    if plain_ms is not None:
        rows.append({"what": "step, data parallel", "ms": plain_ms, "times_ours": plain_ms / ours_ms})
    return BenchFound(rows, targets, missing)


def _products(runs: int, seed: int) -> tuple[list[dict[str, str | float]], list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, WIDTH, generator=generator, requires_grad=True)
    matrices = torch.randn(EXPERTS, WIDTH, HIDDEN, generator=generator, requires_grad=True)
    counts = torch.bincount(torch.randint(EXPERTS, (ROWS,), generator=generator), minlength=EXPERTS).tolist()
    grouped = measure(lambda: _both_ways(expert_products(rows, matrices, counts)), runs=runs, warmup=1).median_s * 1e3
    looped = measure(lambda: _both_ways(_looped(rows, matrices, counts)), runs=runs, warmup=1).median_s * 1e3
    name = f"{EXPERTS} experts, {ROWS} rows"
    found: list[dict[str, str | float]] = [
        {"what": f"{name}, grouped", "ms": grouped, "times_ours": 1.0},
        {"what": f"{name}, loop", "ms": looped, "times_ours": looped / grouped},
    ]
    return found, [Target("grouped experts over a loop, times", looped / grouped, 1.5, at_least=True)]


def _looped(rows: Tensor, matrices: Tensor, counts: list[int]) -> Tensor:
    found, start = [], 0
    for expert, count in enumerate(counts):
        found.append(rows[start : start + count] @ matrices[expert])
        start += count
    return torch.cat(found)


def _both_ways(product: Tensor) -> None:
    product.backward(torch.ones_like(product))  # type: ignore[no-untyped-call]


def _ours() -> float:
    """Milliseconds of a median step."""
    config = RunConfig(steps=STEPS, seq=SEQ, batch=BATCH, workers=WORKERS, heartbeat_s=10.0)
    at_s = [time.monotonic() for event in Trainer(config).run() if event["event"] == "step"]
    return 1e3 * median(later - earlier for earlier, later in pairwise(at_s[WARM_UP:]))


def _plain() -> float | None:
    """Milliseconds of a median step of the plain trainer."""
    with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as place:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
        script = ["-m", "llmsys.moe_train.train.torchrun_peer", place, str(STEPS), str(SEQ), str(BATCH)]
        at_s = []
        with watched([*launch, *script]) as (_, lines):
            for step in range(WARM_UP, STEPS + 1):
                if until_step(lines, step) is None:
                    return None
                at_s.append(time.monotonic())
    return 1e3 * median(later - earlier for earlier, later in pairwise(at_s))
