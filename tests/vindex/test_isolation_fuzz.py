"""No tenant sees a vector that it was not granted: answers under a random history, each judged at its own version.

One thread grants, revokes, adds, replaces, deletes, drops, compacts and retrains; others search, in this index and in
ones opened from its files meanwhile, exactly and approximately, with and without predicates.
"""

import threading
from bisect import bisect_right

import numpy as np
import pytest

from llmsys.vindex import Index
from llmsys.vindex.check import faults
from llmsys.vindex.scan import Effort
from tests.vindex.conftest import SMALL

TENANTS = [f"t{number}" for number in range(12)]
DIM, BATCH, GROUP = 6, 100, 20


class History:
    """Who could see what after every operation."""

    def __init__(self):
        self.seqs = {name: [0] for name in TENANTS}
        self.sets = {name: [frozenset()] for name in TENANTS}

    def put(self, seq, name, visible):
        self.seqs[name].append(seq)
        self.sets[name].append(frozenset(visible))

    def at(self, seq, name):
        return self.sets[name][bisect_right(self.seqs[name], seq) - 1]


def write(index, generator, history, visible, live, steps):
    """Random changes; `visible` maps a tenant to its ids, `live` has all ids, `history` keeps every version."""
    for _ in range(steps):
        name = TENANTS[int(generator.integers(0, len(TENANTS)))]
        ids = [int(one) for one in generator.integers(0, 400, int(generator.integers(1, 8)))]
        ids = list(dict.fromkeys(ids))
        there = [one for one in ids if one in live]
        kind = generator.choice(
            ["add", "grant", "revoke", "delete", "drop", "compact"], p=[0.3, 0.3, 0.3, 0.08, 0.015, 0.005]
        )
        if kind == "add":
            names = [str(one) for one in generator.choice(TENANTS, 2, replace=False)]
            index.add(generator.normal(size=(len(ids), DIM)), ids, [names] * len(ids), upsert=True)
            for other in TENANTS:
                visible[other] = (visible[other] - set(ids)) | (set(ids) if other in names else set())
            live |= set(ids)
        elif kind == "grant":
            index.grant(there, name)
            visible[name] = visible[name] | set(there)
        elif kind == "revoke":
            index.revoke(there, name)
            visible[name] = visible[name] - set(there)
        elif kind == "delete":
            index.delete(there)
            for other in TENANTS:
                visible[other] = visible[other] - set(there)
            live -= set(there)
        elif kind == "drop":
            alone = visible[name] - set().union(*(visible[other] for other in TENANTS if other != name))
            index.drop_tenant(name, orphans="delete")
            live -= alone
            visible[name] = set()
        else:
            index.compact(retrain=bool(generator.integers(0, 2)))
        for other in TENANTS:
            if visible[other] != history.sets[other][-1]:
                history.put(index.seq, other, visible[other])


def ask(index, generator):
    """One call of BATCH searches by random tenants; what is needed to judge it."""
    names = [str(one) for one in generator.choice(TENANTS, BATCH)]
    effort = [None, Effort(20, 2), Effort(60, 20)][int(generator.integers(0, 3))]
    label = str(generator.choice(TENANTS))
    where = [None, None, label, f"NOT {label}"][int(generator.integers(0, 4))]
    hits = index.search(generator.normal(size=(BATCH, DIM)), names, k=10, where=where, effort=effort, recall=None)
    return names, where, hits


def foreign(history, names, where, hits):
    """Ids in answers that their tenants could not see, or that the predicate excludes, at the answers' version."""
    wrong = []
    for name, row in zip(names, hits.ids.tolist(), strict=True):
        allowed = history.at(hits.seq, name)
        if where is not None:
            label = history.at(hits.seq, where.removeprefix("NOT "))
            allowed = allowed - label if where.startswith("NOT ") else allowed & label
        found = [one for one in row if one >= 0]
        wrong += [one for one in found if one not in allowed]
        wrong += ["short"] * (len(found) != min(10, len(allowed)))
    return wrong


def fuzz(place, searches, steps, dtype="f32"):
    """Run one history with three searching threads; the number of searches judged, and what was wrong in them."""
    history, visible = History(), {name: set() for name in TENANTS}
    stop, kept, broken, asked = threading.Event(), [[], [], []], [], threading.Semaphore(0)
    index = Index.build(place, np.zeros((0, DIM)), metric="l2", dtype=dtype, shape=SMALL)
    most = min(20 * searches, 2_000_000)

    def read(number):
        generator = np.random.default_rng(100 + number)
        while not broken and (not stop.is_set() or sum(map(len, kept)) * BATCH < searches):
            if sum(map(len, kept)) * BATCH > most and not stop.wait(0.01):
                continue  # enough is kept: the writer has the machine to itself
            target = Index.open(place) if number == 2 else index
            for _ in range(5):
                kept[number].append(ask(target, generator))
                asked.release()

    def work():
        generator, live = np.random.default_rng(7), set()
        for _ in range(steps // GROUP):
            asked.acquire()  # the history moves on only as searches are made
            with index.batch():
                write(index, generator, history, visible, live, GROUP)

    def guarded(task, *arguments):
        try:
            task(*arguments)
        except BaseException as error:
            broken.append(error)
        finally:
            if task is work or broken:
                stop.set()
                asked.release(steps)

    threads = [threading.Thread(target=guarded, args=(work,))]
    threads += [threading.Thread(target=guarded, args=(read, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert faults(index.state) == []
    index.close()
    answers = [answer for part in kept for answer in part]
    versions = len({hits.seq for _, _, hits in answers})
    return len(answers) * BATCH, versions, [one for answer in answers for one in foreign(history, *answer)]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_no_answer_holds_a_foreign_vector(tmp_path, dtype):
    searches, versions, wrong = fuzz(tmp_path / "idx", searches=8_000, steps=800, dtype=dtype)

    assert searches >= 8_000
    assert versions > 10
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_answer_of_a_million_holds_a_foreign_vector(tmp_path):
    searches, versions, wrong = fuzz(tmp_path / "idx", searches=1_000_000, steps=40_000)

    print(f"{searches} searches over {versions} versions: {len(wrong)} wrong")
    assert searches >= 1_000_000
    assert versions > 100
    assert wrong == []
