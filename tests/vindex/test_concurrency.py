"""Searches go on while another thread writes: each answer is right for a moment between its call and its return."""

import threading

import numpy as np

from llmsys.vindex import Index
from llmsys.vindex.scan import Effort
from llmsys.vindex.tenant_list import TenantList
from tests.vindex.conftest import SMALL, random_access


def test_every_answer_is_what_was_visible_at_the_version_that_it_names(tmp_path, generator):
    """One writer changes a tenant's access; three readers keep their answers, which are judged by the history."""
    vectors = generator.normal(size=(400, 6)).astype(np.float32)
    access = random_access(generator, 400, tenants=2)
    visible = {row for row in range(400) if "t0" in access[row]}
    history, stop, answers = {0: frozenset(visible)}, threading.Event(), []

    def write(index):
        turns = np.random.default_rng(1)
        for number in range(400):
            one = int(turns.integers(0, 400))
            if number % 7 == 0:
                new = 1000 + number
                index.add(turns.normal(size=(1, 6)), [new], [["t0"]])
                visible.add(new)
            elif one in visible:
                index.delete([one]) if number % 5 == 0 else index.revoke([one], "t0")
                visible.discard(one)
            elif one in index.state.store.slot_of:
                index.grant([one], "t0")
                visible.add(one)
            history[index.seq] = frozenset(visible)
        stop.set()

    def read(index, effort):
        while not stop.is_set():
            answers.append(index.search(vectors[:20], "t0", k=30, effort=effort, recall=None))

    with Index.build(tmp_path / "idx", vectors, access=access, metric="l2", shape=SMALL) as index, index.batch():
        efforts = (None, Effort(40, 10), Effort(40, 2))
        threads = [threading.Thread(target=read, args=(index, effort)) for effort in efforts]
        for thread in threads:
            thread.start()
        write(index)
        for thread in threads:
            thread.join()

    assert len(history) > 300
    assert len(answers) >= 3
    for hits in answers:
        for row in hits.ids.tolist():
            assert len(set(row)) == 30
            assert set(row) <= history[hits.seq]


def test_a_list_is_not_called_purged_before_it_is():
    """Found by the fuzz: while a compaction purged a list, a search took it for purged and saw deleted vectors."""
    found, alive, seen = TenantList(np.arange(4, dtype=np.int32)), np.array([True, False, True, True]), []

    class Watched:
        def __getitem__(self, slots):
            seen.append((found.purged, found.slots.tolist()))
            return alive[slots]

    found.refresh(Watched(), dead=1, leaf=np.zeros(4, np.int32), splits=0)

    assert seen == [(0, [0, 1, 2, 3])]
    assert (found.purged, found.slots.tolist()) == (1, [0, 2, 3])


def test_a_search_taken_before_a_revoke_answers_as_of_its_own_moment(tmp_path, generator):
    """What a search holds is not touched by deletions, splits, a compaction or a retraining that come after it."""
    vectors = generator.normal(size=(300, 4)).astype(np.float32)
    with Index.build(tmp_path / "idx", vectors, access=[["a"]] * 300, metric="l2", shape=SMALL) as index:
        asked = index.asked(vectors[:30], "a", k=3, recall=None)
        before = asked.hits().ids.tolist()
        index.revoke(range(100), "a")
        index.add(generator.normal(size=(200, 4)), range(300, 500), [["a"]] * 200)
        index.delete(range(100, 200))
        index.compact(retrain=True)

        assert asked.hits().ids.tolist() == before
        assert index.search(vectors[:30], "a", k=3, recall=None).ids.min() >= 200
