"""The bench measures what it says: equal decoders are identical, a wrong one shows, and limits follow the ceilings."""

import sys
import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from llmsys.engine.loader import read_config
from llmsys.errors import UsageFault
from llmsys.gpu import Measurement
from llmsys.serve_lora.adapter_files import TrainingRecord, write_adapter
from llmsys.serve_lora.adapter_training import Example, TrainingPlan, train_adapter
from llmsys.serve_lora.bench_decoders import EngineDecoder, PeftDecoder, TransformersDecoder
from llmsys.serve_lora.bench_llama import LlamaDecoder
from llmsys.serve_lora.engine_bench import (
    BenchRow,
    EngineBench,
    bench_plan,
    decode_speed,
    forced_gap,
    parameters,
    with_ratios,
)
from llmsys.serve_lora.reference_model import chat_ids, load_reference

PROMPTS = [[10, 20, 30, 40], [50, 60, 70, 80], [5, 6, 7, 8]]


@pytest.fixture(scope="module")
def taught(tiny_model, tmp_path_factory):
    """Two adapters of the small model, different in rank and seed."""
    place = tmp_path_factory.mktemp("taught")
    for seed, name in enumerate(("one", "two")):
        reference = load_reference(str(tiny_model), torch.float32)
        plan = TrainingPlan(rank=2 + seed, steps=10, learning_rate=3e-2, seed=seed)
        examples = [Example(({"role": "user", "content": name},), name * 4)]
        trained = train_adapter(reference, examples, plan, lambda steps: None)
        write_adapter(place / name, trained.tensors, trained.config, TrainingRecord())
    return {name: place / name for name in ("one", "two")}


def test_our_engine_and_transformers_give_the_same_tokens_in_float32(tiny_model):
    base = [None] * 3
    ours = EngineDecoder(str(tiny_model), {}, device="cpu", dtype="float32").decode(PROMPTS, 12, base)

    theirs = TransformersDecoder(load_reference(str(tiny_model), torch.float32)).decode(PROMPTS, 12, base)

    assert ours == theirs


def test_the_overhead_of_a_step_is_what_its_forward_pass_does_not_take(tiny_model):
    """A clock that ticks at every look: a generation is looked at twice, and twice more in each of its steps."""
    ticks = count()
    decoder = EngineDecoder(str(tiny_model), {}, device="cpu", dtype="float32", clock=lambda: float(next(ticks)))

    decoder.decode(PROMPTS, 5, [None] * 3)

    assert decoder.overhead_ms() == pytest.approx(1e3 * (2 * 5 + 1 - 5) / 5)
    assert decoder.overhead_ms() == 0.0


def test_a_mixed_batch_gives_what_peft_gives(tiny_model, taught):
    adapters = ["one", None, "two"]
    ours = EngineDecoder(str(tiny_model), taught, device="cpu", dtype="float32").decode(PROMPTS, 12, adapters)
    peft = PeftDecoder(load_reference(str(tiny_model), torch.float32), taught)

    assert ours == peft.decode(PROMPTS, 12, adapters)
    assert ours != peft.decode(PROMPTS, 12, ["two", None, "one"])
    assert forced_gap(peft.model, PROMPTS, ours, adapters) < 1e-3


def test_llama_cpp_decodes_the_same_batch_and_is_measured_beside_us():
    """The same GGUF weights in two programs: most of the first tokens are the same, more rows than seats wait."""
    pytest.importorskip("llama_cpp")
    rows = [[row + k for k in range(8)] for row in range(100, 400, 100)]
    decoder = LlamaDecoder("smollm2", batch=2, limit=24)

    theirs = decoder.decode(rows, 8, [None] * 3)
    decoder.close()
    ours = EngineDecoder("smollm2", {}, device="cpu", dtype="float32").decode(rows, 8, [None] * 3)

    assert [len(answer) for answer in theirs] == [8] * 3
    assert sum(answer[0] == other[0] for answer, other in zip(ours, theirs, strict=True)) >= 2


