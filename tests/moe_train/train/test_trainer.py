"""The trajectory oracle: whatever dies, hangs, joins or leaves, losses and weights are those of the undisturbed run."""

import os
import signal

import msgspec
import numpy as np
import pytest

from llmsys.errors import LlmsysError, UsageFault
from llmsys.moe_train.loads import read_loads
from llmsys.moe_train.train import SITES, ModelShape, RunConfig, Trainer, newest_checkpoint

STEPS = 10
TOLERANCE = 1e-9
SMALL = ModelShape(layers=2, d_model=16, d_ff=16, heads=2, experts=4)


def settings(**changes):
    chosen = {"steps": STEPS, "seq": 16, "batch": 6, "workers": 3, "slots": 3, "heartbeat_s": 30.0, "audit_every": 4}
    return RunConfig(model=SMALL, dtype="float64", **(chosen | changes))


def losses(events):
    """The loss of every step, the last where a step was taken again after a fallback."""
    return [loss for _, loss in sorted({event["step"]: event["loss"] for event in named(events, "step")}.items())]


def named(events, name):
    return [event for event in events if event["event"] == name]


def steps(events):
    return [event["step"] for event in named(events, "step")]


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    """Losses and final checkpoint of one worker that holds everything."""
    out = tmp_path_factory.mktemp("undisturbed")
    events = list(Trainer(settings(workers=1, slots=4, min_replicas=1, out=str(out))).run(nursery))
    return losses(events), newest_checkpoint(out)[0]


def same_trajectory(events, undisturbed):
    assert steps(events) == list(range(1, STEPS + 1))
    assert np.abs(np.subtract(losses(events), undisturbed[0])).max() < TOLERANCE
    end = events[-1]
    start = events[0]["pids"] | {str(event["worker"]): event["pid"] for event in named(events, "join")}
    assert end["event"] == "end"
    assert end["survivor_pids"].items() <= start.items()
    return end


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_takes_the_same_steps(nursery, undisturbed, tmp_path, workers):
    events = list(Trainer(settings(workers=workers, out=str(tmp_path))).run(nursery))
    same_trajectory(events, undisturbed)
    found, expected = newest_checkpoint(tmp_path)[0], undisturbed[1]

    assert found.note.step == STEPS
    for mixture in range(2):
        for expert in range(4):
            difference = found.expert(mixture, expert) - expected.expert(mixture, expert)
            assert difference.abs().max() < TOLERANCE
    for name in ("embedding.weight", "blocks.1.attention.o.weight.exp_avg", "blocks.0.mixture.router.weight"):
        assert (found.tensor(name) - expected.tensor(name)).abs().max() < TOLERANCE


QUICK = ("vote", "apply", "transfer")


@pytest.mark.parametrize("site", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in SITES])
def test_a_kill_at_any_site_changes_no_loss(nursery, undisturbed, tmp_path, site):
    faults = f"4:kill:0;4@{site}:kill:1" if site in ("plan", "transfer") else f"4@{site}:kill:1"
    events = list(
        Trainer(settings(workers=4, min_replicas=3, faults=faults, out=str(tmp_path), ckpt_every=4)).run(nursery)
    )
    end = same_trajectory(events, undisturbed)

    assert {event["site"] for event in named(events, "fault")} >= {site}
    assert [event["how"] for event in named(events, "detect")] == ["exit"] * len(named(events, "fault"))
    assert "1" not in end["survivor_pids"]
    assert len(end["survivor_pids"]) == 4 - len(named(events, "fault"))
    assert end["faults_missed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_a_hang_at_any_site_is_fenced_and_changes_no_loss(nursery, undisturbed, tmp_path, site):
    faults = f"4:kill:0;4@{site}:stop:1" if site in ("plan", "transfer") else f"4@{site}:stop:1"
    config = settings(
        workers=4, slots=4, min_replicas=3, faults=faults, heartbeat_s=2.0, out=str(tmp_path), ckpt_every=4
    )
    events = list(Trainer(config).run(nursery))
    end = same_trajectory(events, undisturbed)

    assert {event["worker"]: event["how"] for event in named(events, "detect")}[1] == "silence"
    assert "1" not in end["survivor_pids"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "left"),
    [
        ("3:kill:1;5:kill:2;7:kill:3", {"0"}),
        ("3:kill:0+2", {"1", "3"}),
        ("2:add:2", {"0", "1", "2", "3", "4", "5"}),
        ("2:add:1;4@backward:kill:0;4@plan:kill:1;5:slow:2:1.5", {"2", "3", "4"}),
        ("4:notice:2", {"0", "1", "3"}),
    ],
)
def test_deaths_joins_and_notices_change_no_loss(nursery, undisturbed, faults, left):
    events = list(Trainer(settings(workers=4, slots=4, min_replicas=3, faults=faults)).run(nursery))
    end = same_trajectory(events, undisturbed)

    assert left - {"4", "5"} <= set(end["survivor_pids"]) <= left


