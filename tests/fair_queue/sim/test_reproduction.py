"""The paper's evaluation, from the authors' measured A10G runs: figures recomputed, and runs simulated again.

The step model under test was fitted to VTC_overload, VTC_real, FCFS_real and rpm5; the others are predictions.
"""

import numpy as np
import pytest

from llmsys.fair_queue.sim import (
    HARDWARE,
    Machine,
    accumulated_gap,
    compare_run,
    read_run,
    service_difference,
    summary_of,
)

A10G = HARDWARE["a10g-llama2-7b"]
PEAK = Machine(reserve="peak")
PREDICTED = ["VTC_on_off_less", "LCF_real"]
FITTED = ["VTC_real", "FCFS_real", "VTC_overload", "LShare_rpm5_real"]
# (log, largest, mean, variance) of §2.5, recomputed from the authors' logs
PUBLISHED = [
    ("FCFS_real", 759.97, 433.53, 32112),
    ("LCF_real", 750.49, 323.82, 29089),
    ("VTC_real", 368.40, 251.66, 6549),
    ("LShare_rpm5_real", 143.86, 83.58, 1020),
]


def costs(measured):
    served = ~measured.refused
    work = measured.workload
    cost = (work.prompt + 2.0 * work.output)[served]
    return work.tenant[served], work.arrival[served], measured.first_s[served], measured.finish_s[served], cost


@pytest.mark.parametrize(("log", "largest", "mean", "variance"), PUBLISHED)
def test_service_differences_of_the_measured_runs_are_the_published_ones(log, largest, mean, variance, a10g_log):
    found = service_difference(*costs(read_run(a10g_log(log))))

    assert (round(found.largest, 2), round(found.mean, 2), round(found.variance)) == (largest, mean, variance)


def test_the_accumulated_gap_of_the_measured_overload_is_the_published_one(a10g_log):
    tenant, _, first, finish, cost = costs(read_run(a10g_log("VTC_overload")))

    assert round(accumulated_gap(tenant, first, finish, cost)) == 9050


@pytest.mark.parametrize("log", [*PREDICTED, *FITTED])
def test_the_simulator_comes_close_to_the_measured_run(log, a10g_log):
    errors = compare_run(read_run(a10g_log(log)), A10G, PEAK)

    assert abs(errors.makespan) <= 0.04
    assert abs(errors.ttft) <= 0.20


def test_requests_per_minute_refuses_exactly_whom_the_measured_run_refused(a10g_log):
    errors = compare_run(read_run(a10g_log("LShare_rpm5_real")), A10G, PEAK)

    assert (errors.refused, errors.refused_measured) == (919, 919)


def test_on_the_real_trace_the_policies_rank_as_in_the_paper(a10g_log):
    """FCFS > LCF > VTC, with or without an oracle. VTC and oracle are not ranked: their largest difference of 19 points
    moves by 40 % when memory changes by 5 %."""
    work = read_run(a10g_log("VTC_real")).workload
    specs = ("fcfs", "lcf", "vtc", "vtc:predict=oracle")
    rows = {spec: summary_of(work, spec, A10G, machine=PEAK) for spec in specs}
    throughput = np.array([row.tokens_per_s for row in rows.values()])

    assert rows["fcfs"].max_diff > rows["lcf"].max_diff
    assert rows["lcf"].max_diff > max(rows["vtc"].max_diff, rows["vtc:predict=oracle"].max_diff)
    assert {row.served for row in rows.values()} == {1500}
    assert throughput.max() / throughput.min() < 1.02
