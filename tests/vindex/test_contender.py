"""Peers answer the queries that they are asked under the visibility that the trial gives them."""

import numpy as np
import pytest

from llmsys.errors import Unavailable
from llmsys.vindex.contender import Trial, each_built, file_bytes, names_of, one_by_one, padded
from llmsys.vindex.faiss_peers import FAISS_PEERS
from llmsys.vindex.other_peers import OTHER_PEERS
from llmsys.vindex.workload import Workload
from tests.vindex.conftest import random_access

EXACT = {"faiss flat per tenant": "", "sqlite-vec": "exact", "Qdrant local": "exact"}


@pytest.fixture(scope="module")
def trial():
    generator = np.random.default_rng(8)
    vectors = generator.normal(size=(240, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    access = random_access(generator, 200)
    work = Workload(vectors[:200], access, vectors[200:], [f"t{number % 5}" for number in range(40)])
    return Trial(work, 7, {"few": np.array([3, 50]), "half": np.arange(0, 200, 2)})


def truth(trial, number):
    rows = trial.visible(number)
    near = trial.work.vectors[rows].astype(np.float64) @ trial.query(number)[0].astype(np.float64)
    return rows[np.argsort(-near, kind="stable")][: trial.k].tolist()


def test_labels_are_asked_behind_the_workload_s_own_queries(trial):
    assert {name: len(numbers) for name, numbers in trial.groups.items()} == {"own tenants": 40, "few": 40, "half": 40}
    assert sorted(number for numbers in trial.groups.values() for number in numbers) == list(range(120))
    assert {trial.tenant(number) for number in trial.groups["few"]} == {"few"}
    assert np.array_equal(trial.query(41), trial.work.queries[1:2])
    assert trial.visible(45).tolist() == [3, 50]
    assert trial.grants == sum(map(len, trial.work.access))


def test_names_of_vectors_are_tenants_and_labels(trial):
    names = names_of(trial)

    assert names[3] == [*trial.work.access[3], "few"]
    assert names[50] == [*trial.work.access[50], "few", "half"]
    assert names[51] == trial.work.access[51]


def test_answers_are_padded_to_k():
    assert padded(np.array([4, 5]), 4).tolist() == [4, 5, -1, -1]
    assert padded(np.array([4, 5, 6]), 2).tolist() == [4, 5]
    assert one_by_one(np.arange, 2)([0, 1, 2]).tolist() == [[-1, -1], [0, -1], [0, 1]]


def test_a_structure_is_built_for_every_tenant_and_label(trial):
    made, seconds = each_built(trial, len)

    assert made == {name: len(rows) for name, rows in (trial.rows | trial.labels).items()}
    assert seconds >= 0


def test_files_are_counted_below_every_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"123")
    (tmp_path / "a" / "b" / "y").write_bytes(b"45")

    assert file_bytes(tmp_path) == 5


@pytest.mark.parametrize("peer", [*FAISS_PEERS, *OTHER_PEERS], ids=lambda peer: peer.name)
def test_a_peer_returns_what_the_tenant_sees_and_nothing_else(trial, peer):
    numbers = [*range(5), *trial.groups["few"][:2], *trial.groups["half"][:2]]
    try:
        contenders = list(_answered(trial, peer, numbers))
    except Unavailable as error:
        pytest.skip(str(error))

    for setting, found in contenders:
        assert found.shape == (len(numbers), trial.k)
        for number, row in zip(numbers, found.tolist(), strict=True):
            assert set(row) - {-1} <= set(trial.visible(number).tolist())
            if EXACT.get(peer.name) == setting:
                assert [one for one in row if one >= 0] == truth(trial, number)


def _answered(trial, peer, numbers):
    """Setting and answers of each contender, asked while it is there."""
    from llmsys.gpu import require

    require(peer.package)
    for contender in peer.contenders(trial):
        assert contender.overhead_bytes > -trial.work.vectors.nbytes
        yield contender.setting, contender.answers(numbers)
