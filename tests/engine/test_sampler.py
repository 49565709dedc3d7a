import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.draws import draw, draw_by_torch
from llmsys.engine.sampler import sample, uniform
from llmsys.engine.sequence import Request, SamplingParams, Sequence

EOS = frozenset({2})


def sequence(ids=(1,), prompt=1, seed=5, index=0, **params):
    request = Request(tuple(ids[:prompt]), SamplingParams(**params))
    return Sequence(0, request, list(ids), prompt, seed=seed, index=index, max_tokens=99)


def rows(n, vocab, seed=0, scale=3.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=scale, size=(n, vocab)).astype(np.float32))


def kept_by_definition(logits, temperature, top_k, top_p, min_p):
    """The distribution in plain float64, one step after the other, as transformers' warpers define it."""
    scores = logits.astype(np.float64) / temperature
    if top_k:
        scores = np.where(scores >= np.sort(scores)[-min(top_k, len(scores))], scores, -np.inf)
    probs = np.exp(scores - scores.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]
    probs[order[before >= top_p]] = 0 if top_p < 1 else probs[order[before >= top_p]]
    probs[probs < min_p * probs.max()] = 0
    return probs / probs.sum()


def chi_square_limit(cells):
    """Exceeded with probability below 1e-7 (Wilson and Hilferty's approximation at 5.2 standard deviations)."""
    return cells * (1 - 2 / (9 * cells) + 5.2 * math.sqrt(2 / (9 * cells))) ** 3


VOCABULARIES = (1, 2, 40, 64, 65, 300, 5000)
SCALES = (0.0, 1e-3, 1.0, 8.0)


@settings(max_examples=200)
@given(
    vocab=st.sampled_from(VOCABULARIES),
    scale=st.sampled_from(SCALES),
    temperature=st.sampled_from([0.05, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 7, 70, 3000]),
    top_p=st.sampled_from([1e-6, 0.1, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.5]),
    point=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 999),
)
def test_a_token_is_the_one_in_whose_share_of_the_distribution_the_point_falls(  # noqa: PLR0917
    vocab, scale, temperature, top_k, top_p, min_p, point, seed
):
    """In the vocabulary's order, by the definition in float64; float32 moves a border by at most 1e-4."""
    logits = rows(1, vocab, seed=seed, scale=scale)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    cut = {"temperature": temperature, "top_k": top_k, "min_p": min_p}
    expected = kept_by_definition(logits[0].numpy(), top_p=top_p, **cut)
    wider = kept_by_definition(logits[0].numpy(), top_p=min(1.0, top_p + 1e-5), **cut)

    (token,) = draw(logits, [0], [params], [point])

    if scale and np.array_equal(expected > 0, wider > 0):
        total = np.cumsum(expected)
        assert expected[token] > 0
        assert total[token] - expected[token] - 1e-4 <= point <= total[token] + 1e-4
    else:
        assert logits[0, token] >= np.sort(logits[0].numpy())[-max((wider > 0).sum(), 1)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_team_draws_the_same_tokens(threads):
    logits, points = rows(7, 5000, scale=2.0), np.linspace(0, 0.99, 7).tolist()
    params = [SamplingParams(top_p=0.95, top_k=k) for k in (0, 1, 5, 50, 500, 0, 9)]
    before = torch.get_num_threads()
    expected = draw(logits, list(range(7)), params, points)

    torch.set_num_threads(threads)
    found = draw(logits, list(range(7)), params, points)
    torch.set_num_threads(before)

    assert found == expected


def test_drawing_leaves_the_logits_as_they_are():
    logits = rows(2, 300)
    before = logits.clone()

    draw(logits, [0, 1], [SamplingParams(top_p=0.5, top_k=4)] * 2, [0.2, 0.9])

    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "params", [{}, {"top_k": 5}, {"top_p": 0.7, "min_p": 0.02}, {"top_k": 300, "top_p": 0.9}], ids=str
)
def test_draws_by_torch_follow_the_same_distribution(params):
    """10000 draws of one row of 400 by each; false alarm below 1e-6."""
    logits, draws = rows(1, 400, seed=4, scale=2.0), 10_000
    expected = kept_by_definition(
        logits[0].numpy(), **({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | params)
    )
    points = ((np.arange(draws) + 0.5) / draws).tolist()
    batch = logits.expand(draws, -1).contiguous()

    for drawing in (draw, draw_by_torch):
        seen = np.bincount(
            drawing(batch, list(range(draws)), [SamplingParams(**params)] * draws, points), minlength=400
        )
        assert np.abs(seen - draws * expected).max() <= 2


def test_greedy_takes_the_largest_logit_and_the_first_of_equals():
    logits = torch.tensor([[0.0, 3.0, 3.0], [9.0, 1.0, 2.0]])

    assert [s.token_id for s in sample(logits, [sequence(temperature=0.0)] * 2, EOS)] == [1, 0]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"top_k": 30, "top_p": 0.9, "min_p": 0.05, "temperature": 1.7},
        {"top_k": 1000},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(params):
    """20000 draws of one row; false alarm below 1e-6."""
    logits = rows(1, 40, seed=3, scale=1.5)
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | params
    expected = kept_by_definition(logits[0].numpy(), **full)
    draws = 20_000
    batch = [sequence(ids=[1] * (n + 1), **params) for n in range(0, 200)]
    seen = np.zeros(40)
    for seed in range(draws // len(batch)):
        for item in batch:
            item.seed = seed
        np.add.at(seen, [s.token_id for s in sample(logits.repeat(len(batch), 1), batch, EOS)], 1)

    assert not seen[expected == 0].any()
    cells = expected > 0
    statistic = ((seen - draws * expected)[cells] ** 2 / (draws * expected[cells])).sum()
    assert statistic < chi_square_limit(max(int(cells.sum()) - 1, 1))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=6),
    vocab=st.sampled_from([3, 40, 300, 5000]),
)
def test_a_row_draws_the_same_alone_and_in_any_batch(data, seeds, vocab):
    batch = [
        sequence(
            ids=[1] * data.draw(st.integers(1, 9)),
            seed=seed,
            temperature=data.draw(st.sampled_from([0.0, 0.7, 1.0, 2.0])),
            top_k=data.draw(st.sampled_from([0, 1, 7, 200, 3000])),
            top_p=data.draw(st.sampled_from([0.1, 0.9, 0.999, 1.0])),
            min_p=data.draw(st.sampled_from([0.0, 0.01])),
        )
        for seed in seeds
    ]
    logits = rows(len(batch), vocab, seed=len(seeds), scale=data.draw(st.sampled_from([0.01, 1.0, 5.0])))
    together = sample(logits.clone(), batch, EOS)

    assert together == [sample(logits[i : i + 1].clone(), [s], EOS)[0] for i, s in enumerate(batch)]
    assert together == sample(logits.flip(0).clone(), batch[::-1], EOS)[::-1]


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999])
def test_a_cut_deep_in_a_flat_row_keeps_what_the_definition_keeps(top_p):
    """A flat row of 6000: the nucleus holds thousands of tokens."""
    logits = rows(1, 6000, scale=0.01)
    expected = kept_by_definition(logits[0].numpy(), 1.0, 0, top_p, 0.0)
    chosen = {sample(logits.clone(), [sequence(seed=s, top_p=top_p)], EOS)[0].token_id for s in range(200)}

    assert all(expected[token] > 0 for token in chosen)
    assert len(chosen) > 150


