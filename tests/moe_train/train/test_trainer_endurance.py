"""Many deaths in one run: around the vote, where one worker may know what another does not, and without leaks."""

import os
import random
import signal
from pathlib import Path

import pytest

from llmsys.moe_train.train import ModelShape, RunConfig, Trainer

SMALL = ModelShape(layers=1, d_model=8, d_ff=8, heads=2, experts=4)
WORKERS = 3


def settings(steps, **changes):
    chosen = {"seq": 8, "batch": 6, "slots": 4, "min_replicas": 3, "heartbeat_s": 60.0, "audit_every": 3}
    return RunConfig(model=SMALL, dtype="float64", steps=steps, **(chosen | changes))


def losses(events):
    return [event["loss"] for event in events if event["event"] == "step"]


def same_losses(events, expected):
    """Every step was taken, and whenever it was taken its loss was the expected one.

    More than once only after a fallback, when all who had trained died before a newcomer was ready.
    """
    steps = [event for event in events if event["event"] == "step"]
    fallbacks = [event for event in events if event["event"] == "fallback"]

    assert {event["step"] for event in steps} == set(range(1, len(expected) + 1))
    assert len(steps) == len(expected) + sum(event["from_step"] - event["to_step"] for event in fallbacks)
    assert max(abs(event["loss"] - expected[event["step"] - 1]) for event in steps) < 1e-9


def run_with_kills(config, nursery, when):
    """Run; after a step that all workers took, kill one if `when(step)` says so, at the moment that it takes."""
    pids, events = {}, []
    for event in Trainer(config).run(nursery):
        events.append(event)
        if event["event"] == "start":
            pids = dict(event["pids"])
        elif event["event"] == "join":
            pids[str(event["worker"])] = event["pid"]
        elif event["event"] == "detect":
            pids.pop(str(event["worker"]), None)
        elif event["event"] == "step" and event["workers"] == WORKERS and len(pids) == WORKERS and when(event["step"]):
            os.kill(pids[random.Random(event["step"]).choice(sorted(pids))], signal.SIGKILL)
    return events


def kills_around_the_vote(rounds, seed):
    """Every tenth step a worker dies at the vote or right after it, and another comes."""
    choice = random.Random(seed)
    faults, alive, fresh = [], list(range(WORKERS)), WORKERS
    for number in range(rounds):
        victim = choice.choice(alive)
        alive.remove(victim)
        faults += [f"{10 * number + 4}@{choice.choice(['vote', 'apply'])}:kill:{victim}", f"{10 * number + 5}:add:1"]
        alive.append(fresh)
        fresh += 1
    return ";".join(faults)


def check_vote_kills(nursery, rounds, seeds):
    steps = 10 * rounds + 4
    expected = losses(list(Trainer(settings(steps, workers=1)).run(nursery)))
    struck = 0
    for seed in seeds:
        # f = 3 of three workers: everyone holds everything, so that no two deaths can lose an expert
        config = settings(steps, workers=WORKERS, faults=kills_around_the_vote(rounds, seed))
        events = list(Trainer(config).run(nursery))
        struck += sum(event["event"] == "fault" for event in events)
        same_losses(events, expected)
    return struck


def test_deaths_around_the_vote_change_no_loss(nursery):
    assert check_vote_kills(nursery, rounds=5, seeds=[0]) > 0


@pytest.mark.slow
def test_hundreds_of_deaths_around_the_vote_change_no_loss(nursery):
    assert check_vote_kills(nursery, rounds=20, seeds=range(12)) > 100


def test_kills_at_any_moment_change_no_loss(nursery):
    steps = 60
    expected = losses(list(Trainer(settings(steps, workers=1)).run(nursery)))
    adds = ";".join(f"{step}:add:1" for step in range(10, 50, 10))
    events = run_with_kills(settings(steps, workers=WORKERS, faults=adds), nursery, lambda step: step % 5 == 0)

    assert sum(event["event"] == "detect" for event in events) >= 2
    same_losses(events, expected)


def resources(pid):
    """Descriptors, threads and resident bytes of a process."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), resident


@pytest.mark.slow
def test_dozens_of_changes_leak_no_descriptor_no_thread_and_no_memory(nursery):
    """Worker 0 lives through joins and deaths of others; counts are taken while it trains with all three."""
    rounds = 26
    faults = ";".join(f"{6 * number + 3}:kill:{number + 2};{6 * number + 4}:add:1" for number in range(rounds))
    counts, events, pid = [], [], None
    for event in Trainer(settings(6 * rounds + 6, workers=WORKERS, faults=faults)).run(nursery):
        events.append(event)
        if event["event"] == "start":
            pid = event["pids"]["0"]
        if event["event"] == "step" and event["step"] % 6 == 2 and event["workers"] == WORKERS:
            counts.append(resources(pid))
    descriptors, threads, resident = zip(*counts, strict=True)

    assert sum(event["event"] == "reconfigure" for event in events) >= 24
    assert max(descriptors) <= descriptors[0]
    assert max(threads) <= threads[0]
    assert resident[-1] <= 1.05 * resident[len(resident) // 4]
