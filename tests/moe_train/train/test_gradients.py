"""Gradients of overlapping groups: the sums of every segment, the same bits on every holder."""

import numpy as np
import pytest
import torch

from llmsys.moe_train.train import Communicator, sum_segments
from tests.moe_train.train.programs import gradient_case

CASES = 40


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_holder_gets_the_sum_of_its_segments_bit_for_bit(ranks, count):
    with ranks("sum_gradients", count, size=count, cases=CASES) as found:
        answers = [rank.answer() for rank in found]

    for seed in range(CASES):
        holders, values = gradient_case(seed, count)
        for rank in range(count):
            held = [segment for segment, group in enumerate(holders) if rank in group]
            for total, segment in zip(answers[rank][seed], held, strict=True):
                expected = np.zeros(len(values[segment][rank]))
                for other in holders[segment]:
                    expected = expected + values[segment][other]
                assert total == expected.tolist()


def test_coded_sums_are_the_same_on_every_holder_and_near_the_exact_ones(ranks):
    with ranks("sum_gradients", 3, size=3, cases=8, codec="tq:8") as found:
        answers = [rank.answer() for rank in found]

    for seed in range(8):
        holders, values = gradient_case(seed, 3)
        totals = [iter(answer[seed]) for answer in answers]
        for segment, group in enumerate(holders):
            first, *others = (next(totals[rank]) for rank in group)
            expected = sum(np.asarray(values[segment][rank]) for rank in group)
            assert all(other == first for other in others)
            assert np.linalg.norm(first - expected) <= 0.05 * np.linalg.norm(expected)


def test_a_gradient_without_its_holder_is_refused(tmp_path):
    comm = Communicator(0, tmp_path)
    comm.build(0, [0])

    with pytest.raises(ValueError, match="disagree"):
        sum_segments([torch.ones(3)], [[]], comm)
    comm.close()
