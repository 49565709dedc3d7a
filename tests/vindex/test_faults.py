"""Kills, damaged files and rivals: what was acknowledged stays, what was revoked never comes back, no traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from llmsys.errors import BadInput
from llmsys.vindex import Corrupt, Index, Locked
from llmsys.vindex.check import faults
from llmsys.vindex.scan import Effort
from tests.vindex.conftest import SMALL, random_access

COMPACT_EVERY = 20


def seen_by(index, tenant):
    found = index.state.tenant(tenant)
    return set() if found is None else {index.state.store.ids[slot] for slot in found.members().tolist()}


def killed_apply(place, lines, after):
    """Start `apply`, kill it once `after` lines are acknowledged, and return what it acknowledged."""
    command = [sys.executable, "-m", "llmsys", "vindex", "apply", str(place), "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed():
        try:
            process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            process.stdin.flush()
        except BrokenPipeError:
            return

    feeder = threading.Thread(target=feed)
    feeder.start()
    acknowledged = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().splitlines(keepends=True)
    process.wait(timeout=60)
    feeder.join()
    process.stdin.detach()
    return [json.loads(line)["ref"] for line in acknowledged if line.endswith(b"\n")]


def run_of_kills(place, generator, rounds, changes):
    """Apply grants and revokes under kills; the state must be a prefix that holds everything acknowledged."""
    ids = sorted(Index.open(place).state.store.slot_of)
    held = seen_by(Index.open(place), "k")
    for number in range(1, rounds + 1):
        lines, states = [], [set(held)]
        for change in range(changes):
            one = int(generator.choice(ids))
            op = "revoke" if one in states[-1] else "grant"
            lines.append({"op": op, "id": one, "tenant": "k", "ref": change})
            states.append(states[-1] ^ {one})
        acknowledged = killed_apply(place, lines, int(generator.integers(0, changes * 5 // 8)))
        with Index.open(place, "w") as index:
            held = seen_by(index, "k")
            assert faults(index.state) == []
            assert acknowledged == list(range(len(acknowledged)))
            assert held in states[len(acknowledged) :]
            if number % COMPACT_EVERY == 0:
                index.compact()
                print(f"{number} kills")


def test_a_killed_apply_keeps_what_it_acknowledged(built, generator):
    index = built[0]
    index.close()

    run_of_kills(index.path, generator, 3, changes=4000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_kills_lose_nothing_that_was_acknowledged(built, generator):
    index = built[0]
    index.close()

    run_of_kills(index.path, generator, 1000, changes=600)


def test_a_log_cut_anywhere_opens_as_a_prefix(built, tmp_path):
    index, _, _ = built
    index.drop_tenant("t0")
    states = [seen_by(index, "t0")]
    for one in (4, 9, 4):
        index.revoke([one], "t0") if one in states[-1] else index.grant([one], "t0")
        states.append(seen_by(index, "t0"))
    index.close()
    log = index.path / "wal-1.log"
    whole = log.read_bytes()

    for size in range(len(whole) + 1):
        log.write_bytes(whole[:size])
        with Index.open(index.path) as reader:
            assert seen_by(reader, "t0") in [*states, {row for row in range(300) if "t0" in built[2][row]}]
            assert log.stat().st_size == size  # a reader writes nothing


def test_every_damaged_byte_of_an_index_is_refused_or_harmless(built):
    """`verify` finds every flip in a snapshot; without it, opening still never leaves the bounds of an array."""
    index = built[0]
    index.close()
    for path in sorted((index.path / "snap-1").iterdir()):
        whole = path.read_bytes()
        for at in np.linspace(0, len(whole) - 1, 12).astype(int).tolist():
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
            with pytest.raises(BadInput):
                Index.open(index.path, verify=True)
            try:
                opened = Index.open(index.path)
            except BadInput:
                continue
            opened.search(np.zeros((1, 7)), "t1", effort=Effort(20, 4))
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["manifest.json", "snap-1", "snap-1/lists.npy", "wal-1.log"])
def test_a_missing_part_is_named(built, damage):
    index = built[0]
    index.close()
    place = index.path / damage
    shutil.rmtree(place) if place.is_dir() else place.unlink()

    with pytest.raises((BadInput, Corrupt), match=damage.rpartition("/")[2]):
        Index.open(index.path)


def test_a_changed_manifest_does_not_pass(built):
    index = built[0]
    index.close()
    manifest = index.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"generation": 1', b'"generation": 2'))

    with pytest.raises(Corrupt, match="checksum"):
        Index.open(index.path)


def test_a_crash_during_compact_leaves_the_old_index(built):
    index = built[0]
    index.delete([1])
    index.close()
    shutil.copytree(index.path / "snap-1", index.path / "snap-2")  # killed before the manifest was renamed
    (index.path / "wal-2.log").touch()

    with Index.open(index.path, "w") as opened:
        assert len(opened) == 299
        assert not (index.path / "snap-2").exists()
        opened.compact()
        assert len(opened) == 299
    assert sorted(os.listdir(index.path)) == ["lock", "manifest.json", "snap-2", "wal-2.log"]


def test_one_writer_at_a_time(built):
    index = built[0]

    with pytest.raises(Locked, match=f"process {os.getpid()} is writing"):
        Index.open(index.path, "w")
    index.close()
    Index.open(index.path, "w").close()


def test_a_reader_outlives_the_compaction_that_removes_its_files(built):
    index, vectors, _ = built
    reader = Index.open(index.path)
    index.delete(range(100))
    index.compact(retrain=True)

    assert len(reader) == 300
    assert reader.search(vectors[:5], k=1, recall=None).ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(Index.open(index.path)) == 200


def test_a_failed_batch_keeps_what_came_before_the_fault(built):
    index = built[0]
    with index.batch():
        index.grant([1, 2, 3], "new")
        with pytest.raises(BadInput, match="4711"):
            index.grant([7, 4711], "new")

    assert seen_by(Index.open(index.path), "new") == {1, 2, 3}


def test_searches_never_return_what_the_tenant_does_not_see(tmp_path, generator):
    """20 000 answers while access shifts, each against the access of its moment."""
    vectors = generator.normal(size=(500, 6))
    access = random_access(generator, 500, tenants=8)
    queries = generator.normal(size=(50, 6))
    seen = {f"t{number}": {row for row in range(500) if f"t{number}" in access[row]} for number in range(8)}
    with Index.build(tmp_path / "idx", vectors, access=access, metric="l2", shape=SMALL) as index:
        for step in range(400):
            tenant, ids = f"t{step % 8}", generator.choice(500, 12).tolist()
            with index.batch():
                index.grant(ids[:5], tenant)
                index.revoke(ids[5:], tenant)
            seen[tenant] = (seen[tenant] | set(ids[:5])) - set(ids[5:])
            tenants = [f"t{number}" for number in generator.integers(0, 8, len(queries))]
            hits = index.search(queries, tenants, k=10, effort=Effort(20, 3))
            for row, name in zip(hits.ids.tolist(), tenants, strict=True):
                assert len(row) == 10
                assert set(row) - {-1} <= seen[name]
