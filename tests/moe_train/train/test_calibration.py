"""Costs fitted to a run's events: exact on made-up ones, and the simulator with them comes to what the run came to."""

import numpy as np
import pytest

from llmsys.errors import LlmsysError
from llmsys.moe_train.sim import POLICIES, Tick, read_cost, simulate_run, write_cost
from llmsys.moe_train.train import ModelShape, RunConfig, Trainer, bench_calibrate, fit_cost

CONFIG = RunConfig(batch=8, slots=3, ckpt_every=4)


def made_up(fixed_s, sample_s, ckpt_s):
    """Twelve steps, six by one worker and six by two, with a change between them and a checkpoint every four."""
    at_s, events = 5.0, []
    for step in range(1, 13):
        workers = 1 if step <= 6 else 2
        if step == 7:
            change = {"epoch": 2, "total_s": 3.0, "transfer_s": 2.0, "bytes": 10**9}
            events.append({"event": "reconfigure", "t_s": at_s + 3.0} | change)
            at_s += 3.0
        at_s += fixed_s + 8 * sample_s * 1.25 / workers + (ckpt_s if (step - 1) % 4 == 0 and step > 1 else 0.0)
        events.append({"event": "step", "t_s": at_s, "step": step, "workers": workers, "balance": 1.25})
        if step % 4 == 0:
            events.append({"event": "checkpoint", "t_s": at_s, "step": step})
    return events


def test_the_costs_of_made_up_events_are_found_again():
    found = fit_cost(made_up(0.25, 0.125, 0.5), CONFIG)

    assert found.step_fixed_s == pytest.approx(0.25)
    assert found.sample_s == pytest.approx(0.125)
    assert found.reconfigure_s == pytest.approx(1.0)
    assert found.link_gbps == pytest.approx(4.0)
    assert found.restart_s == pytest.approx(5.0 + 0.25 + 1.25)
    assert 0.0 < found.ckpt_s < 1.0
    assert (found.batch, found.slots, found.ckpt_every) == (8, 3, 4)


def test_steps_that_were_not_repeated_give_no_costs():
    with pytest.raises(LlmsysError, match="0 steps that nothing fell into"):
        fit_cost(made_up(0.1, 0.1, 0.0)[:1], CONFIG)


def test_costs_are_read_as_they_were_written(tmp_path):
    cost = fit_cost(made_up(0.25, 0.125, 0.5), CONFIG)
    write_cost(tmp_path / "cost.json", cost)

    assert read_cost(tmp_path / "cost.json") == cost


def ticks_of(events, began_s):
    """Deaths and joins as the simulator takes them, seconds from `began_s`."""
    ticks = [Tick(0.0, tuple(map(int, events[0]["pids"])), ())]
    for event in events:
        if event["event"] == "fault":
            ticks.append(Tick(event["t_s"] - began_s, (), (event["worker"],)))
        if event["event"] == "join":
            ticks.append(Tick(event["t_s"] - began_s, (event["worker"],), ()))
    return ticks


@pytest.mark.slow
def test_the_simulator_with_fitted_costs_comes_to_the_samples_of_the_run(nursery):
    """The costs are those of the run itself, so that a slow machine is slow in both."""
    config = RunConfig(
        model=ModelShape(layers=2, d_model=64, d_ff=64, heads=2, experts=4),
        steps=90,
        seq=64,
        batch=12,
        workers=3,
        slots=4,
        heartbeat_s=60.0,
        faults="15:kill:1;30:add:1;50:kill:0;70:add:1",
    )
    events = list(Trainer(config).run(nursery))
    cost = fit_cost(events, config)
    began_s = next(event["t_s"] for event in events if event["event"] == "reconfigure")
    ended_s = [event["t_s"] for event in events if event["event"] == "step"][-1]
    policy = POLICIES["best"]("best", cost, np.ones((2, 4), np.int64))
    found = simulate_run(policy, ticks_of(events, began_s), ended_s - began_s)

    assert found.restarts == 0
    assert found.reconfigures == 4
    assert found.samples == pytest.approx(events[-1]["samples"], rel=0.15)


@pytest.mark.slow
def test_a_calibrating_run_tells_every_cost(nursery):
    cost, found = bench_calibrate(runs=1, seed=0, nursery=nursery)

    assert {row["what"]: row["measured"] for row in found.rows}["sample_s"] == cost.sample_s
    assert cost.step_fixed_s + cost.sample_s > 1e-4
    assert cost.reconfigure_s > 0.0
    assert cost.expert_mb == pytest.approx(3 * 2 * 128 * 192 * 4 / 1e6)