def test_dropout_a_balance_bias_and_sgd_take_the_same_steps_whoever_dies(nursery):
    shape = msgspec.structs.replace(SMALL, dropout=0.2, balance="bias")
    calm, stormy = (
        list(Trainer(msgspec.structs.replace(settings(**changes), model=shape, optimizer="sgd", lr=0.5)).run(nursery))
        for changes in (
            {"workers": 1, "slots": 4, "min_replicas": 1},
            {"workers": 4, "min_replicas": 3, "faults": "3:kill:1;5@apply:kill:2"},
        )
    )

    assert np.abs(np.subtract(losses(calm), losses(stormy))).max() < TOLERANCE
    assert steps(stormy) == list(range(1, STEPS + 1))


def test_expert_states_that_travel_coded_arrive_as_they_were(nursery, undisturbed):
    config = settings(workers=4, slots=2, placement="compact", faults="4:notice:0", transfer_codec="lossless")
    events = list(Trainer(config).run(nursery))
    same_trajectory(events, undisturbed)

    assert sum(event["moves"] for event in named(events, "reconfigure")) > 0


@pytest.mark.slow
def test_gradients_that_travel_coded_train_all_workers_alike(nursery, undisturbed):
    """The audit after four and eight steps finds equal copies; the losses are near the exact ones, and not equal."""
    events = list(Trainer(settings(workers=3, grad_codec="tq:8")).run(nursery))
    difference = np.abs(np.subtract(losses(events), undisturbed[0])).max()

    assert 1e-6 < difference < 0.5


@pytest.mark.parametrize("name", ["tq:99", "tq:x", "zip", "lossless"])
def test_an_unknown_gradient_codec_is_refused(name):
    with pytest.raises(UsageFault, match="expected none, tq or tq:BITS"):
        Trainer(settings(grad_codec=name))


def test_a_worker_that_was_given_notice_hands_over_what_only_it_holds(nursery, undisturbed):
    config = settings(workers=4, slots=2, placement="compact", faults="4:notice:0")
    events = list(Trainer(config).run(nursery))
    same_trajectory(events, undisturbed)

    assert named(events, "fallback") == []
    assert named(events, "detect") == []
    assert named(events, "reconfigure")[-1]["moves"] > 0


def test_a_spare_takes_the_place_of_the_dead_in_the_same_change(nursery, undisturbed):
    events = list(Trainer(settings(workers=3, slots=4, spares=1, faults="4:kill:1")).run(nursery))
    end = same_trajectory(events, undisturbed)
    changed = next(event for event in named(events, "reconfigure") if event["epoch"] > 1)

    assert [event["worker"] for event in named(events, "join")] == [3]
    assert changed["workers"] == 3
    assert set(end["survivor_pids"]) == {"0", "2", "3"}


def test_the_loads_of_a_run_are_what_the_planner_reads(nursery, tmp_path):
    out = tmp_path / "loads.jsonl"
    list(Trainer(settings(steps=3, loads_out=str(out))).run(nursery))
    table = read_loads(out)

    assert table.loads.sum(axis=1).tolist() == pytest.approx([6 * 16 * 1000] * 2, abs=4)
    assert table.state_bytes == (3 * 2 * 16 * 16 * 8,) * 2


def test_a_kill_from_outside_is_like_any_other(nursery, undisturbed):
    run = Trainer(settings(workers=3, slots=4)).run(nursery)
    events = []
    for event in run:
        events.append(event)
        if event["event"] == "step" and event["step"] == 3:
            os.kill(events[0]["pids"]["1"], signal.SIGKILL)
    end = same_trajectory(events, undisturbed)

    assert set(end["survivor_pids"]) == {"0", "2"}
    assert [event["worker"] for event in named(events, "detect")] == [1]