def test_a_missing_llama_cpp_is_named_with_the_way_to_get_it(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    plan = bench_plan(model=str(tiny_model), adapters=None, batch="2", peers="llama.cpp")
    bench = EngineBench(replace(plan, tokens=2, runs=1, dtype="float32"))

    rows = bench.rows(lambda _: None)

    assert {row.decoder for row in rows} == {"llmsys"}
    assert "pip install llama-cpp-python" in "".join(bench.skipped)


def test_a_wrong_token_shows_in_the_gap(tiny_model):
    reference = load_reference(str(tiny_model), torch.float32)
    right = TransformersDecoder(reference).decode(PROMPTS, 6, [None] * 3)
    wrong = [list(answer) for answer in right]
    wrong[1][3] = (wrong[1][3] + 1) % 258

    assert forced_gap(reference.model, PROMPTS, right, None) < 1e-4
    assert forced_gap(reference.model, PROMPTS, wrong, None) > 1e-2


def test_an_end_token_ends_no_decoders_answer(tiny_model):
    """A model whose every next token is the end token: forbidden nowhere, obeyed nowhere."""
    reference = load_reference(str(tiny_model), torch.float32)
    chat = [{"role": "user", "content": "x"}]
    examples = [Example(({"role": "user", "content": "x"},), "a")]
    plan = TrainingPlan(rank=4, steps=60, learning_rate=1e-2)
    trained = train_adapter(reference, examples, plan, lambda steps: None)
    ids = chat_ids(reference.tokenizer, chat)
    end = reference.tokenizer.eos_token_id
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "ends"
        write_adapter(path, trained.tensors, trained.config, TrainingRecord())
        ours = EngineDecoder(str(tiny_model), {"ends": path}, device="cpu", dtype="float32").decode([ids], 6, ["ends"])
        theirs = PeftDecoder(reference, {"ends": path}).decode([ids], 6, ["ends"])

    assert ours[0][1] == end
    assert ours == theirs


def measurement(min_s, cpu_s, *warnings):
    return Measurement(min_s, min_s, spread=0.0, cpu_s=cpu_s, runs=2, busy=None, warnings=warnings)


def test_speed_is_what_the_tokens_past_the_first_took():
    speed = decode_speed(measurement(1.0, 2.0), measurement(3.0, 6.0), tokens=64)

    assert speed == (32.0, 16.0, "")


def test_a_difference_that_noise_swallows_gives_no_speed_and_no_ratio():
    wall, cpu, doubts = decode_speed(measurement(3.0, 2.0), measurement(2.9, 4.0, "busy"), tokens=64)
    rows = [BenchRow("llmsys", "none", 1, wall), BenchRow("transformers generate", "none", 1, 40.0)]

    assert (wall, cpu) == (None, 32.0)
    assert doubts.startswith("decoding took no longer")
    assert doubts.endswith("busy")
    assert [row.ratio for row in with_ratios(rows)] == [None, None]


def test_parameters_are_those_of_the_model(tiny_model):
    model = load_reference(str(tiny_model), torch.float32).model
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)

    assert parameters(read_config(tiny_model)) == matrices


def test_ratios_are_ours_over_theirs_at_the_same_batch_and_kind():
    rows = [
        BenchRow("llmsys", "none", 1, 30.0),
        BenchRow("llmsys", "none", 8, 80.0),
        BenchRow("transformers generate", "none", 8, 40.0),
    ]

    assert [row.ratio for row in with_ratios(rows)] == [None, None, 2.0]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"batch": "1,x"}, "--batch"),
        ({"batch": "0"}, "--batch"),
        ({"peers": "vllm"}, "transformers, peft"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(given, named):
    with pytest.raises(UsageFault, match=named):
        bench_plan(**({"model": "tiny", "adapters": None, "batch": "1", "peers": "all"} | given))


def test_a_plan_takes_peers_by_name(taught):
    plan = bench_plan(model="tiny", adapters=taught["one"].parent, batch="2,4", peers="peft")

    assert (plan.batches, plan.peers, sorted(plan.adapters or {})) == ((2, 4), ("peft",), ["one", "two"])
