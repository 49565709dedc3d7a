"""Dropout that no division of the batch changes."""

import torch

from llmsys.moe_train.train import SampleDropout

X = torch.ones(6, 32, 64, dtype=torch.float64)


def test_any_division_of_the_batch_drops_the_same():
    whole = SampleDropout(0.3, 0, 5, [11, 4, 7, 2, 9, 3])(X, 1)
    parts = [SampleDropout(0.3, 0, 5, part)(X[: len(part)], 1) for part in ([11, 4], [7, 2, 9], [3])]

    assert torch.equal(whole, torch.cat(parts))


def test_every_seed_step_sample_and_place_drops_other_numbers():
    masks = [
        SampleDropout(0.5, seed, step, [sample])(X[:1], place)
        for seed, step, sample, place in [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    ]

    assert all(not torch.equal(one, other) for i, one in enumerate(masks) for other in masks[:i])


def test_the_share_that_is_dropped_is_the_rate_and_the_mean_stays():
    """False alarm: 12 288 draws at 0.25 leave six standard errors of 0.0039 in fewer than 1e-8 of all runs."""
    found = SampleDropout(0.25, 0, 1, range(6))(X, 0)

    assert abs((found == 0).double().mean().item() - 0.25) < 6 * 0.0039
    assert set(found.unique().tolist()) == {0.0, 1 / 0.75}


def test_a_rate_of_zero_and_an_empty_share_change_nothing():
    assert SampleDropout(0.0, 0, 1, range(6))(X, 0) is X
    assert SampleDropout(0.5, 0, 1, [])(X[:0], 0).shape == (0, 32, 64)