def test_a_draw_never_lands_on_a_forbidden_token():
    logits = torch.full((1, 50), -torch.inf)
    logits[0, [0, 49]] = torch.tensor([0.0, -20.0])

    assert {sample(logits.clone(), [sequence(seed=s)], EOS)[0].token_id for s in range(300)} == {0}


def test_uniform_numbers_are_uniform_and_belong_to_seed_choice_and_position():
    """Kolmogorov's bound at a false alarm of 1e-7 for 4000 numbers."""
    numbers = np.sort(
        [uniform(seed, choice, position) for seed in range(20) for choice in (0, 1) for position in range(100)]
    )
    steps = np.arange(1, len(numbers) + 1) / len(numbers)

    assert np.abs(numbers - steps).max() < math.sqrt(math.log(2e7) / 2 / len(numbers)) + 1 / len(numbers)
    assert len(set(numbers)) == len(numbers)
    assert uniform(2**64 - 1, 127, 10**6) == uniform(2**64 - 1, 127, 10**6)


def test_seeded_tokens_do_not_change_between_releases():
    logits = rows(1, 1000, seed=1)

    drawn = [sample(logits.clone(), [sequence(ids=[1] * n, seed=42)], EOS)[0].token_id for n in range(1, 6)]

    assert drawn == [860, 860, 183, 978, 889]


def test_not_a_number_ends_that_row_alone():
    logits = rows(4, 30)
    logits[1, 7] = torch.nan
    logits[2, 3] = torch.inf
    batch = [sequence(temperature=t, logprobs=2) for t in (0.0, 0.0, 1.0, 1.0)]
    clean = rows(4, 30)

    got = sample(logits, batch, EOS)

    assert [s.error for s in got] == [None, "not a number in logits", "not a number in logits", None]
    assert [got[0], got[3]] == sample(clean[[0, 3]], [batch[0], batch[3]], EOS)


def test_a_row_with_nothing_allowed_ends_with_an_error():
    def forbid_everything(ids, logits):
        logits.fill_(-torch.inf)

    assert sample(rows(1, 9), [sequence(logits_processor=forbid_everything)], EOS)[0].error == "no token is allowed"


def test_a_processor_that_makes_nan_ends_its_row_alone():
    def spoil(ids, logits):
        logits[3] = torch.nan

    got = sample(rows(2, 9), [sequence(logits_processor=spoil), sequence(temperature=0.0)], EOS)

    assert [s.error for s in got] == ["not a number in logits", None]


def test_logprobs_are_of_the_models_own_distribution():
    logits = rows(3, 60)
    scores = torch.log_softmax(logits.double(), -1)
    batch = [
        sequence(temperature=0.0, logprobs=0),
        sequence(temperature=1.5, top_k=3, logprobs=4, logit_bias={5: 50.0}),
        sequence(temperature=1.0),
    ]

    got = sample(logits, batch, EOS)

    assert got[0].top == ()
    assert got[1].token_id == 5
    assert got[2].logprob is None
    for row in (0, 1):
        assert got[row].logprob == pytest.approx(scores[row, got[row].token_id].item(), abs=1e-5)
    best = scores[1].topk(4)
    assert [token for token, _ in got[1].top] == best.indices.tolist()
    assert [value for _, value in got[1].top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logits_of_a_model_in_inference_mode_can_be_transformed():
    with torch.inference_mode():
        logits = rows(2, 8)
    forced = sequence(temperature=0.0, allowed_token_ids=[3])

    assert [choice.token_id for choice in sample(logits, [forced, forced], frozenset())] == [3, 3]
