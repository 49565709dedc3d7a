"""The scan of many lists against its definition, on lists of every awkward length."""

import numpy as np
import pytest
import torch

from llmsys.gpu.kernels.run_scan import MOST_KEPT, scan_runs, scan_runs_reference


@pytest.fixture
def generator():
    return np.random.default_rng(20260101)


def lists(generator, lengths, rows, device):
    slots = np.concatenate([generator.permutation(rows)[:length] for length in lengths] + [np.zeros(0, int)])
    starts = np.cumsum([0, *lengths])[:-1]
    return [
        torch.from_numpy(np.asarray(part, dtype)).to(device)
        for part, dtype in ((slots, np.int32), (starts, np.int64), (lengths, np.int64))
    ]


@pytest.mark.parametrize("l2", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, [1]),
        (50, 10, [0, 1, 255, 256, 257, 0]),
        (33, 7, [600, 3, 0, 1400]),
        (8, 128, [100, 2500, 129]),
        (16, 3, [0, 0]),
    ],
)
def test_every_query_finds_what_the_definition_finds(device, generator, shape, dtype, l2):
    dim, kept, lengths = shape
    vectors = torch.from_numpy(generator.normal(size=(3000, dim)).astype(np.float32)).to(device, dtype)
    queries = torch.from_numpy(generator.normal(size=(len(lengths), dim)).astype(np.float32)).to(device)
    slots, starts, counts = lists(generator, lengths, 3000, device)

    found, scores = scan_runs(queries, vectors, slots, starts, counts, kept=kept, l2=l2)
    right, right_scores = scan_runs_reference(queries, vectors, slots, starts, counts, kept=kept, l2=l2)

    torch.testing.assert_close(scores, right_scores, rtol=1e-4, atol=1e-4)
    assert (found >= 0).sum(dim=1).tolist() == [min(kept, length) for length in lengths]
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=True)):
        mine = [one for one in found[row].tolist() if one >= 0]
        assert len(set(mine)) == len(mine)
        assert set(mine) <= set(slots[start : start + length].tolist())
        if dim > 1:  # with one number per vector, rounding makes ties
            assert mine == [one for one in right[row].tolist() if one >= 0]


def test_equal_scores_keep_the_order_of_the_list(device):
    vectors = torch.ones(600, 4, device=device)
    slots = torch.arange(599, -1, -1, dtype=torch.int32, device=device)
    starts, lengths = torch.zeros(1, dtype=torch.int64, device=device), torch.full((1,), 600, device=device)

    found, scores = scan_runs(torch.zeros(1, 4, device=device), vectors, slots, starts, lengths, kept=5, l2=True)

    assert found.tolist() == [[599, 598, 597, 596, 595]]
    assert scores.tolist() == [[4.0] * 5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kept": MOST_KEPT + 1}, "expected 1 to 128"),
        ({"queries": torch.zeros(2, 5)}, "do not fit"),
        ({"slots": torch.zeros(4, dtype=torch.int64)}, "int32"),
        ({"vectors": torch.zeros(4, 10)[:, ::2]}, "do not fit"),
        ({"vectors": torch.zeros(4, 8)[:, ::2]}, "contiguous"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_their_shapes(change, named):
    right = {
        "queries": torch.zeros(2, 4), "vectors": torch.zeros(4, 4), "slots": torch.zeros(4, dtype=torch.int32),
        "starts": torch.zeros(2, dtype=torch.int64), "lengths": torch.ones(2, dtype=torch.int64), "kept": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=named):
        scan_runs(**(right | change), l2=True)
