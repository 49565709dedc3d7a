"""Punica's closed loop: the workload is what is published, servers answer all of it, and figures add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.factors import group_widths
from llmsys.engine.loader import read_config
from llmsys.engine.lora import AdapterWeights
from llmsys.errors import UsageFault
from llmsys.serve_lora.bench_servers import EngineServer, PeftServer, Served
from llmsys.serve_lora.engine_bench import parameters
from llmsys.serve_lora.lora_split import measure_split
from llmsys.serve_lora.popularity_bench import PopularityBench, PopularityPlan, popularity_plan, step_limit_s
from llmsys.serve_lora.punica_workload import Ask, adapter_names, punica_asks
from llmsys.serve_lora.random_adapters import write_random_adapter
from llmsys.serve_lora.reference_model import load_reference
from llmsys.serve_lora.step_cost import StepRow


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    return write_random_adapter(tmp_path_factory.mktemp("random") / "a", read_config(tiny_model), rank=3)


def engine(tiny_model, paths, batch=4):
    return EngineServer(str(tiny_model), paths, batch=batch, dtype="float32")


@given(st.sampled_from(["distinct", "uniform", "identical", "geometric:1.5"]), st.integers(1, 200), st.integers(4, 300))
def test_every_request_fits_its_limit_and_writes_at_least_two_tokens(popularity, n, limit):
    asks = punica_asks(popularity, n, limit=limit, vocab=50, seed=n)

    assert len(asks) == n
    for ask in asks:
        assert 1 <= len(ask.prompt) <= limit - 2
        assert ask.output_tokens >= 2
        assert len(ask.prompt) + ask.output_tokens <= limit


def test_lengths_follow_the_published_distribution():
    """10,000 draws: a median of e^0 · 18 − 1 = 17 prompt tokens; a wrong scale or sigma is off by tens of sigmas."""
    lengths = torch.tensor([len(a.prompt) for a in punica_asks("distinct", 10_000, limit=2048, vocab=9, seed=1)])
    logs = torch.log((lengths.double() + 1.5) / 18)

    assert lengths.double().median().item() in (16, 17)
    assert logs.std().item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("popularity", "sizes"),
    [
        ("distinct", [1] * 20),
        ("identical", [20]),
        ("uniform", [4] * 5),
        ("geometric:1.5", [1, 1, 2, 3, 5, 7, 1]),
    ],
)
def test_adapters_are_as_popular_as_was_asked_for(popularity, sizes):
    asks = punica_asks(popularity, 20, limit=32, vocab=9, seed=3)

    shares = [sum(ask.adapter == name for ask in asks) for name in adapter_names(asks)]
    assert shares == sizes


def test_the_same_seed_draws_the_same_requests():
    assert punica_asks("uniform", 9, limit=64, vocab=99, seed=5) == punica_asks(
        "uniform", 9, limit=64, vocab=99, seed=5
    )


def test_every_way_of_serving_answers_every_request_and_says_what_ran(tiny_model, adapter):
    asks = punica_asks("uniform", 9, limit=40, vocab=250, seed=2)
    paths = dict.fromkeys(adapter_names(asks), adapter)
    server = engine(tiny_model, paths)

    mixed, alone, base = server.serve(asks), server.serve_by_adapter(asks), server.serve_base(asks)
    peft = PeftServer(load_reference(str(tiny_model), torch.float32), paths, batch=4).serve(asks)

    wanted = sum(ask.output_tokens for ask in asks)
    assert [served.tokens for served in (mixed, alone, base, peft)] == [wanted] * 4
    segments = [[len({row.adapter for row in step} - {""}) for step in served.steps] for served in (mixed, alone, base)]
    assert max(segments[0]) == len(paths)
    assert set(segments[1]) == {1}
    assert set(segments[2]) == {0}
    for served in (mixed, alone, base, peft):
        assert all(times == sorted(times) and times[0] > 0 for times in served.token_s)
        assert served.wall_s == max(times[-1] for times in served.token_s)


def test_decode_rows_of_distinct_adapters_are_segments_of_their_own(tiny_model, adapter):
    """The published harness took every row's adapter from the last request; a step of ours has one per request."""
    asks = [Ask((1, 2, at), 6, f"adapter-{at}") for at in range(4)]

    served = engine(tiny_model, dict.fromkeys(adapter_names(asks), adapter)).serve(asks)

    decoding = [step for step in served.steps if all(row.decode_tokens for row in step)]
    assert len(decoding) == 5
    assert all(len({row.adapter for row in step}) == 4 for step in decoding)


