"""Ceilings: positive, per dtype, and within their budget's order of magnitude."""

import pytest
import torch

from llmsys.gpu import DTYPES, measure_ceilings


def test_every_dtype_gets_a_rate_and_reading_gets_one(device):
    found = measure_ceilings(device, budget_s=0.1)

    assert set(found.flop_s) == set(DTYPES)
    assert all(rate > 1e6 for rate in found.flop_s.values())
    assert found.read_bytes_s > 1e6
    assert found.device == str(device)
    assert found.elapsed_s > 0


def test_only_the_dtypes_asked_for_are_measured():
    found = measure_ceilings(torch.device("cpu"), budget_s=0.02, dtypes=(torch.float32,))

    assert list(found.flop_s) == ["float32"]


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_not_positive_is_refused(budget_s):
    with pytest.raises(ValueError, match="is not positive"):
        measure_ceilings(torch.device("cpu"), budget_s=budget_s)