def test_a_lost_expert_sends_the_run_back_to_its_checkpoint_and_no_further(nursery, undisturbed, tmp_path):
    config = settings(workers=4, slots=2, placement="compact", faults="7:kill:0", ckpt_every=3, out=str(tmp_path))
    events = list(Trainer(config).run(nursery))
    (fallback,) = named(events, "fallback")

    assert fallback["to_step"] in (3, 6)
    assert fallback["from_step"] == 6
    assert [list(lost) for lost in fallback["lost_experts"]] == [[0, 0], [1, 0]]
    assert steps(events)[-STEPS + fallback["to_step"] :] == list(range(fallback["to_step"] + 1, STEPS + 1))
    assert np.abs(np.subtract(losses(events), undisturbed[0])).max() < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("faults", ["5:kill:0;5@transfer:kill:2", "1@transfer:kill:0", "1@plan:kill:3"])
def test_a_death_while_all_go_back_sends_all_back_again(nursery, undisturbed, faults):
    events = list(Trainer(settings(workers=4, slots=2, placement="compact", faults=faults)).run(nursery))

    assert steps(events)[-STEPS:] == list(range(1, STEPS + 1))
    assert np.abs(np.subtract(losses(events), undisturbed[0])).max() < TOLERANCE


def test_without_a_checkpoint_the_run_goes_back_to_its_beginning(nursery, undisturbed):
    events = list(Trainer(settings(workers=4, slots=2, placement="compact", faults="3:kill:0")).run(nursery))

    assert [event["to_step"] for event in named(events, "fallback")] == [0]
    assert steps(events) == [1, 2, *range(1, STEPS + 1)]
    assert np.abs(np.subtract(losses(events), undisturbed[0])).max() < TOLERANCE


def test_a_run_resumes_with_other_workers_where_it_stopped(nursery, undisturbed, tmp_path):
    first = list(Trainer(settings(steps=4, out=str(tmp_path))).run(nursery))
    config = settings(workers=2, slots=4, min_replicas=1, resume=str(tmp_path), out=str(tmp_path))
    second = list(Trainer(config).run(nursery))

    assert steps(second) == list(range(5, STEPS + 1))
    assert np.abs(np.subtract(losses(first) + losses(second), undisturbed[0])).max() < TOLERANCE


def test_another_trajectory_is_not_resumed(nursery, tmp_path):
    list(Trainer(settings(steps=1, out=str(tmp_path))).run(nursery))

    with pytest.raises(UsageFault, match=r"seed is 1, and was 0 in .*step-000000001"):
        Trainer(settings(seed=1, resume=str(tmp_path)))


def test_too_few_slots_among_the_living_end_the_run_with_what_to_do(nursery):
    with pytest.raises(LlmsysError, match=r"1 nodes with 3 slots each cannot hold 4 experts; .*there is no checkpoint"):
        list(Trainer(settings(faults="3:kill:0+1")).run(nursery))


@pytest.mark.slow
def test_too_few_slots_among_the_living_wait_for_those_who_come(nursery, undisturbed):
    events = list(Trainer(settings(faults="3:kill:0+1;t=4.0:add:2", join_wait_s=3600.0)).run(nursery))

    assert steps(events)[-STEPS:] == list(range(1, STEPS + 1))
    assert set(events[-1]["survivor_pids"]) == {"2", "3", "4"}
    assert np.abs(np.subtract(losses(events), undisturbed[0])).max() < TOLERANCE


def test_nobody_left_ends_the_run(nursery):
    with pytest.raises(LlmsysError, match="all workers are dead after step 2"):
        list(Trainer(settings(faults="3:kill:0+1+2")).run(nursery))


def test_a_gradient_that_is_not_finite_is_not_applied(nursery):
    events = list(Trainer(settings(lr=1e200, steps=4)).run(nursery))
    skipped = [event.get("skipped", False) for event in named(events, "step")]

    assert skipped == [False, True, True, True]


def test_a_gradient_that_is_not_finite_ends_the_run_where_that_is_asked_for(nursery):
    with pytest.raises(LlmsysError, match="gradient of step 2 is not finite"):
        list(Trainer(settings(lr=1e200, on_nan="stop")).run(nursery))
