"""What holds on average, over seeds that are fixed: shares, isolation, and the cost of many tenants."""

import time

import numpy as np
import pytest
from fair_logs import record

from llmsys.fair_queue.audit import check, jain_index
from llmsys.fair_queue.policy import Request, create
from llmsys.fair_queue.sim import HARDWARE, Machine, Workload, run, workload_of
from llmsys.fair_queue.traces import generate_clients, parse_client

A10G = HARDWARE["a10g-llama2-7b"]
SEEDS = range(20)
# one-sided Student quantile at 0.001 for 19 degrees of freedom
T_19 = 3.579


def served(work, result, until_s):
    """Cost units of every tenant's requests that ended by then."""
    done = result.finish_s <= until_s
    cost = (work.prompt + 2.0 * work.output) * done
    return np.bincount(work.tenant, cost, len(work.tenants))


def trace_of(*clients, seed, duration_s=120.0):
    return workload_of(generate_clients([parse_client(text) for text in clients], duration_s=duration_s, seed=seed))


def upper(values):
    """The largest mean that these values allow, at a false-alarm rate of 0.001."""
    return np.mean(values) + T_19 * np.std(values, ddof=1) / np.sqrt(len(values))


def lower(values):
    return -upper(-np.asarray(values))


def test_backlogged_tenants_get_equal_shares_and_first_come_first_served_does_not():
    """Jain's index over 20 seeds, one-sided at 0.001."""
    clients = ("rate=6,in=64-512,out=64-512", "rate=3,in=64-512,out=64-512", "rate=2,in=64-512,out=64-512")
    index = {spec: [] for spec in ("vtc", "drr", "fcfs")}
    for seed in SEEDS:
        work = trace_of(*clients, seed=seed, duration_s=60.0)
        for spec, found in index.items():
            found.append(jain_index(served(work, run(work, spec, A10G), 60.0)))

    assert lower(index["vtc"]) > 0.97
    assert lower(index["drr"]) > 0.93
    assert upper(index["fcfs"]) < 0.9


def test_weights_of_one_and_three_give_one_to_three():
    """The ratio of shares over 20 seeds, within 10 % one-sided at 0.001."""
    ratios = []
    for seed in SEEDS:
        work = trace_of("rate=5,in=200,out=200", "rate=5,in=200,out=200", seed=seed)
        one, three = served(work, run(work, "vtc", A10G, weights={work.tenants[1]: 3.0}), 120.0)
        ratios.append(three / one)

    assert lower(ratios) > 2.7
    assert upper(ratios) < 3.3


def test_a_tenant_below_its_share_is_not_delayed_by_those_above_theirs():
    """Theorem 4.13: a client at half its share beside three at three times theirs, 20 seeds.

    On average its first tokens come at most two admission periods and two of the largest prefills later than alone;
    under FCFS they come later than that, one-sided at 0.001.
    """
    light, heavy = "rate=0.18,in=256,out=256,start=20", "rate=1.1,in=256,out=256,process=uniform"
    machine = Machine()
    slack_s = 2 * (machine.admit_every * A10G.decode_s(20, 9000) + A10G.prefill_s(machine.max_prefill))
    delays, fcfs = [], []
    for seed in SEEDS:
        alone = trace_of(light, seed=seed)
        work = trace_of(light, heavy, heavy, heavy, seed=seed)
        mine = work.tenant == work.tenants.index("client-0")
        waits = {spec: (run(work, spec, A10G).first_s - work.arrival)[mine].mean() for spec in ("vtc", "fcfs")}
        before = run(alone, "vtc", A10G).ttft_s.mean()
        delays.append(waits["vtc"] - before)
        fcfs.append(waits["fcfs"] - before)

    assert np.mean(delays) < slack_s
    assert lower(fcfs) > slack_s


def cpu_per_admission(tenants, count=100_000):
    """CPU seconds of the policy per request that arrives, is admitted and ends, with this many tenants waiting."""
    policy = create("vtc")
    draw = np.random.default_rng(5)
    owners, prompts = draw.integers(0, tenants, count).tolist(), draw.integers(1, 500, count).tolist()
    rows = [
        Request(f"r{n}", f"t{owner}", prompt, 8) for n, (owner, prompt) in enumerate(zip(owners, prompts, strict=True))
    ]
    for request in rows:
        policy.arrive(request, 0.0)
    began = time.process_time()
    for _ in rows:
        room = iter((True,))
        (one,) = policy.admit(0.0, lambda _, room=room: next(room, False))
        policy.tokens(one.id, 8, 0.0)
        policy.finish(one.id, 0.0)
    return (time.process_time() - began) / count


@pytest.mark.slow
def test_a_million_requests_of_a_hundred_thousand_tenants_take_little_memory():
    import tracemalloc

    draw = np.random.default_rng(1)
    count = 1_000_000
    work = Workload(
        ids=[str(number) for number in range(count)],
        tenants=[f"t{number}" for number in range(100_000)],
        tenant=draw.integers(0, 100_000, count, dtype=np.int32),
        arrival=np.sort(draw.random(count) * 36_000.0),
        prompt=draw.integers(1, 300, count),
        output=draw.integers(0, 100, count),
        records=[],
    )
    run(workload_of([record("warm")]), "vtc", A10G)
    tracemalloc.start()
    result = run(work, "vtc", A10G)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert not result.refused.any()
    assert (~np.isnan(result.finish_s)).all()
    assert most < 500e6


@pytest.mark.slow
def test_an_admission_among_a_hundred_thousand_tenants_costs_little_more_than_among_ten():
    """The work per admission is a heap's: its depth grows by log2(100 000) / log2(10), most of the time is not in it.

    CPU time, least of three: 4 in place of the 2 that a machine to itself shows, because caches are shared here.
    """
    few, many = (min(cpu_per_admission(tenants) for _ in range(3)) for tenants in (10, 100_000))

    assert many < 4 * few


def test_the_heap_looks_at_few_tenants_however_many_wait():
    """Comparisons per admission, counted: at most twice the depth of the heap on average."""
    counted = 0

    class Counted(float):
        def __lt__(self, other):
            nonlocal counted
            counted += 1
            return float(self) < float(other)

    policy = create("vtc")
    tenants = 5000
    for number in range(2 * tenants):
        policy.arrive(Request(f"r{number}", f"t{number % tenants}", number % 97 + 1, 1), 0.0)
    for tenant in policy._tenants.values():
        tenant.counter = Counted(tenant.counter)
    policy._heap.rebuild(list(policy._tenants.values()))
    counted = 0
    for _ in range(tenants):
        room = iter((True,))
        policy.admit(0.0, lambda _, room=room: next(room, False))

    assert counted / tenants < 4 * np.log2(tenants)


def test_an_unfair_log_is_unfair_to_the_index_too():
    events = []
    trace = [record(f"a{n}", "a", 0.0, 50, 50) for n in range(30)] + [record("b", "b", 1.0, 50, 50)]
    run(trace, "fcfs", A10G, machine=Machine(memory=300), on_event=events.append)

    assert check(events).jain < 0.9
