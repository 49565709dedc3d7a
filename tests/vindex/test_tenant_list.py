"""A tenant's list holds the set that was put into it, in the order of leaves, and its tree splits it without a gap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmsys.vindex.cluster_tree import TreeShape, build_tree
from llmsys.vindex.tenant_list import TAIL, Run, TenantList
from llmsys.vindex.tenant_tree import CHILDREN, END, FIRST_CHILD, NODE, START, sort_keys, tenant_tree

SLOTS = 300
ANY = st.sets(st.integers(0, SLOTS - 1), max_size=120)
ONE = st.integers(0, SLOTS - 1)


class ListMachine(RuleBasedStateMachine):
    """A list beside a set."""

    @initialize(seed=st.integers(0, 1000))
    def start(self, seed):
        generator = np.random.default_rng(seed)
        vectors = generator.normal(size=(SLOTS, 3)).astype(np.float32)
        self.clusters, self.leaf = build_tree(vectors, TreeShape(3, 6, 4), seed=0)
        self.alive = np.ones(SLOTS, bool)
        self.held, self.list, self.deaths = set(), TenantList(), 0

    @rule(slots=ANY)
    def add(self, slots):
        fresh = sorted(slots - self.held - set(np.flatnonzero(~self.alive).tolist()))
        self.list.add(fresh, self.leaf)
        self.held |= set(fresh)

    @rule(slot=ONE)
    def remove(self, slot):
        assert self.list.remove(slot, self.leaf) == (slot in self.held)
        self.held.discard(slot)

    @rule(slots=ANY)
    def remove_all(self, slots):
        self.list.remove_all(sorted(slots), self.leaf)
        self.held -= slots

    @rule(slots=st.sets(ONE, max_size=20))
    def die(self, slots):
        gone = [slot for slot in slots if self.alive[slot]]
        self.alive[gone] = False
        self.deaths += len(gone)
        self.held -= set(gone)
        self.list.refresh(self.alive, self.deaths, self.leaf, 0)

    @rule(slots=ANY)
    def ask(self, slots):
        asked = sorted(slots)
        assert self.list.held(asked, self.leaf) == [slot in self.held for slot in asked]

    @invariant()
    def is_the_set(self):
        if not hasattr(self, "list"):
            return
        members = self.list.members().tolist()
        assert (sorted(members), len(self.list)) == (sorted(self.held), len(self.held))
        assert len(self.list.tail) <= TAIL
        assert (np.diff(sort_keys(self.leaf, self.list.slots)) > 0).all()
        run = self.list.run(self.clusters, self.leaf, 4)
        assert sorted(run.members().tolist()) == sorted(self.held)
        assert_tree_is_whole(self.clusters, self.leaf[self.list.slots], run.records, 4)


TestAList = ListMachine.TestCase
TestAList.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def assert_tree_is_whole(clusters, leaves, records, most):
    """Every node's children divide its run; every leaf of it is small or a leaf of the cluster tree."""
    assert records[0, [NODE, START, END]].tolist() == [0, 0, len(leaves)]
    for record in records.tolist():
        run = leaves[record[START] : record[END]]
        low, high = clusters.leaf_start[record[NODE]], clusters.leaf_end[record[NODE]]
        assert ((run >= low) & (run < high)).all()
        if record[CHILDREN]:
            below = records[record[FIRST_CHILD] :][: record[CHILDREN]]
            assert below[0, START] == record[START]
            assert below[-1, END] == record[END]
            assert (below[1:, START] == below[:-1, END]).all()
            assert (below[:, END] > below[:, START]).all()
            assert len(run) > most
        else:
            assert len(run) <= most or clusters.children[record[NODE]] == 0


@given(size=st.integers(0, SLOTS), most=st.integers(1, 40), seed=st.integers(0, 50))
def test_a_tree_of_any_list_is_whole(size, most, seed):
    generator = np.random.default_rng(seed)
    clusters, leaf = build_tree(generator.normal(size=(SLOTS, 2)).astype(np.float32), TreeShape(4, 5, 4), seed=0)
    leaves = np.sort(generator.choice(leaf, size, replace=False))

    assert_tree_is_whole(clusters, leaves, tenant_tree(clusters, leaves, most), most)


def test_a_run_that_was_given_out_never_changes():
    clusters, leaf = build_tree(np.random.default_rng(0).normal(size=(SLOTS, 2)).astype(np.float32), TreeShape(), 0)
    found = TenantList()
    found.add(list(range(100)), leaf)
    run = found.run(clusters, leaf, 8)
    before = (run.slots.copy(), run.tail.copy(), run.records.copy())

    found.add([150, 151], leaf)
    found.remove(5, leaf)
    found.remove_all(list(range(10, 60)), leaf)

    assert all(
        np.array_equal(one, other) for one, other in zip(before, (run.slots, run.tail, run.records), strict=True)
    )
    assert found.run(clusters, leaf, 8) is not run
    assert found.run(clusters, leaf, 8) is found.run(clusters, leaf, 8)


def test_a_run_of_a_view_with_gaps_is_refused():
    slots, none = np.arange(10, dtype=np.int32), np.zeros(0, np.int32)

    with pytest.raises(AssertionError, match="contiguous"):
        Run(slots[::2], none, none)


def test_lists_cost_four_bytes_a_slot_and_little_more():
    leaf = np.zeros(10_000, np.int32)
    sizes = []
    for count in (1000, 9000):
        found = TenantList()
        found.add(list(range(count)), leaf)
        sizes.append(found.list_bytes())

    assert sizes[1] - sizes[0] == 4 * 8000
    assert sizes[0] < 4 * 1000 + 400
