"""What the supervisor keeps: checkpoints under way, when a new plan pays, digests that differ, and the timeline."""

import pytest
import torch

from llmsys.moe_train.train import ModelShape, Planner, RunConfig, expert_products, run_spans
from llmsys.moe_train.train.change import Change
from llmsys.moe_train.train.messages import Assign, Ready, Saved, Seal, StepReport, decode_order, encode_message
from llmsys.moe_train.train.rebalancing import LOOK_EVERY, Rebalancer
from llmsys.moe_train.train.replica import odd_one_out
from llmsys.moe_train.train.saving import SavingLog


def test_a_checkpoint_is_sealed_by_the_lowest_living_member_once_all_parts_are_there():
    log = SavingLog()
    log.begin(3, (1, 4, 6))
    living = {4, 6, 9}
    answers = [log.add(worker, Saved(10, 3, 8, None), living) for worker in (6, 1, 4)]

    assert answers == [None, None, (4, Seal(10, 3, 8))]


def test_parts_of_other_epochs_and_settled_steps_make_no_checkpoint():
    log = SavingLog()
    log.begin(3, (1, 2))
    log.begin(4, (1,))
    first = log.add(1, Saved(10, 3, 10, None), {1, 2})
    second = log.add(1, Saved(10, 4, 10, None), {1, 2})
    log.settle(10)

    assert first is None
    assert second == (1, Seal(10, 4, 10))
    assert log.parts == {}
    assert log.settled == 10


@pytest.mark.parametrize(
    ("digests", "found"),
    [
        ([[5, 1], [5, 0], [5, 1]], None),
        ([[5, 1], [6, 1], [5, 1]], (1, 0)),
        ([[5, 0, 3], [5, 7, 3], [5, 7, 4]], (2, 2)),
        ([[5, 0], [5, 7], [5, 8]], (1, 1)),
        ([[5]], None),
    ],
)
def test_a_copy_that_differs_from_most_is_found(digests, found):
    assert odd_one_out(digests) == found


def observed(loads, *, moves_cost=0):
    """What a rebalancer says after LOOK_EVERY steps of the same loads under a plan made for even ones."""
    shape = ModelShape(layers=1, d_model=8, d_ff=8, heads=2, experts=4)
    config = RunConfig(model=shape, slots=2, min_replicas=1, steps=1000, rebalance_at=1.2, split="equal")
    planner = Planner(config)
    watch = Rebalancer(config, planner, clock=map(float, range(100)).__next__)  # a step takes a second
    change = Change(0.0, bytes=moves_cost, ready={0: Ready(1, 0.0, 1.0)})
    watch.changed(planner.plan([0, 1, 2, 3]), change)
    found = []
    for step in range(1, LOOK_EVERY + 1):
        report = StepReport(step, 1.0, 1.0, 8, 4, False, 0, 1.0, [loads])
        found.append(watch.observe(report))
    assert found[:-1] == [None] * (LOOK_EVERY - 1)
    return found[-1]


def test_loads_that_drift_call_for_a_new_plan_with_what_it_gains():
    found = observed([800, 10, 10, 10])

    assert found["predicted"] < found["balance"]
    assert found["gain_s"] > found["cost_s"]


def test_even_loads_call_for_none():
    assert observed([100, 100, 100, 100]) is None


def test_a_plan_that_costs_more_than_it_gains_is_not_made():
    # one byte took a second: moving states would take hours
    assert observed([800, 10, 10, 10], moves_cost=1) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 8], [8, 0, 0]])
def test_grouped_products_and_their_gradients_are_those_of_a_loop(dtype, counts):
    generator = torch.Generator().manual_seed(0)
    rows, matrices = (torch.randn(8, 16, generator=generator), torch.randn(3, 16, 24, generator=generator))
    found = []
    for kind in (dtype, torch.float64):
        x, w = (one.to(dtype).to(kind).clone().requires_grad_() for one in (rows, matrices))
        product = expert_products(x, w, counts)
        product.sum().backward()
        found.append([product, x.grad, w.grad])

    relative, absolute = (2e-2, 1e-1) if dtype == torch.bfloat16 else (1e-5, 1e-4)
    for ours, exact in zip(*found, strict=True):
        assert torch.allclose(ours.double(), exact, rtol=relative, atol=absolute)


def test_an_assignment_travels_without_losing_a_bit():
    third = 1.0 / 3.0
    order = Assign(
        7, [0, 2], [0, 2], [[[0, 1], [1, 0]]], [[[third, 1 - third]]], [(0, 1, 2, 0)], 4, False, 0, [2], None
    )

    assert decode_order(encode_message(order)) == order


def test_the_timeline_shows_steps_changes_and_incidents_in_their_rows():
    parts = {"detect_s": 0.1, "interrupt_s": 0.2, "plan_s": 0.1, "group_s": 0.1, "transfer_s": 0.5}
    events = [
        {"t_s": 1.0, "event": "step", "step": 1, "loss": 5.0},
        {"t_s": 2.0, "event": "detect", "worker": 1, "how": "exit", "detect_s": 0.1},
        {"t_s": 3.0, "event": "reconfigure", "epoch": 2, "total_s": 1.0, **parts},
        {"t_s": 3.5, "event": "step", "step": 2, "loss": 4.0},
        {"t_s": 4.0, "event": "checkpoint", "step": 2, "seconds": 0.25, "fault": None},
        {"t_s": 5.0, "event": "checkpoint", "step": 3, "seconds": None, "fault": "disk full"},
        {"t_s": 6.0, "event": "end", "steps": 2},
    ]
    spans = [(span.track, span.name, span.start_s, round(span.duration_s, 9)) for span in run_spans(events)]

    assert spans[:3] == [
        ("steps", "step 1", 0.0, 1.0),
        ("incidents", "detect", 2.0, 0.0),
        ("reconfigure", "epoch 2", 2.0, 1.0),
    ]
    assert [span[1] for span in spans if span[0] == "parts"] == ["detect", "interrupt", "plan", "group", "transfer"]
    assert spans[-2:] == [("steps", "step 2", 3.0, 0.5), ("checkpoints", "step 2", 3.75, 0.25)]
