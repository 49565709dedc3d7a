"""llama.cpp as a peer: it answers every request with its own adapter, or it is named as missing."""

import sys

import pytest

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.errors import Unavailable
from llmsys.serve_lora.bench_llama import LlamaServer
from llmsys.serve_lora.popularity_bench import PopularityBench, PopularityPlan
from llmsys.serve_lora.punica_workload import Ask

QUESTIONS = ("What is a glacier?", "Name three rivers.", "Why is the sky blue?")


def test_llama_cpp_writes_what_our_engine_writes_with_each_adapter(shipped, tmp_path):
    """The same GGUF weights and adapters in two programs, greedy: most of the first tokens are the same."""
    pytest.importorskip("llama_cpp")
    names = [None, "json", "lower"]
    paths = {name: shipped / name for name in names if name}
    engine = Engine.load("smollm2", config=EngineConfig(dtype="float32"))
    for name, path in paths.items():
        engine.adapters.register(name, path)
    turns = [[{"role": "user", "content": question}] for question in QUESTIONS]
    asks = [Ask(tuple(engine.tokenizer.apply_chat(turn)), 8, name) for turn in turns for name in names]
    sampling = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    expected = [
        answer.token_ids
        for answer in engine.generate([Request(list(ask.prompt), sampling, adapter=ask.adapter) for ask in asks])
    ]
    server = LlamaServer("smollm2", paths, place=tmp_path, batch=4, limit=128)

    served = server.serve(asks)
    said = list(server.said)
    server.close()

    assert [len(times) for times in served.token_s] == [8] * len(asks)
    assert all(times == sorted(times) for times in served.token_s)
    same = sum(a == b for ours, theirs in zip(expected, said, strict=True) for a, b in zip(ours, theirs, strict=True))
    assert same >= 0.8 * 8 * len(asks)
    assert said[0] != said[1] != said[2]


def test_llama_cpp_takes_gguf_files_only(tiny_model, tmp_path):
    pytest.importorskip("llama_cpp")

    with pytest.raises(Unavailable, match=r"\.gguf"):
        LlamaServer(str(tiny_model), {}, place=tmp_path, batch=2, limit=32)


def test_a_peer_that_is_missing_is_named_and_the_others_are_measured(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    plan = PopularityPlan(
        ("identical",), ("llama.cpp",), model=str(tiny_model), requests=3, limit=16, batch=2, rank=2, dtype="float32"
    )
    bench = PopularityBench(plan)

    rows = bench.rows(lambda _: None)

    assert [row.server for row in rows] == ["llmsys", "llmsys by adapter", "llmsys base"]
    assert len(bench.skipped) == 1
    assert "llama-cpp-python" in bench.skipped[0]
