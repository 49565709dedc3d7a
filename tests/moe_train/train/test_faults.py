"""Fault lists: what they say, what is refused, and when a fault strikes."""

import io
import sys

import pytest

from llmsys.errors import UsageFault
from llmsys.moe_train.train import SITES, Fault, FaultPoint, faults_text, parse_faults
from llmsys.moe_train.train.fault_plan import FaultPlan


def test_a_list_is_read_entry_by_entry():
    found = parse_faults("40:kill:2; 90@vote:stop:0+3;\n150:add:2;7:notice:1;8:slow:4:2.5;t=12.5:kill:6;;")

    assert found == (
        Fault("kill", (2,), step=40),
        Fault("stop", (0, 3), step=90, site="vote"),
        Fault("add", (), step=150, count=2),
        Fault("notice", (1,), step=7),
        Fault("slow", (4,), step=8, factor=2.5),
        Fault("kill", (6,), at_s=12.5),
    )


@pytest.mark.parametrize(
    "entry",
    [
        "kill:2", "4:kill", "4:kill:x", "4@:kill:1", "4@tea:kill:1", "4@vote:add:1", "4@vote:slow:1:2", "4:slow:1",
        "4:kill:1:2", "t=3:slow:1:2", "4:add:1+2", "-4:kill:1", "4:kill:1 5:kill:2",
    ],
)  # fmt: skip
def test_an_entry_that_means_nothing_is_named(entry):
    with pytest.raises(UsageFault, match=r"--faults: ") as caught:
        parse_faults(f"3:kill:1;{entry}")

    assert repr(entry) in str(caught.value)


def test_a_list_comes_from_the_option_a_file_or_stdin(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_text("3:kill:1\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("4:kill:2"))

    assert faults_text("3:kill:9") == "3:kill:9"
    assert faults_text(str(path)) == "3:kill:1\n"
    assert faults_text("-") == "4:kill:2"


class Struck(Exception):
    """In place of the signal that `tell` announces."""


def strikes(text, worker, moments):
    """The (site, step) at which a worker would strike itself, first only."""

    def tell(step, site, kind):
        raise Struck(step, site, kind)

    point = FaultPoint(worker, parse_faults(text), tell)
    for site, step in moments:
        try:
            point.reach(site, step)
        except Struck as struck:
            return struck.args
    return None


@pytest.mark.parametrize("site", SITES)
def test_a_fault_strikes_its_worker_at_its_site_and_step(site):
    moments = [(one, step) for step in (3, 4, 5) for one in SITES]

    assert strikes(f"4@{site}:kill:1", 1, moments) == (4, site, "kill")
    assert strikes(f"4@{site}:kill:1", 2, moments) is None


def test_between_steps_an_earlier_fault_is_still_due_and_within_steps_it_is_not():
    assert strikes("4@transfer:stop:1", 1, [("transfer", 9)]) == (9, "transfer", "stop")
    assert strikes("4@vote:stop:1", 1, [("vote", 9)]) is None


def test_without_a_site_a_fault_strikes_at_the_beginning_of_its_step():
    assert strikes("4:kill:1", 1, [(site, 4) for site in SITES]) == (4, "forward", "kill")


def test_joiners_and_notices_come_once_before_the_end_of_their_step():
    plan = FaultPlan("3:add:2;5:notice:1;t=2:kill:0")

    assert [fault.kind for fault in plan.due(0.0, 1)] == []
    assert [fault.kind for fault in plan.due(0.0, 2)] == ["add"]
    assert [fault.kind for fault in plan.due(2.0, 3)] == ["kill"]
    assert [fault.kind for fault in plan.due(9.0, 9)] == ["notice"]
    assert plan.due(99.0, 99) == []


def test_faults_that_struck_nobody_are_counted():
    plan = FaultPlan("3:kill:0;4:kill:0;5:kill:1;6:add:1;3:slow:2:2")
    before = plan.missed()
    plan.hit(0, 3)

    assert before == 4
    assert plan.missed() == 3
    assert plan.since_hit(0, default=-1.0) >= 0.0
    assert plan.since_hit(1, default=-1.0) == -1.0


def test_only_joiners_by_the_clock_come_while_no_step_is_taken():
    assert not FaultPlan("9:add:1").brings_workers
    assert FaultPlan("t=9:add:1").brings_workers
    assert not FaultPlan("t=9:kill:1").brings_workers
