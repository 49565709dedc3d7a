"""`bench --engine`: decode speed of our engine beside its peers', in one run, with what the answers are worth.

Decode alone: the time for n + 1 tokens less the time for 1, so that prefill and set-up cancel; the best of a few runs.
An end token ends no answer, here or at a peer.
Beside each speed stands its fidelity to transformers in float32 (answers that are identical, and the largest gap
between the reference's best logit and that of the token chosen, by teacher forcing) and the share of the physical
limit: what the measured memory and matmul ceilings allow for this model. Knows nothing of tables.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from llmsys.engine.loader import read_config
from llmsys.engine.model import ModelConfig
from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import Ceilings, Measurement, describe, dtype_name, find_model, measure, measure_ceilings
from llmsys.serve_lora.adapter_files import find_adapters
from llmsys.serve_lora.bench_decoders import EngineDecoder, GreedyDecoder, PeftDecoder, TransformersDecoder
from llmsys.serve_lora.bench_llama import LlamaDecoder
from llmsys.serve_lora.prompts import TEACHING_PROMPTS
from llmsys.serve_lora.reference_model import ReferenceModel, chat_ids, load_reference

__all__ = ["BenchPlan", "BenchRow", "EngineBench", "bench_plan", "decode_speed", "forced_gap", "with_ratios"]

PROMPT_TOKENS = 32
FIDELITY_PROMPTS = 16
PEERS = ("transformers", "peft", "llama.cpp")


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured: batch sizes, tokens per answer, runs of which the best counts, adapters for mixed batches."""

    model: str = "smollm2"
    adapters: Mapping[str, Path] | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    tokens: int = 32
    runs: int = 2
    device: str = "auto"
    dtype: str = "bfloat16"
    peers: tuple[str, ...] = PEERS


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One decoder at one batch size. tok_s: output tokens per second of decoding, None where the noise of the machine
    hid it; tok_cpu_s: per second of CPU time, which others' load disturbs less. ratio: our tok_s over this one.

    identical and gap: fidelity to float32, None where it was not measured. limit_share: of the physical limit.
    overhead_ms: of ours, a step's time outside its forward pass. doubts: why the speed cannot be trusted, "" where
    nothing speaks against it.
    """

    decoder: str
    adapters: str
    batch: int
    tok_s: float | None
    tok_cpu_s: float | None = None
    ratio: float | None = None
    identical: float | None = None
    gap: float | None = None
    limit_share: float | None = None
    overhead_ms: float | None = None
    doubts: str = ""

    def as_row(self) -> dict[str, str | int | float | None]:
        """Cells of a table."""
        return {name: value for name, value in asdict(self).items() if name != "doubts"}


def bench_plan(*, model: str, adapters: Path | None, batch: str, peers: str) -> BenchPlan:
    """The plan that options ask for. Raises UsageFault for a bad batch size or an unknown peer."""
    sizes = batch.split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UsageFault(f"--batch {batch!r}; expected sizes of at least 1, comma-separated")
    wanted = {"all": PEERS, "none": ()}.get(peers) if peers in ("all", "none") else tuple(peers.split(","))
    if wanted is None or set(wanted) - set(PEERS):
        raise UsageFault(f"--peers {peers!r}; expected all, none, or some of {', '.join(PEERS)}")
    found = find_adapters(adapters) if adapters is not None else None
    return BenchPlan(model=model, adapters=found, batches=tuple(map(int, sizes)), peers=wanted)


class EngineBench:
    """Runs a plan; `skipped` names the peers that are missing and how to get them."""

    def __init__(self, plan: BenchPlan) -> None:
        self.plan = plan
        self.skipped: list[str] = []
        self.ceilings: Ceilings | None = None
        self.versions = {name: version(name) for name in ("torch", "transformers")}
        self._dtype: torch.dtype = getattr(torch, plan.dtype)

    def rows(self, on_row: Callable[[BenchRow], None]) -> list[BenchRow]:
        """Measure everything; `on_row` hears of each row as it is done. One model is in memory beside the reference."""
        self.ceilings = measure_ceilings(torch.device("cpu"), dtypes=(self._dtype,))
        reference = load_reference(self.plan.model, torch.float32)
        prompts = _prompts(reference)
        found: list[BenchRow] = []
        for kind, names in self._kinds():
            judge = self._judge(reference, names, prompts)
            for decoder in self._decoders(mixed=bool(names)):
                fidelity = judge(decoder)
                for row in self._measured(decoder, kind, names, prompts):
                    found.append(replace(row, identical=fidelity[0], gap=fidelity[1]))
                    on_row(found[-1])
                del decoder
                gc.collect()
        return with_ratios(found)

    def as_record(self, rows: Sequence[BenchRow]) -> dict[str, object]:
        """The bench as JSON values, with the ceilings and what was skipped."""
        ceilings = asdict(self.ceilings) if self.ceilings is not None else None
        return {
            "machine": describe(),
            "threads": torch.get_num_threads(),
            "versions": self.versions,
            "ceilings": ceilings,
            "rows": [asdict(row) for row in rows],
            "skipped": self.skipped,
        }

    def remarks(self, rows: Sequence[BenchRow]) -> str:
        """The ceilings, the peers that are missing, and which rows are in doubt and why, as sentences."""
        assert self.ceilings is not None
        flop_s = self.ceilings.flop_s[dtype_name(self._dtype)]
        skipped = "".join(f"; skipped: {reason}" for reason in self.skipped)
        doubtful = "".join(
            f"\nin doubt: {row.decoder}, {row.adapters}, batch {row.batch}: {row.doubts}" for row in rows if row.doubts
        )
        versions = ", ".join(f"{name} {found}" for name, found in self.versions.items())
        return (
            f"{describe()}, {torch.get_num_threads()} threads, {versions}: reads "
            f"{self.ceilings.read_bytes_s / 1e9:.1f} GB/s, {dtype_name(self._dtype)} matmul {flop_s / 1e9:.0f} GFLOP/s"
            f"{skipped}{doubtful}"
        )

    def _kinds(self) -> list[tuple[str, list[str]]]:
        names = list(self.plan.adapters or {})
        return [("none", []), (f"{len(names)} mixed", names)] if names else [("none", [])]

    def _decoders(self, *, mixed: bool) -> Iterator[GreedyDecoder]:
        """Ours first, then the peers that can do this kind of batch."""
        plan = self.plan
        yield EngineDecoder(plan.model, plan.adapters or {}, device=plan.device, dtype=plan.dtype)
        if not mixed and "transformers" in plan.peers:
            yield TransformersDecoder(load_reference(plan.model, self._dtype))
        if mixed and "peft" in plan.peers:
            try:
                yield PeftDecoder(load_reference(plan.model, self._dtype), plan.adapters or {})
            except Unavailable as missing:
                self.skipped.append(str(missing))
        if not mixed and "llama.cpp" in plan.peers:
            yield from self._llama()

    def _llama(self) -> Iterator[LlamaDecoder]:
        """llama.cpp as long as it is asked for, if it is installed and reads the model."""
        plan = self.plan
        try:
            decoder = LlamaDecoder(plan.model, batch=max(plan.batches), limit=PROMPT_TOKENS + plan.tokens + 1)
        except Unavailable as missing:
            self.skipped.append(str(missing))
            return
        self.versions["llama-cpp-python"] = version("llama-cpp-python")
        try:
            yield decoder
        finally:
            decoder.close()

    def _judge(
        self, reference: ReferenceModel, names: list[str], prompts: list[list[int]]
    ) -> Callable[[GreedyDecoder], tuple[float | None, float | None]]:
        """A function that compares a decoder's answers with float32's; it knows nothing of adapters without PEFT."""
        chosen = prompts[:FIDELITY_PROMPTS]
        adapters = _assigned(names, len(chosen))
        try:
            truth: GreedyDecoder = (
                PeftDecoder(reference, self.plan.adapters or {}) if names else TransformersDecoder(reference)
            )
        except Unavailable:
            return lambda decoder: (None, None)
        expected = truth.decode(chosen, self.plan.tokens, adapters)
        model = truth.model if isinstance(truth, PeftDecoder) else reference.model

        def judge(decoder: GreedyDecoder) -> tuple[float, float]:
            actual = decoder.decode(chosen, self.plan.tokens, adapters)
            same = sum(ours == theirs for ours, theirs in zip(actual, expected, strict=True)) / len(chosen)
            return same, forced_gap(model, chosen, actual, adapters if names else None)

        return judge

    def _measured(
        self, decoder: GreedyDecoder, kind: str, names: list[str], prompts: list[list[int]]
    ) -> Iterator[BenchRow]:
        shape = read_config(find_model(self.plan.model))
        _overhead_ms(decoder)  # what it decoded before does not count
        for batch in self.plan.batches:
            rows = [prompts[at % len(prompts)] for at in range(batch)]
            adapters = _assigned(names, batch)
            one, all_tokens = (
                measure(partial(decoder.decode, rows, count, adapters), runs=self.plan.runs, warmup=int(count == 1))
                for count in (1, self.plan.tokens + 1)
            )
            tok_s, tok_cpu_s, doubts = decode_speed(one, all_tokens, tokens=batch * self.plan.tokens)
            share = None if tok_s is None else tok_s / self._limit_tok_s(shape, batch)
            row = BenchRow(decoder.name, kind, batch, tok_s, tok_cpu_s, limit_share=share, doubts=doubts)
            yield replace(row, overhead_ms=_overhead_ms(decoder))

    def _limit_tok_s(self, shape: ModelConfig, batch: int) -> float:
        """Tokens per second that the ceilings allow: each weight read once a step, 2 FLOP per weight and row."""
        assert self.ceilings is not None
        weights = parameters(shape)
        read_s = weights * self._dtype.itemsize / self.ceilings.read_bytes_s
        compute_s = 2 * weights * batch / self.ceilings.flop_s[dtype_name(self._dtype)]
        return batch / max(read_s, compute_s)


def _overhead_ms(decoder: GreedyDecoder) -> float | None:
    """Of our engine since the last call; a peer's cannot be told apart."""
    return decoder.overhead_ms() if isinstance(decoder, EngineDecoder) else None


