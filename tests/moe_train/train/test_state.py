"""A worker's state: the optimizer is torch's, and an expert is the same wherever it is held."""

import pytest
import torch

from llmsys.moe_train.train import Gradients, ModelShape, TrainingState, expert_numbers, fresh_expert_state

SHAPE = ModelShape(layers=2, d_model=8, d_ff=8, heads=2, experts=3, act="swiglu", moe_every=2)


def state_with(experts, seed=0, optimizer="adamw"):
    state = TrainingState(SHAPE, seed=seed, dtype=torch.float64, lr=0.1, optimizer=optimizer)
    state.hold([{one: fresh_expert_state(SHAPE, 0, one, seed=seed, dtype=torch.float64) for one in experts}])
    return state


def random_gradients(state, seed):
    generator = torch.Generator().manual_seed(seed)
    dense, _ = state.gradients()
    vectors = torch.randn(3, expert_numbers(SHAPE) // 3, generator=generator, dtype=torch.float64)
    experts = {(0, one): vectors[one] for one in state.held()[0]}
    return Gradients(torch.randn(len(dense), generator=generator, dtype=torch.float64), experts)


def test_steps_are_those_of_torchs_adamw():
    state = state_with([0, 2])
    dense = torch.cat([one.detach().reshape(-1) for one in state.model.dense().values()])
    ours = [dense.clone(), state.expert(0, 2)[: expert_numbers(SHAPE) // 3].clone()]
    theirs = [torch.nn.Parameter(one) for one in ours]
    optimizer = torch.optim.AdamW(theirs, lr=0.1)
    for seed in range(4):
        gradients = random_gradients(state, seed)
        state.apply(gradients)
        theirs[0].grad, theirs[1].grad = gradients.dense, gradients.experts[0, 2]
        optimizer.step()

    dense = torch.cat([one.detach().reshape(-1) for one in state.model.dense().values()])
    assert torch.allclose(dense, theirs[0], rtol=0, atol=1e-15)
    assert torch.allclose(state.expert(0, 2)[: expert_numbers(SHAPE) // 3], theirs[1], rtol=0, atol=1e-15)
    assert state.applied == 4


def test_steps_are_those_of_torchs_sgd_with_momentum():
    state = state_with([0, 2], optimizer="sgd")
    weights = state.expert(0, 2)[: expert_numbers(SHAPE) // 3].clone()
    theirs = torch.nn.Parameter(weights)
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for seed in range(4):
        gradients = random_gradients(state, seed)
        state.apply(gradients)
        theirs.grad = gradients.experts[0, 2]
        optimizer.step()

    assert torch.allclose(state.expert(0, 2)[: len(theirs)], theirs, rtol=0, atol=1e-15)


def test_a_bias_rises_for_experts_below_the_mean_and_travels_with_what_all_hold():
    shape = ModelShape(layers=2, d_model=8, d_ff=8, heads=2, experts=3, balance="bias")
    ours, theirs = (TrainingState(shape, seed=0, dtype=torch.float64, lr=0.1) for _ in range(2))
    ours.nudge([[9, 3, 6], [0, 0, 12]])
    ours.nudge([[9, 3, 6], [12, 0, 0]])
    theirs.load_dense_state(ours.dense_state())
    found = [theirs.dense_tensors()[f"blocks.{layer}.mixture.bias"].tolist() for layer in (0, 1)]

    assert found == [[-0.002, 0.002, 0.0], [0.0, 0.002, 0.0]]


def test_a_model_without_a_bias_is_not_nudged():
    state = state_with([0])
    before = state.dense_state()
    state.nudge([[9, 3, 6]])

    assert torch.equal(state.dense_state(), before)


def test_an_expert_that_moves_takes_its_moments_along():
    stays, moves = state_with([0, 1, 2]), state_with([0, 1])
    for state in (stays, moves):
        state.apply(random_gradients(state, 1))
    moves.hold([{0: moves.expert(0, 0), 2: stays.expert(0, 2)}])
    for state in (stays, moves):
        state.apply(random_gradients(state, 2))

    assert moves.held() == [[0, 2]]
    for expert in (0, 2):
        assert torch.equal(moves.expert(0, expert), stays.expert(0, expert))


def test_a_newcomer_takes_over_what_all_hold():
    old, new = state_with([0]), state_with([1], seed=7)
    old.apply(random_gradients(old, 1))
    new.load_dense_state(old.dense_state())

    assert torch.equal(new.dense_state(), old.dense_state())
    assert new.applied == 1


def test_a_worker_may_hold_no_expert():
    state = state_with([])
    state.apply(random_gradients(state, 1))

    assert state.held() == [[]]
    assert state.gradients()[1] == {}


def test_an_expert_that_is_not_held_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        state_with([0]).expert(0, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_seen_wherever_it_is(bad):
    whole = torch.zeros(3)
    broken = torch.tensor([0.0, bad])

    assert Gradients(whole, {(0, 1): whole}).finite()
    assert not Gradients(broken, {(0, 1): whole}).finite()
    assert not Gradients(whole, {(0, 1): broken}).finite()


def test_initial_experts_depend_on_their_name_and_the_seed_alone():
    numbers = {
        tuple(fresh_expert_state(SHAPE, mixture, one, seed=seed, dtype=torch.float64)[:3].tolist())
        for mixture in (0, 1)
        for one in (0, 1)
        for seed in (0, 1)
    }
    again = fresh_expert_state(SHAPE, 1, 1, seed=1, dtype=torch.float64)

    assert len(numbers) == 8
    assert tuple(again[:3].tolist()) in numbers
