"""Suites draw for draw, clients of one's own, and traces made from traces."""

import dataclasses
import itertools

import msgspec
import pytest

from llmsys.artifacts import TraceRecord
from llmsys.errors import BadInput, UsageFault
from llmsys.fair_queue.traces import (
    SUITES,
    Client,
    assign_tenants,
    generate_clients,
    generate_suite,
    mix,
    parse_client,
    read_prompts,
    read_published,
    requests_from_trace,
    scale,
    summarize,
)

# the first arrivals of the artifact's own A10G logs, seed 42: (suite, requests, first rows)
MEASURED = [
    (
        "overload",
        1620,
        [(0.650238, "client-1", 256, 256), (0.91636, "client-0", 256, 256), (0.983571, "client-1", 256, 256)],
    ),
    ("on_off_less", 1350, [(0.975357, "client-1", 256, 256), (1.475357, "client-1", 256, 256)]),
    (
        "poisson_short_long_2",
        5700,
        [(0.036768, "client-0", 512, 32), (0.082853, "client-1", 32, 512), (0.170377, "client-0", 512, 32)],
    ),
]


def record(name, tenant="a", at_s=0.0, prompt=1, output=1, **more):
    return TraceRecord(name, tenant, at_s, prompt, output, **more)


@pytest.mark.parametrize(("suite", "count", "rows"), MEASURED)
def test_a_suite_repeats_the_arrivals_that_its_authors_measured(suite, count, rows):
    records = generate_suite(suite)
    start = [(round(r.arrival_s, 6), r.tenant, r.prompt_tokens, r.output_tokens) for r in records[: len(rows)]]

    assert count == len(records)
    assert rows == start


@pytest.mark.parametrize("suite", ["overload", "on_off_less"])
def test_a_suite_is_the_whole_measured_run(suite, a10g_log):
    measured = list(assign_tenants(read_published("vtc-log", a10g_log(f"VTC_{suite}"))))
    rounded = [msgspec.structs.replace(r, arrival_s=round(r.arrival_s, 6)) for r in generate_suite(suite)]

    assert measured == rounded


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_keeps_its_rates_its_clients_and_the_order_of_time(name):
    suite, records = SUITES[name], generate_suite(name)
    arrivals = [r.arrival_s for r in records]

    assert arrivals == sorted(arrivals)
    assert {r.tenant for r in records} == {f"client-{index}" for index in range(len(suite.rates))}
    assert arrivals[-1] <= suite.duration_s * 1.1 + 5
    if suite.kind == "uniform" and suite.on_off_s is None:
        assert len(records) == sum(int(rate * suite.duration_s) for rate in suite.rates)


def test_an_on_off_client_is_silent_in_odd_minutes():
    off = [r for r in generate_suite("on_off_less") if r.tenant == "client-0" and int(r.arrival_s // 60) % 2]

    assert off == []


def test_the_increasing_client_speeds_up():
    times = [r.arrival_s for r in generate_suite("increase") if r.tenant == "client-1"]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]

    assert gaps == sorted(gaps, reverse=True)


def test_another_seed_is_another_trace_and_the_same_seed_the_same():
    assert generate_suite("overload", seed=1) == generate_suite("overload", seed=1)
    assert generate_suite("overload", seed=1) != generate_suite("overload", seed=2)


def test_an_unknown_suite_names_the_known_ones():
    with pytest.raises(UsageFault, match=r"no suite is named 'real'; known: overload, .*; real is a recorded trace"):
        generate_suite("real")


def test_a_client_is_read_from_its_text():
    client = parse_client("rate=1.5,in=256,out=16-512,process=gamma:cv=2,start=30")

    assert client == Client(1.5, (256, 256), (16, 512), cv=2.0, start_s=30.0)
    assert parse_client("rate=1,process=onoff:60") == Client(1.0, cv=0.0, on_off_s=60.0)


@pytest.mark.parametrize(
    "text",
    [
        "in=5",
        "rate=0",
        "rate=x",
        "rate=1,in=9-3",
        "rate=1,in=x",
        "rate=1,process=magic",
        "rate=1,size=3",
        "rate=1,start=-1",
    ],
)
def test_a_client_that_makes_no_sense_is_named(text):
    with pytest.raises(UsageFault, match=f"--client '{text}'"):
        parse_client(text)


def test_clients_have_their_rates_and_do_not_disturb_each_other():
    even, noisy = Client(2.0, cv=0.0), Client(3.0, inputs=(1, 9))
    alone = generate_clients([even], duration_s=1000.0)
    both = generate_clients([even, noisy], duration_s=1000.0)
    theirs = [r for r in both if r.tenant == "client-1"]

    assert [r.arrival_s for r in alone] == [r.arrival_s for r in both if r.tenant == "client-0"]
    assert len(alone) == 1999
    assert len(theirs) == pytest.approx(3000, abs=275)  # five standard deviations
    assert {r.prompt_tokens for r in theirs} == set(range(1, 10))


def test_mixing_merges_by_arrival_and_tells_ids_apart():
    first = [record("x", at_s=1.0), record("y", at_s=3.0)]
    second = [record("x", "b", 2.0), record("z", "b", 3.0)]

    assert [r.id for r in mix([first, second])] == ["x", "x@2", "y", "z"]


def test_scaling_speeds_up_time_and_nothing_else():
    (fast,) = scale([record("x", at_s=10.0, prompt=7)], rate=4.0)

    assert fast == record("x", at_s=2.5, prompt=7)


def test_a_summary_counts_tokens_time_tenants_and_shared_blocks():
    summary = summarize([record("x", at_s=1.0, prompt=5, prefix=(1, 2)), record("y", "b", 4.0, 3, 2, prefix=(1, 9))])
    totals = dataclasses.asdict(summary)

    assert (totals["requests"], totals["span_s"], totals["shared_prefix_blocks"]) == (2, 3.0, 1)
    assert totals["tenants"]["b"] == {"requests": 1, "prompt_tokens": 3, "output_tokens": 2}


def test_every_prompt_goes_to_every_model_and_tenant_and_time_stay():
    trace = [record(f"r{n}", f"t{n % 2}", float(n), output=50 * n) for n in range(6)]
    lines = list(requests_from_trace(trace, ["how", "why"], ["base", "ann"], max_tokens=120))

    assert [(line.body.messages[0].content, line.body.model) for line in lines[:4]] == [
        ("how", "base"),
        ("how", "ann"),
        ("why", "base"),
        ("why", "ann"),
    ]
    assert [line.body.max_tokens for line in lines] == [1, 50, 100, 120, 120, 120]
    assert [(line.tenant, line.arrival_s) for line in lines[:2]] == [("t0", 0.0), ("t1", 1.0)]


def test_requests_need_prompts_and_models():
    with pytest.raises(ValueError, match="0 prompts and 1 models"):
        list(requests_from_trace([record("x")], [], ["base"]))


def test_prompts_are_read_from_whatever_field_holds_them(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"question":"q"}\n{"prompt":"p"}\n\n{"text":"t"}\n{"turns":["first","second"]}\n')

    assert list(read_prompts(path)) == ["q", "p", "t", "first"]


def test_a_line_without_a_prompt_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"answer":"q"}\n')
    with pytest.raises(
        BadInput, match=r"p.jsonl:1: no prompt; expected a text in one of question, prompt, text, or turns"
    ):
        list(read_prompts(path))
