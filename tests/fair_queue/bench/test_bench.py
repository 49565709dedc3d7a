"""The benchmarks on small inputs: what they count, and that both sides do the same work."""

import io

import pytest
from fair_logs import PLAIN, record

from llmsys.artifacts import encode
from llmsys.errors import UsageFault
from llmsys.fair_queue import order_lines
from llmsys.fair_queue.bench import bench_order, bench_real, bench_simulate, repeated
from llmsys.fair_queue.bench.naive_order import naive_order
from llmsys.fair_queue.sim import HARDWARE, Machine, workload_of


def small_trace():
    return workload_of([record(f"r{n}", "abc"[n % 3], n * 0.4, n % 7, n % 9) for n in range(50)])


def test_the_naive_script_writes_the_same_bytes_as_order(tmp_path):
    path = tmp_path / "lines.jsonl"
    rows = [(f"t{n * n % 7}", n % 13, n % 5) for n in range(200)]
    path.write_bytes(
        b"".join(encode({"tenant": t, "prompt_tokens": p, "output_tokens": q, "n": t}) for t, p, q in rows)
    )
    out = io.BytesIO()
    naive_order(str(path), 20, out)

    assert out.getvalue() == b"".join(line for lines in order_lines(path, window=20) for line in lines)


def test_bench_order_times_both_on_the_same_lines():
    turns = []
    found = bench_order(lines=300, tenants=7, rounds=1, window=50, on_done=turns.append)

    assert turns == [1, 1]
    assert [row.name for row in found.rows] == ["llmsys", "naive script", "copy (limit)"]
    assert found.ratio == pytest.approx(found.rows[0].times_naive)
    assert all(row.cpu_s > 0 for row in found.rows)


def test_a_repeated_workload_goes_on_where_it_ended():
    work = small_trace()
    twice = repeated(work, 2)

    assert len(set(twice.ids)) == 100
    assert twice.arrival[50] == work.arrival[-1] + 1.0
    assert (twice.prompt[50:] == work.prompt).all()


def test_bench_simulate_compares_the_two_loops_on_a_cut():
    rows = bench_simulate(small_trace(), ["vtc", "fcfs"], PLAIN, Machine(memory=40), times=3, cut=20)

    assert [(row.policy, row.requests, row.stepwise_cut) for row in rows] == [("vtc", 150, 20), ("fcfs", 150, 20)]
    assert all(row.times_stepwise == row.requests_per_s / row.stepwise_per_s for row in rows)


def test_bench_real_judges_the_errors_by_their_targets(a10g_log):
    good = bench_real([a10g_log("VTC_real"), a10g_log("LCF_real")], HARDWARE["a10g-llama2-7b"], Machine(reserve="peak"))
    bad = bench_real([a10g_log("VTC_real")], PLAIN, Machine(reserve="peak"))

    assert good.within_targets
    assert good.makespan_most == max(abs(one.makespan) for one in good.runs)
    assert not bad.within_targets
    with pytest.raises(UsageFault, match="no logs of measured runs"):
        bench_real([], PLAIN, Machine())
