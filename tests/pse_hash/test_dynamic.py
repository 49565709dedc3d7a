"""Points that come, go and move, in any order: a sketch is what a dict of the same points says it is."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmsys.pse_hash import DuplicateId, PairwiseSum, Settings, UnknownId
from llmsys.pse_hash.files import open_sketch, save
from tests.pse_hash.oracle import log_means

DIM = 3
NAMES = st.sampled_from("abcdefghij")
PLACES = st.lists(st.floats(-4, 4, width=16), min_size=DIM, max_size=DIM)
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])
ASKED = np.array([[0.0, 0, 0], [1, -1, 2]])


class Points(RuleBasedStateMachine):
    """A sketch with every structure over it, beside a dict of id to place and weight."""

    @initialize(kernel=st.sampled_from(["gaussian", "laplacian", "dot"]), directory=st.uuids())
    def start(self, kernel, directory):
        self.model = {}
        self.directory = directory
        # sphere caps need a direction, so hashing stands beside the kernels of distances alone
        self.structures = ["strat", "deann", "rs"] + (["hbe"] if kernel != "dot" else [])
        made = Settings(kernel, 0.7, eps=0.2, tau=1e-9, robust="none", tables=3, seed=1)
        self.sketch = PairwiseSum.build(np.zeros((0, DIM)), made)
        for name in self.structures:
            self.sketch.source(name)

    @rule(name=NAMES, place=PLACES, weight=WEIGHTS)
    def insert(self, name, place, weight):
        if name in self.model:
            with pytest.raises(DuplicateId):
                self.sketch.insert([name], np.array([place]), np.array([weight]))
        else:
            self.sketch.insert([name], np.array([place]), np.array([weight]))
            self.model[name] = (place, weight)

    @rule(name=NAMES)
    def delete(self, name):
        if name in self.model:
            self.sketch.delete([name])
            del self.model[name]
        else:
            with pytest.raises(UnknownId):
                self.sketch.delete([name])

    @precondition(lambda self: self.model)
    @rule(data=st.data(), place=PLACES)
    def replace(self, data, place):
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.sketch.replace([name], np.array([place]))
        self.model[name] = (place, self.model[name][1])

    @rule()
    def save_and_open(self):
        place = self.tmp / str(self.directory)
        save(self.sketch, place, overwrite=True)
        self.sketch = open_sketch(place, verify=True).sketch
        for name in self.structures:
            self.sketch.source(name)

    @invariant()
    def sums_are_those_of_the_dict(self):
        found = self.sketch.query(ASKED, method="exact")
        assert self.sketch.count == len(self.model) == int(found.count[0])
        if not self.model:
            assert (found.value == 0).all()
            return
        places = np.array([place for place, _ in self.model.values()])
        weights = np.array([weight for _, weight in self.model.values()])
        kernel = self.sketch.settings
        np.testing.assert_allclose(
            found.log_value, log_means(ASKED, places, kernel.kernel, kernel.scale, weights), atol=2e-5
        )

    @invariant()
    def every_structure_holds_each_live_point_once(self):
        live = {self.sketch.points.slot_of[name] for name in self.model}
        for name in self.structures:
            source = self.sketch.source(name)
            source.at(np.ones(DIM), 0)
            for buckets in structures_of(source):
                for table in range(len(buckets.home)):
                    held = [slot for bucket in buckets_of(buckets, table) for slot in buckets.members(bucket).tolist()]
                    assert sorted(held) == sorted(live)
                    assert all(slot in buckets.members(int(buckets.home[table, slot])) for slot in live)


def structures_of(source):
    """The bucket sets of a structure: one of clusters, one for each copy of hash tables, none of a plain list."""
    if hasattr(source, "buckets"):
        return [source.buckets]
    return [copy.buckets for copy in getattr(source, "_copies", {}).values()]


def buckets_of(buckets, table):
    """Every bucket that some live slot of this table calls its home, and the empty ones."""
    homes = set(buckets.home[table].tolist())
    return [bucket for bucket in range(len(buckets.size)) if bucket in homes and buckets.size[bucket]]


@pytest.fixture(autouse=True)
def room(tmp_path):
    Points.tmp = tmp_path


def test_any_history_leaves_what_a_dict_of_the_same_points_holds():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Points, settings=settings(max_examples=30, stateful_step_count=25))