def parameters(shape: ModelConfig) -> int:
    """Weights that a step multiplies by: every projection, and the head."""
    attention = shape.hidden * (2 * shape.q_width + 2 * shape.kv_width)
    return shape.layers * (attention + 3 * shape.hidden * shape.mlp) + shape.vocab * shape.hidden


def with_ratios(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Each peer's row with our speed over its own, at the same batch size and kind; ours stay without."""
    ours = {(row.adapters, row.batch): row.tok_s for row in rows if row.decoder == EngineDecoder.name}
    found = []
    for row in rows:
        own = ours.get((row.adapters, row.batch))
        known = row.decoder != EngineDecoder.name and own is not None and row.tok_s is not None
        found.append(replace(row, ratio=own / row.tok_s) if known and own and row.tok_s else row)
    return found


@torch.inference_mode()
def forced_gap(
    model: Any,  # noqa: ANN401
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    adapters: Sequence[str | None] | None,
) -> float:
    """The largest gap, over all answers' tokens, between the model's best logit and that of the token chosen."""
    ids = torch.tensor([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
    given = {} if adapters is None else {"adapter_names": [name or "__base__" for name in adapters]}
    start = len(prompts[0])
    logits = model(input_ids=ids, **given).logits[:, start - 1 : -1].float()
    chosen = logits.gather(-1, ids[:, start:, None]).squeeze(-1)
    return float((logits.amax(-1) - chosen).max())


def decode_speed(one: Measurement, all_tokens: Measurement, *, tokens: int) -> tuple[float | None, float | None, str]:
    """Tokens per second and per CPU second of decoding `tokens` beyond each row's first, and what makes them doubtful.

    A difference of times that is not positive is noise: it gives None and says so, never a number.
    """
    doubts = list(dict.fromkeys([*one.warnings, *all_tokens.warnings]))
    wall_s, cpu_s = all_tokens.min_s - one.min_s, all_tokens.cpu_s - one.cpu_s
    if wall_s <= 0:
        doubts.insert(0, "decoding took no longer than the first token: noise; take more tokens and runs")
    return (
        tokens / wall_s if wall_s > 0 else None,
        tokens / cpu_s if cpu_s > 0 else None,
        "; ".join(doubts),
    )


def _assigned(names: list[str], rows: int) -> list[str | None]:
    """An adapter per row, in turn."""
    return [names[at % len(names)] if names else None for at in range(rows)]


def _prompts(reference: ReferenceModel) -> list[list[int]]:
    """The ends of chats, PROMPT_TOKENS each, so that no decoder has to pad."""
    chats = [chat_ids(reference.tokenizer, [{"role": "user", "content": text}]) for text in TEACHING_PROMPTS]
    return [ids[-PROMPT_TOKENS:] for ids in chats if len(ids) >= PROMPT_TOKENS][:32]
