"""The paper's layout: filters without false negatives, the oracle's shortlists, searches that stay with the tenant."""

import numpy as np
import pytest
from scipy.stats import binom

from llmsys.vindex import Index
from llmsys.vindex.bloom_layout import BITS, CAPACITY, HASHES, bulk_layout, holds, insert
from tests.vindex.conftest import SMALL, brute_force
from tests.vindex.curator import Curator


@pytest.mark.parametrize("load", [1, 100, CAPACITY])
def test_a_filter_forgets_nobody_and_mistakes_as_many_as_it_should(load):
    """False positives among 20 000 strangers lie in the binomial band of a false alarm in a million."""
    bloom, strangers = np.zeros(-(-BITS // 64), np.uint64), 20_000
    for tenant in range(load):
        insert(bloom, tenant)

    mistaken = sum(holds(bloom, tenant) for tenant in range(load, load + strangers))

    assert all(holds(bloom, tenant) for tenant in range(load))
    rate = (1 - (1 - 1 / BITS) ** (HASHES * load)) ** HASHES
    low, high = binom.ppf([5e-7, 1 - 5e-7], strangers, rate)
    assert low <= mistaken <= high
    assert rate < 0.0101


def test_shortlists_are_those_of_the_paper_s_rules(built):
    """Granted one by one under exact filters, as the oracle does, or all at once: the same shortlists."""
    index, _, access = built
    layout = bulk_layout(index.state)
    oracle = Curator(index.state.clusters, SMALL.max_shortlist)
    for row, names in enumerate(access):
        slot = index.state.store.slot_of[row]
        for name in names:
            oracle.grant(slot, int(index.state.store.leaf[slot]), name)

    found = {(node, tenant): set(slots) for node, tenant, slots in layout.shortlists()}

    right = {(node, tenant): slots for node, lists in oracle.lists.items() for tenant, slots in lists.items() if slots}
    assert found == right
    numbers = layout.tenants
    assert all(holds(layout.filters[node], numbers[tenant]) for node, tenant in right)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_search_that_keeps_all_is_exact_and_no_search_leaves_the_tenant(tmp_path, generator, metric):
    vectors = generator.normal(size=(400, 6)).astype(np.float32)
    access = [["a"] if row % 3 else ["a", "b"] for row in range(400)]
    with Index.build(tmp_path / "idx", vectors, access=access, metric=metric, shape=SMALL) as index:
        index.delete(range(100))
        layout = bulk_layout(index.state)
    store = layout.state.store
    for query in store.rows(range(20)):
        for tenant, seen in (("a", range(100, 400)), ("b", range(102, 400, 3))):
            right, _ = brute_force(vectors[list(seen)], list(seen), query, 10, metric)
            assert store.names(layout.search(query, tenant, 10, 1000)) == right
            few = store.names(layout.search(query, tenant, 10, 10))
            assert (len(few), set(few) <= set(seen)) == (10, True)
    assert len(layout.search(vectors[0], "nobody", 10, 20)) == 0
