"""Step models and measured logs: what is read, what is written, what is refused; and the fit."""

import dataclasses

import pytest
from fair_logs import PLAIN, record

from llmsys.errors import BadInput, UsageFault
from llmsys.fair_queue.sim import (
    HARDWARE,
    Hardware,
    Machine,
    compare_run,
    fit_hardware,
    load_hardware,
    read_run,
    run,
    summary_of,
    workload_of,
)
from llmsys.fair_queue.sim.measured import MeasuredRun


def test_a_step_model_survives_its_file(tmp_path):
    model = Hardware(0.022, 0.000216, 1 / 3, 0.0, 2e-6, 0.036, 0.06)
    path = tmp_path / "hardware.toml"
    path.write_text(model.to_toml())

    assert model == load_hardware(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "prefill = [1.0]\ndecode = [1.0, 2.0, 3.0]",
        "prefill = [1.0, 2.0]",
        "prefill = [1.0, -2.0]\ndecode = [1.0, 2.0, 3.0]",
        "prefill = [0.0, 1.0]\ndecode = [0.0, 2.0, 3.0]",
        'prefill = [1.0, "x"]\ndecode = [1.0, 2.0, 3.0]',
        "prefill = 3\ndecode = [1.0, 2.0, 3.0]",
        "prefill = [nan, 1.0]\ndecode = [1.0, 2.0, 3.0]",
        "prefill = [1.0, 2.0]\ndecode = [1.0, 2.0, 3.0]\nhost = [1.0]",
        "prefill = [1.0, 2.0]\ndecode = [1.0, 2.0, 3.0]\nhost = [1.0, -1.0]",
        "not toml",
    ],
)
def test_a_file_that_is_no_step_model_says_what_one_holds(text, tmp_path):
    path = tmp_path / "hardware.toml"
    path.write_text(text)

    with pytest.raises(BadInput, match=r"expected prefill = \[p0, p1\] and decode = \[d0, d1, d2\], in seconds"):
        load_hardware(str(path))


def test_a_step_model_without_a_host_has_none(tmp_path):
    path = tmp_path / "hardware.toml"
    path.write_text("prefill = [1.0, 2.0]\ndecode = [1.0, 2.0, 3.0]\n")

    assert load_hardware(str(path)) == Hardware(1.0, 2.0, 1.0, 2.0, 3.0)


def test_with_few_requests_the_host_sets_the_pace():
    model = Hardware(p0=1.0, p1=1.0, d0=1.0, d1=1.0, d2=1.0, floor=5.0)

    assert [model.decode_s(1, held) for held in (1, 3, 4)] == [5.0, 5.0, 6.0]


def test_an_unknown_machine_names_the_known_ones():
    with pytest.raises(UsageFault, match=r"--hardware 'h100' is no file and none of a10g-llama2-7b"):
        load_hardware("h100")


def test_a_log_of_an_unknown_scheduler_can_be_given_its_policy(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"run":"New/suite","total_time_s":1,"requests":1}\n'
        '{"id":"x","tenant":"a","arrival_s":0.5,"prompt_tokens":3,"output_tokens":2,"ttft_s":0.25,"latency_s":1.0}\n'
        '{"id":"y","tenant":"a","arrival_s":0.5,"prompt_tokens":3,"output_tokens":2,"ttft_s":-1,"latency_s":-1}\n'
    )

    with pytest.raises(BadInput, match="run 'New/suite'; expected a scheduler of FCFS"):
        read_run(path)
    assert read_run(path, policy="drr").policy == "drr"
    assert read_run(path, policy="drr").first_s[0] == 0.75
    assert read_run(path, policy="drr").refused.tolist() == [False, True]


def test_a_log_without_its_first_line_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("")

    with pytest.raises(BadInput, match="no first line with a run"):
        read_run(path)


def made_run(name, hardware, machine, *, gap_s, prompt):
    trace = [record(f"{name}{n}", "ab"[n % 2], n * gap_s, prompt, 40 + n % 60) for n in range(120)]
    result = run(trace, "vtc", hardware, machine=machine)
    delay = hardware.delay
    return MeasuredRun(name, "vtc", result.workload, result.first_s + delay, result.finish_s + delay)


def test_a_fit_to_runs_of_another_machine_predicts_its_next_run():
    other = Hardware(p0=0.03, p1=0.0004, d0=0.03, d1=0.0002, d2=4e-6, floor=0.034, delay=0.1)
    machine = Machine(memory=4000)
    loads = [("busy", 0.2, 64), ("calm", 2.0, 400), ("mixed", 0.6, 200), ("lone", 9.0, 16), ("long", 1.0, 800)]
    runs = [made_run(name, other, machine, gap_s=gap_s, prompt=prompt) for name, gap_s, prompt in loads]
    unseen = made_run("unseen", other, machine, gap_s=0.35, prompt=128)
    before = compare_run(unseen, HARDWARE["a10g-llama2-7b"], machine)
    after = compare_run(unseen, fit_hardware(runs, machine), machine)

    assert abs(before.latency) > 0.1
    assert abs(after.makespan) < 0.01
    assert abs(after.latency) < 0.02


def test_a_fit_needs_runs():
    with pytest.raises(ValueError, match="no runs to fit to"):
        fit_hardware([], Machine())


def test_a_summary_counts_what_was_served_and_refused():
    trace = [record("x", "a", 0.0, 10, 2), record("y", "b", 0.0, 10, 2), record("large", "b", 1.0, 900, 200)]
    row = summary_of(workload_of(trace), "vtc", PLAIN, machine=Machine(memory=1000), audited=True)

    assert (row.requests, row.served, row.refused) == (3, 2, 1)
    assert row.makespan_s == 2.0
    assert row.tokens_per_s == 12.0
    assert row.ttft_mean_s == 1.0
    assert row.holds


def test_a_summary_without_an_audit_leaves_its_verdict_open():
    row = summary_of(workload_of([record("x")]), "vtc", PLAIN, machine=Machine())

    assert dataclasses.asdict(row)["holds"] is None


def test_the_known_machine_is_the_papers():
    assert HARDWARE["a10g-llama2-7b"].decode_s(1, 0) == 0.036
    assert HARDWARE["a10g-llama2-7b"].decode_s(40, 9000) == pytest.approx(0.0475, abs=0.001)