def test_waits_and_paces_are_taken_from_the_times_of_tokens():
    served = Served([[1.0, 2.0, 4.0], [3.0]], [])

    assert (served.wall_s, served.tokens) == (4.0, 4)
    assert served.first_s() == [1.0, 3.0]
    assert served.per_token_s() == [1.5]


def test_the_limit_of_a_step_reads_each_distinct_adapter_once(tiny_model):
    shape = read_config(tiny_model)
    per_adapter = 2 * shape.layers * sum(w * len(outs) + sum(outs) for w, outs in group_widths(shape).values())
    rows = [StepRow(at, "t", "ab"[at % 2], 2, decode_tokens=1) for at in range(6)]
    given_ = {"rank": 2, "item_bytes": 4}

    memory = step_limit_s(shape, rows, read_bytes_s=1.0, flop_s=1e30, **given_)
    compute = step_limit_s(shape, rows, read_bytes_s=1e30, flop_s=1.0, **given_)

    assert memory == 4 * (parameters(shape) + 2 * per_adapter)
    assert compute == 2 * 6 * (parameters(shape) + per_adapter)


def test_a_prompt_costs_the_head_nothing_in_the_limit(tiny_model):
    shape = read_config(tiny_model)
    prompt = [StepRow(0, "t", prefill_tokens=5)]

    limit_s = step_limit_s(shape, prompt, rank=2, item_bytes=4, read_bytes_s=1e30, flop_s=1.0)

    assert limit_s == 2 * 5 * (parameters(shape) - shape.vocab * shape.hidden)


def test_shrink_and_expand_are_parts_of_one_whole(tiny_model):
    shape = read_config(tiny_model)
    made = [AdapterWeights(shape, rank=2, dtype=torch.float32) for _ in range(3)]

    split = measure_split(shape, made, rows=5, dtype=torch.float32, runs=2)

    assert split.shrink_s > 0 <= split.expand_s
    assert split.whole_s == split.shrink_s + split.expand_s
    assert split.adapter_bytes == 3 * made[0].bytes


@pytest.mark.parametrize(("adapters", "rows"), [(0, 2), (3, 2)])
def test_a_split_without_adapters_or_with_more_than_rows_is_refused(tiny_model, adapters, rows):
    shape = read_config(tiny_model)
    made = [AdapterWeights(shape, rank=2, dtype=torch.float32)] * adapters

    with pytest.raises(ValueError, match=f"{adapters} adapters on {rows} rows"):
        measure_split(shape, made, rows=rows, dtype=torch.float32)


def test_a_bench_measures_every_server_and_says_how_far_from_the_limit(tiny_model):
    plan = PopularityPlan(
        ("distinct", "identical"), (), model=str(tiny_model), requests=6, limit=24, batch=3, rank=2, dtype="float32"
    )
    bench, heard = PopularityBench(plan), []

    rows = bench.rows(heard.append)

    assert rows == heard
    assert [(row.popularity, row.server, row.adapters) for row in rows] == [
        (popularity, server, adapters)
        for popularity, asked in (("distinct", 6), ("identical", 1))
        for server, adapters in (("llmsys", asked), ("llmsys by adapter", asked), ("llmsys base", 0))
    ]
    assert [row.ratio for row in rows if row.server == "llmsys"] == [1.0, 1.0]
    assert all(0 < row.limit_share < 1 for row in rows)
    assert rows[0].segments > rows[3].segments == 1.0
    assert set(bench.splits) == {"distinct", "identical"}
    remarks = bench.remarks(rows)
    assert "distinct: 3 adapters on 3 decode rows" in remarks
    assert bench.as_record(rows)["rows"][0]["server"] == "llmsys"


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"popularity": "skewed"}, "geometric:X"),
        ({"popularity": "distinct,"}, "geometric:X"),
        ({"batch": "1,8"}, "--batch"),
        ({"batch": "0"}, "--batch"),
        ({"peers": "vllm"}, "peft"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(given_, named):
    with pytest.raises(UsageFault, match=named):
        popularity_plan(**({"popularity": "distinct", "model": "tiny", "batch": "4", "peers": "all"} | given_))
