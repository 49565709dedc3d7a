"""Searches by the GPU's path, under Triton's interpreter where there is no GPU, give what the exact scan gives."""

import numpy as np
import pytest

from llmsys.errors import UsageFault
from llmsys.vindex import Index
from llmsys.vindex.device_scan import DeviceScan
from tests.vindex.conftest import SMALL, random_access


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_batch_of_many_tenants_is_answered_as_the_exact_scan_answers_it(tmp_path, generator, device, metric):
    vectors = generator.normal(size=(400, 9))
    tenants = [*(f"t{number}" for number in range(4)), None, "nobody"]
    with Index.build(
        tmp_path / "idx", vectors, access=random_access(generator, 400, 4), metric=metric, shape=SMALL
    ) as index:
        index.add(generator.normal(size=(30, 9)), range(400, 430), [["t1", "t2"]] * 30)
        index.delete(range(0, 400, 9))
        right = index.search(vectors[:6], tenants, k=12, recall=None)
        index.device = DeviceScan(str(device))
        found = index.search(vectors[:6], tenants, k=12)
        counted = index.planned("t1", 12, where=None, recall=0.9, effort=None)

    assert found.ids.tolist() == right.ids.tolist()
    assert found.scanned.tolist() == right.scanned.tolist()
    assert counted == (found.scanned[1], None)
    np.testing.assert_allclose(found.distances, right.distances, rtol=1e-6)


def test_ties_go_to_the_smaller_id_and_changes_are_seen(tmp_path, device):
    with Index.build(tmp_path / "idx", np.ones((20, 3)), access=[["a"]] * 20, metric="l2", shape=SMALL) as index:
        index.device = DeviceScan(str(device))
        before = index.search(np.ones((1, 3)), "a", k=4).ids.tolist()
        index.add(np.ones((1, 3)), [-5], [["a"]])
        index.revoke([1], "a")
        after = index.search(np.ones((1, 3)), "a", k=4).ids.tolist()

    assert before == [[0, 1, 2, 3]]
    assert after == [[-5, 0, 2, 3]]


def test_more_neighbours_than_the_device_keeps_are_refused(tmp_path, device):
    with Index.build(tmp_path / "idx", np.ones((3, 2)), access=[["a"]] * 3) as index:
        index.device = DeviceScan(str(device))
        with pytest.raises(UsageFault, match="at most 112"):
            index.search(np.ones((1, 2)), "a", k=113)
