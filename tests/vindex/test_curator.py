"""Runs hold, for every tenant and node, the set that the paper's shortlists hold, whatever the order of changes."""

import numpy as np
import pytest

from llmsys.vindex import TreeShape
from llmsys.vindex.cluster_tree import build_tree
from llmsys.vindex.tenant_list import TenantList
from llmsys.vindex.tenant_tree import CHILDREN, END, NODE, START
from tests.vindex.curator import Curator

SHAPE = TreeShape(branching=3, max_leaf=6, max_shortlist=4)


@pytest.fixture(scope="module")
def clusters():
    vectors = np.random.default_rng(11).normal(size=(400, 4)).astype(np.float32)
    return build_tree(vectors, SHAPE, seed=0)


def runs(found, tree, leaf):
    """node -> slots of every leaf of the tenant's tree, its tail merged."""
    merged = TenantList(np.array(sorted(found.members().tolist(), key=lambda slot: (leaf[slot], slot)), np.int32))
    records = merged.tree(tree, leaf, SHAPE.max_shortlist)
    leaves = records[records[:, CHILDREN] == 0]
    return {row[NODE]: set(merged.slots[row[START] : row[END]].tolist()) for row in leaves if row[END] > row[START]}


@pytest.mark.parametrize("seed", range(6))
def test_grants_and_revokes_one_by_one_keep_both_structures_equal(clusters, seed):
    tree, leaf = clusters
    generator = np.random.default_rng(seed)
    paper = Curator(tree, SHAPE.max_shortlist)
    lists = {tenant: TenantList() for tenant in ("ann", "bob", "cleo")}
    for step in range(600):
        tenant = ("ann", "bob", "cleo")[int(generator.choice(3, p=[0.7, 0.2, 0.1]))]
        slot = int(generator.integers(0, 400 if tenant == "ann" else 40))
        found = lists[tenant]
        if found.holds(slot, leaf):
            found.remove(slot, leaf)
            paper.revoke(slot, tenant)
        else:
            found.add([slot], leaf)
            paper.grant(slot, leaf[slot], tenant)
        if step % 20 == 0:
            assert runs(found, tree, leaf) == paper.shortlists(tenant)

    for tenant, found in lists.items():
        assert runs(found, tree, leaf) == paper.shortlists(tenant)


def test_a_bulk_grant_gives_the_tree_of_single_grants(clusters):
    tree, leaf = clusters
    paper = Curator(tree, SHAPE.max_shortlist)
    slots = np.random.default_rng(3).permutation(400)[:250].astype(np.int32)
    found = TenantList()
    found.add(slots.tolist(), leaf)
    for slot in slots.tolist():
        paper.grant(slot, leaf[slot], "t")

    assert runs(found, tree, leaf) == paper.shortlists("t")


def test_the_oracle_itself_partitions_and_bounds_its_shortlists(clusters):
    tree, leaf = clusters
    paper = Curator(tree, SHAPE.max_shortlist)
    for slot in range(400):
        paper.grant(slot, leaf[slot], "t")
    lists = paper.shortlists("t")

    assert sorted(slot for held in lists.values() for slot in held) == list(range(400))
    assert all(len(held) <= SHAPE.max_shortlist or not paper.children(node) for node, held in lists.items())
    for slot in range(400):
        paper.revoke(slot, "t")
    assert paper.shortlists("t") == {}
    assert not any(paper.filters.values())
