"""`bench --popularity`: Punica's closed loop on our engine and its peers, in one run, beside what the machine allows.

All requests are there at the start; at most `batch` run at once. Each popularity is served by our engine with all
adapters mixed, by the same engine one adapter at a time, by the same engine without adapters, and by the peers. The
limit is the least time that the measured memory and matmul ceilings allow for the steps that ran: every weight and
every distinct adapter read once a step, every product computed. Knows nothing of tables.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from llmsys.engine.factors import group_widths
from llmsys.engine.loader import read_config
from llmsys.engine.lora import AdapterWeights
from llmsys.engine.model import ModelConfig
from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import Ceilings, describe, dtype_name, find_model, measure_ceilings
from llmsys.serve_lora.bench_llama import LlamaServer
from llmsys.serve_lora.bench_servers import BatchServer, EngineServer, PeftServer, Served
from llmsys.serve_lora.cluster.adapters import popularity_counts
from llmsys.serve_lora.engine_bench import parameters
from llmsys.serve_lora.lora_split import LoraSplit, measure_split
from llmsys.serve_lora.punica_workload import Ask, adapter_names, punica_asks
from llmsys.serve_lora.random_adapters import write_random_adapter
from llmsys.serve_lora.reference_model import load_reference
from llmsys.serve_lora.step_cost import StepRow

__all__ = [
    "POPULARITIES",
    "PopularityBench",
    "PopularityPlan",
    "PopularityRow",
    "popularity_plan",
    "single_batch",
    "step_limit_s",
]

POPULARITIES = ("distinct", "uniform", "geometric:1.5", "zipf:1.5", "identical")
PEERS = ("peft", "llama.cpp")
BASE, BY_ADAPTER = "llmsys base", "llmsys by adapter"


@dataclass(frozen=True, slots=True)
class PopularityPlan:
    """What is served: `requests` requests of at most `limit` tokens, `batch` at once, adapters of one rank."""

    popularities: tuple[str, ...]
    peers: tuple[str, ...] = PEERS
    model: str = "smollm2"
    requests: int = 64
    limit: int = 128
    batch: int = 32
    rank: int = 16
    dtype: str = "bfloat16"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PopularityRow:
    """One server on one popularity. ratio: our output_tok_s over this one's. limit_share: least time / wall time.

    adapters: how many are asked for; segments: distinct adapters per step in the mean, None where it is not known.
    """

    popularity: str
    server: str
    adapters: int
    output_tok_s: float
    ratio: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    segments: float | None = None
    limit_share: float | None = None

    def as_row(self) -> dict[str, str | int | float | None]:
        """Cells of a table, times of tokens in milliseconds."""
        return {
            "popularity": self.popularity,
            "server": self.server,
            "adapters": self.adapters,
            "tok/s": self.output_tok_s,
            "llmsys ×": self.ratio,
            "ttft p50 s": self.ttft_p50_s,
            "ttft p99 s": self.ttft_p99_s,
            "tpot p50 ms": 1e3 * self.tpot_p50_s,
            "tpot p99 ms": 1e3 * self.tpot_p99_s,
            "segments": self.segments,
            "limit share": self.limit_share,
        }


def popularity_plan(popularity: str, *, model: str, batch: str, peers: str) -> PopularityPlan:
    """The plan that options ask for. Raises UsageFault for a popularity, a batch or a peer that cannot be."""
    wanted = {"all": PEERS, "none": ()}.get(peers, tuple(peers.split(",")))
    if set(wanted) - set(PEERS):
        raise UsageFault(f"--peers {peers!r}; expected all, none, or some of {', '.join(PEERS)}")
    chosen = POPULARITIES if popularity == "all" else tuple(popularity.split(","))
    for one in chosen:
        popularity_counts(one, 1)
    return PopularityPlan(chosen, wanted, model=model, batch=single_batch(batch))


def single_batch(batch: str) -> int:
    """One batch size. Raises UsageFault for a list or no number."""
    if not batch.isdecimal() or int(batch) < 1:
        raise UsageFault(f"--batch {batch!r}; expected one size of at least 1")
    return int(batch)


class PopularityBench:
    """Runs a plan; `skipped` names the peers that are missing and how to get them, `splits` what adapters cost."""

    def __init__(self, plan: PopularityPlan) -> None:
        self.plan = plan
        self.skipped: list[str] = []
        self.splits: dict[str, LoraSplit] = {}
        self._dtype: torch.dtype = getattr(torch, plan.dtype)
        self._shape = read_config(find_model(plan.model))
        self._ceilings: Ceilings | None = None

    def rows(self, on_row: Callable[[PopularityRow], None]) -> list[PopularityRow]:
        """Serve everything; `on_row` hears of each row as it is done. One server's model is in memory at a time."""
        self._ceilings = measure_ceilings(torch.device("cpu"), dtypes=(self._dtype,))
        found = []
        with tempfile.TemporaryDirectory() as place:
            adapter = write_random_adapter(Path(place) / "adapter", self._shape, rank=self.plan.rank)
            for popularity in self.plan.popularities:
                for row in self._served(popularity, adapter, Path(place)):
                    found.append(row)
                    on_row(row)
        return found

    def as_record(self, rows: Sequence[PopularityRow]) -> dict[str, object]:
        """The bench as JSON values."""
        return {
            "machine": describe(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "ceilings": asdict(self._ceilings) if self._ceilings is not None else None,
            "plan": asdict(self.plan),
            "rows": [asdict(row) for row in rows],
            "lora": {name: asdict(split) for name, split in self.splits.items()},
            "skipped": self.skipped,
        }

    def remarks(self, rows: Sequence[PopularityRow]) -> str:
        """The ceilings, what adapters cost in a decode step, the spread of our popularities, and who is missing."""
        assert self._ceilings is not None
        own = [row.output_tok_s for row in rows if row.server == EngineServer.name]
        lines = [
            f"{describe()}, {torch.get_num_threads()} threads, torch {version('torch')}: reads "
            f"{self._ceilings.read_bytes_s / 1e9:.1f} GB/s, {dtype_name(self._dtype)} matmul "
            f"{self._ceilings.flop_s[dtype_name(self._dtype)] / 1e9:.0f} GFLOP/s; fastest popularity "
            f"{max(own) / min(own):.2f} × the slowest"
        ]
        lines += [
            f"{name}: {split.adapters} adapters on {split.rows} decode rows add {1e3 * split.whole_s:.1f} ms a step: "
            f"shrink {1e3 * split.shrink_s:.1f}, expand {1e3 * split.expand_s:.1f} "
            f"({split.adapter_bytes / max(split.whole_s, 1e-9) / 1e9:.1f} GB/s of {split.adapter_bytes / 1e6:.0f} MB)"
            for name, split in self.splits.items()
        ]
        return "\n".join(lines + [f"skipped: {reason}" for reason in self.skipped])

    def _served(self, popularity: str, adapter: Path, place: Path) -> Iterator[PopularityRow]:
        """Every server's row: ours, ours in the ways of others, the peers. place: for what a peer has to write."""
        plan = self.plan
        paths = dict.fromkeys(adapter_names(self._asks(popularity)), adapter)
        engine = EngineServer(plan.model, paths, batch=plan.batch, dtype=plan.dtype)
        asks = self._asks(popularity)
        warm = asks[: max(plan.batch // 4, 1)]
        ways = {EngineServer.name: engine.serve, BY_ADAPTER: engine.serve_by_adapter, BASE: engine.serve_base}
        engine.serve(warm), engine.serve_base(warm)
        ours = 0.0
        for name, way in ways.items():
            served = way(asks)
            ours = ours or served.tokens / served.wall_s
            yield self._row(popularity, name, served, ours=ours, adapters=0 if name == BASE else len(paths))
        self.splits[popularity] = self._split(min(len(paths), plan.batch))
        del engine, ways
        gc.collect()
        for peer in self._peers(paths, place):
            peer.serve(asks[:1])
            yield self._row(popularity, peer.name, peer.serve(asks), ours=ours, adapters=len(paths))
            if isinstance(peer, LlamaServer):
                base = [replace(ask, adapter=None) for ask in asks]
                yield self._row(popularity, f"{peer.name} base", peer.serve(base), ours=ours, adapters=0)
                peer.close()

    def _asks(self, popularity: str) -> list[Ask]:
        plan = self.plan
        return punica_asks(popularity, plan.requests, limit=plan.limit, vocab=self._shape.vocab, seed=plan.seed)

    def _peers(self, paths: dict[str, Path], place: Path) -> Iterator[BatchServer]:
        """The peers that are installed, one at a time; it is said once why another is not there."""
        plan = self.plan
        for name in plan.peers:
            try:
                if name == "peft":
                    yield PeftServer(load_reference(plan.model, self._dtype), paths, batch=plan.batch)
                else:
                    yield LlamaServer(plan.model, paths, place=place, batch=plan.batch, limit=plan.limit)
            except Unavailable as missing:
                if str(missing) not in self.skipped:
                    self.skipped.append(str(missing))
            gc.collect()

    def _row(self, popularity: str, name: str, served: Served, *, ours: float, adapters: int) -> PopularityRow:
        output_tok_s = served.tokens / served.wall_s
        waits, paces = np.array(served.first_s()), np.array(served.per_token_s() or [0.0])
        counted = [len({row.adapter for row in step if row.adapter}) for step in served.steps]
        limit_s = sum(self._limit_s(step) for step in served.steps)
        return PopularityRow(
            popularity=popularity,
            server=name,
            adapters=adapters,
            output_tok_s=output_tok_s,
            ratio=ours / output_tok_s,
            ttft_p50_s=float(np.quantile(waits, 0.5)),
            ttft_p99_s=float(np.quantile(waits, 0.99)),
            tpot_p50_s=float(np.quantile(paces, 0.5)),
            tpot_p99_s=float(np.quantile(paces, 0.99)),
            segments=float(np.mean(counted)) if counted else None,
            limit_share=limit_s / served.wall_s if counted else None,
        )

    def _limit_s(self, step: Sequence[StepRow]) -> float:
        assert self._ceilings is not None
        flop_s = self._ceilings.flop_s[dtype_name(self._dtype)]
        return step_limit_s(
            self._shape,
            step,
            rank=self.plan.rank,
            item_bytes=self._dtype.itemsize,
            read_bytes_s=self._ceilings.read_bytes_s,
            flop_s=flop_s,
        )

    def _split(self, adapters: int) -> LoraSplit:
        """What so many distinct adapters add to a full step of decoding."""
        made = [_filled(self._shape, self.plan.rank, self._dtype) for _ in range(adapters)]
        return measure_split(self._shape, made, rows=self.plan.batch, dtype=self._dtype)


def step_limit_s(
    shape: ModelConfig,
    step: Sequence[StepRow],
    *,
    rank: int,
    item_bytes: int,
    read_bytes_s: float,
    flop_s: float,
) -> float:
    """Least seconds of a step: all weights and each distinct adapter read once, 2 FLOP per weight and token row.

    The head is computed for one row of a request; reading keys and values is left out, so that the limit is a bound.
    """
    head = shape.vocab * shape.hidden
    per_row = rank * sum(width * len(outs) + sum(outs) for width, outs in group_widths(shape).values()) * shape.layers
    tokens = sum(row.tokens for row in step)
    lora_tokens = sum(row.tokens for row in step if row.adapter)
    distinct = len({row.adapter for row in step if row.adapter})
    read_s = item_bytes * (parameters(shape) + distinct * per_row) / read_bytes_s
    products = (parameters(shape) - head) * tokens + head * sum(bool(row.decode_tokens) for row in step)
    return max(read_s, 2 * (products + per_row * lora_tokens) / flop_s)


def _filled(shape: ModelConfig, rank: int, dtype: torch.dtype) -> AdapterWeights:
    """An adapter of all targets in memory of its own."""
    from llmsys.engine.factors import GROUPS

    made = AdapterWeights(shape, rank=rank, dtype=dtype)
    for group, (width, outs) in group_widths(shape).items():
        for target, out in zip(GROUPS[group], outs, strict=True):
            for layer in range(shape.layers):
                made.put(layer, target, torch.full((rank, width), 0.01), torch.full((out, rank), 0.01))
    return made
