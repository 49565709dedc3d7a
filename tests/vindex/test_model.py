"""Any sequence of operations leaves the index as a dict and brute force say (invariants 1, 2, 5, 6, 7 and 10)."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmsys.vindex import Index, TreeShape
from llmsys.vindex.check import faults
from llmsys.vindex.scan import Effort
from tests.vindex.conftest import brute_force

SHAPE = TreeShape(branching=3, max_leaf=4, max_shortlist=3)
TENANTS = st.sampled_from(["ann", "bob", "cleo"])
NUMBERS = st.integers(0, 30)
VECTORS = st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(1, 3))


class Machine(RuleBasedStateMachine):
    """An index beside `self.vectors` (id -> vector) and `self.seen` (id -> tenants)."""

    def __init__(self):
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.vectors, self.seen = {}, {}

    @initialize(
        metric=st.sampled_from(["l2", "ip", "cosine"]),
        dtype=st.sampled_from(["f32", "f16"]),
        text=st.booleans(),
        rows=st.lists(VECTORS, max_size=40),
    )
    def build(self, metric, dtype, text, rows):
        self.metric, self.text, self.error = metric, text, 1e-6 if dtype == "f32" else 2e-3
        self.vectors = {self.name(row): list(vector) for row, vector in enumerate(rows)}
        self.seen = {one: {"ann"} if row % 2 else {"ann", "bob"} for row, one in enumerate(self.vectors)}
        values = np.array(list(self.vectors.values()), np.float32).reshape(-1, 3)
        access = [sorted(self.seen[one]) for one in self.vectors]
        ids = list(self.vectors) or None
        self.index = Index.build(self.place / "idx", values, ids, access, metric=metric, dtype=dtype, shape=SHAPE)

    def name(self, number):
        return f"v{number:02}" if self.text else number

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
        shutil.rmtree(self.place)

    @rule(numbers=st.sets(NUMBERS, min_size=1, max_size=8), vector=VECTORS, tenants=st.sets(TENANTS))
    def upsert(self, numbers, vector, tenants):
        ids = [self.name(number) for number in sorted(numbers)]
        self.index.add(np.array([vector] * len(ids)), ids, [sorted(tenants)] * len(ids), upsert=True)
        self.vectors |= {one: list(vector) for one in ids}
        self.seen |= {one: set(tenants) for one in ids}

    @rule(number=NUMBERS, vector=VECTORS)
    def move(self, number, vector):
        one = self.name(number)
        self.index.add(np.array([vector]), [one], upsert=True)
        self.vectors[one] = list(vector)
        self.seen.setdefault(one, set())

    @rule(numbers=st.sets(NUMBERS, max_size=8))
    def delete(self, numbers):
        ids = {self.name(number) for number in numbers}
        changed = self.index.delete(ids, skip_missing=True)
        assert changed == {"deleted": len(ids & set(self.vectors)), "missing": len(ids - set(self.vectors))}
        for one in ids:
            self.vectors.pop(one, None)
            self.seen.pop(one, None)

    @rule(numbers=st.sets(NUMBERS), tenant=TENANTS)
    def grant(self, numbers, tenant):
        ids = {self.name(number) for number in numbers}
        there = ids & set(self.vectors)
        already = sum(tenant in self.seen[one] for one in there)
        changed = self.index.grant(ids, tenant, skip_missing=True)
        assert changed == {"granted": len(there) - already, "already": already, "missing": len(ids) - len(there)}
        for one in there:
            self.seen[one].add(tenant)

    @rule(numbers=st.sets(NUMBERS), tenant=TENANTS)
    def revoke(self, numbers, tenant):
        ids = {self.name(number) for number in numbers}
        self.index.revoke(ids, tenant, skip_missing=True)
        for one in ids & set(self.vectors):
            self.seen[one].discard(tenant)

    @rule(tenant=TENANTS, orphans=st.sampled_from(["keep", "delete"]))
    def drop(self, tenant, orphans):
        held = sum(tenant in names for names in self.seen.values())
        alone = [one for one, names in self.seen.items() if names == {tenant} and orphans == "delete"]
        assert self.index.drop_tenant(tenant, orphans=orphans) == {"revoked": held, "deleted": len(alone)}
        for one in alone:
            del self.vectors[one], self.seen[one]
        for names in self.seen.values():
            names.discard(tenant)

    @rule(retrain=st.booleans())
    def compact(self, retrain):
        self.index.compact(retrain=retrain)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = Index.open(self.place / "idx", "w")

    @precondition(lambda self: self.vectors)
    @rule(tenant=TENANTS, query=VECTORS, k=st.integers(1, 12))
    def search(self, tenant, query, k):
        seen = [one for one in self.vectors if tenant in self.seen[one]]
        values = [self.vectors[one] for one in seen]
        found = self.index.search(np.array([query]), tenant, k=k, recall=None)
        fast = self.index.search(np.array([query]), tenant, k=k, effort=Effort(1, 1))

        assert len(fast.row(0)[0]) == min(k, len(seen))
        assert set(fast.row(0)[0]) <= set(seen)
        if seen and self.metric != "cosine":  # small integers: float64 and float32 give the same ties
            right = brute_force(values, seen, query, k, self.metric)
            assert found.row(0) == (right[0], right[1])
        elif seen:
            right = brute_force(values, seen, query, k, self.metric)
            np.testing.assert_allclose(found.row(0)[1], right[1], atol=self.error)

    @invariant()
    def holds_what_it_should(self):
        if not hasattr(self, "index"):
            return
        state = self.index.state
        assert faults(state) == []
        assert len(self.index) == len(self.vectors)
        assert set(state.store.slot_of) == set(self.vectors)
        for tenant in ("ann", "bob", "cleo"):
            found = state.tenant(tenant)
            ids = [] if found is None else [state.store.ids[slot] for slot in found.members().tolist()]
            assert sorted(ids) == sorted(one for one in self.seen if tenant in self.seen[one])


TestAgainstADict = Machine.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
