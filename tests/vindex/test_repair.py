"""Repair brings back what follows from other parts, and refuses, changing nothing, what would be a guess."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from llmsys.errors import BadInput
from llmsys.vindex import Corrupt, Index, Locked
from llmsys.vindex.check import check_index
from llmsys.vindex.exchange import export_lines
from llmsys.vindex.index_files import lock
from llmsys.vindex.repair import repair_index
from llmsys.vindex.snapshot import DERIVED
from tests.vindex.conftest import SMALL, random_access

AUTHORITY = ("names.json", "ids.npy", "lists.npy", "list_ends.npy", "manifest.json")


def content(path):
    return list(export_lines(Index.open(path), None, None))


def files(path):
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.fixture
def stored(built):
    """A closed index with changes in its log; its path, what it holds, and its files."""
    index = built[0]
    index.delete([3])
    index.grant(range(20, 40), "late")
    index.revoke([21], "late")
    index.add(np.ones((2, 7)), [900, 901], [["t0"], ["late"]])
    index.close()
    (index.path / "lock").unlink()
    return index.path, content(index.path), files(index.path)


def flip(path, at):
    whole = bytearray(path.read_bytes())
    whole[at] ^= 0x81
    path.write_bytes(whole)


DAMAGES = {
    "flipped": lambda path: flip(path, -5),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", DERIVED)
def test_what_follows_from_the_vectors_is_made_anew(stored, name, damage):
    path, held, _ = stored
    DAMAGES[damage](path / "snap-1" / f"{name}.npy")
    damaged = files(path)

    done = repair_index(path)

    assert f"{name}.npy" in done.actions[0]
    assert (done.dropped, content(path)) == ([], held)
    assert check_index(path, deep=True)[1] == []
    assert {name: data for name, data in files(path.with_name("idx.damaged")).items() if name != "lock"} == damaged


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", AUTHORITY)
def test_who_may_see_what_is_never_guessed(stored, name, damage):
    path = stored[0]
    DAMAGES[damage](path / "snap-1" / name)
    damaged = files(path)

    with pytest.raises(Corrupt, match="vindex snapshot"):
        repair_index(path)

    assert {name: data for name, data in files(path).items() if name != "lock"} == damaged
    assert not path.with_name("idx.damaged").exists()


def test_a_bad_record_before_good_ones_is_refused(stored):
    flip(stored[0] / "wal-1.log", 40)

    with pytest.raises(Corrupt, match="record 2 is damaged"):
        repair_index(stored[0])


def test_a_torn_record_is_cut_off(stored):
    path, held, _ = stored
    with (path / "wal-1.log").open("ab") as log:
        log.write(b"\x40\0\0\0unfinished")
    assert check_index(path, deep=False)[1] != []

    done = repair_index(path)

    assert done.actions == ["14 bytes of an unfinished change cut off the log"]
    assert (content(path), check_index(path, deep=True)[1]) == (held, [])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_head_is_found_again(stored, damage):
    path, held, _ = stored
    DAMAGES[damage](path / "manifest.json")

    done = repair_index(path)

    assert "manifest made anew" in done.actions[0]
    assert (content(path), len(done.actions)) == (held, 1)


def test_a_head_lost_in_a_compaction_is_that_of_the_whole_snapshot(stored):
    path, held, _ = stored
    with Index.open(path, "w") as index:
        index.compact()
    (path / "manifest.json").unlink()
    (path / "snap-9").mkdir()  # a directory without a log is nobody's

    repair_index(path)

    assert content(path) == held


def test_damaged_vectors_are_told_by_their_codes_and_dropped(stored):
    path, held, _ = stored
    rows = np.load(path / "snap-1" / "vectors.npy", mmap_mode="r+")
    names = np.load(path / "snap-1" / "ids.npy")
    gone = {int(names[slot]) for slot in (5, 100, 250)}
    rows[5, 2], rows[100, 0], rows[250] = np.nan, np.inf, rows[249]
    rows.flush()

    done = repair_index(path)

    assert set(done.dropped) == gone
    assert content(path) == [record for record in held if record.id not in gone]
    assert check_index(path, deep=True)[1] == []


def test_vectors_and_codes_that_are_both_damaged_are_refused(stored):
    for name in ("vectors", "codes"):
        flip(stored[0] / "snap-1" / f"{name}.npy", -5)

    with pytest.raises(Corrupt, match="their codes too"):
        repair_index(stored[0])


def test_changes_of_the_log_to_a_dropped_vector_are_passed_over(stored):
    path, held, _ = stored
    names = np.load(path / "snap-1" / "ids.npy")
    rows = np.load(path / "snap-1" / "vectors.npy", mmap_mode="r+")
    rows[np.isin(names, [3, 21, 25])] += 1
    rows.flush()

    done = repair_index(path)

    assert set(done.dropped) == {3, 21, 25}
    assert content(path) == [record for record in held if record.id not in {3, 21, 25}]


def test_any_flipped_byte_is_refused_or_repaired_without_a_grant_too_many(stored, generator):
    path, held, whole = stored
    granted = {record.id: set(record.tenants) for record in held}
    values = {record.id: record.vector for record in held}
    for name in sorted(whole):
        for at in generator.integers(0, len(whole[name]), 3).tolist():
            shutil.rmtree(path)
            for other, data in whole.items():
                (path / other).parent.mkdir(parents=True, exist_ok=True)
                (path / other).write_bytes(data)
            flip(path / name, at)
            try:
                repair_index(path)
            except BadInput:
                continue
            found = content(path)
            assert check_index(path, deep=True)[1] == []
            assert {record.id for record in found} <= set(granted)
            for record in found:
                assert set(record.tenants) == granted[record.id]
                gap = np.abs(np.subtract(record.vector, values[record.id])).max()
                assert gap <= 1.01 * np.abs(values[record.id]).max() / 127 + 0.1


def test_a_sound_index_is_left_alone(stored):
    path, _, whole = stored

    done = repair_index(path)

    assert (done.actions, done.copy) == ([], None)
    assert {name: data for name, data in files(path).items() if name != "lock"} == whole


def test_a_second_damage_gets_a_copy_of_its_own(stored):
    copies = []
    for generation in (1, 2):
        flip(stored[0] / f"snap-{generation}" / "codes.npy", -1)
        copies.append(repair_index(stored[0]).copy)

    assert [one.rpartition("/")[2] for one in copies] == ["idx.damaged", "idx.damaged-2"]


def test_an_index_that_is_being_written_is_not_repaired(stored):
    descriptor = lock(stored[0])
    with pytest.raises(Locked):
        repair_index(stored[0])
    os.close(descriptor)


def test_a_repair_killed_at_any_write_leaves_the_damaged_index_or_the_repaired_one(tmp_path, generator):
    vectors, access = generator.normal(size=(60, 4)), random_access(generator, 60)
    Index.build(tmp_path / "idx", vectors, None, access, metric="l2", shape=SMALL).close()
    held = content(tmp_path / "idx")
    flip(tmp_path / "idx" / "snap-1" / "codes.npy", -5)
    script = (
        "import os, signal, sys; from pathlib import Path; from llmsys.vindex.repair import repair_index\n"
        "left = int(sys.argv[2])\n"
        "def look(event, args):\n"
        "    global left\n"
        "    left -= event.startswith(('open', 'os.')) and str(args[:1]).find(sys.argv[1]) >= 0\n"
        "    if left == 0: left = -1; os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(look)\n"
        "repair_index(Path(sys.argv[1]))\n"
    )
    killed, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        place = tmp_path / f"try{killed}"
        shutil.copytree(tmp_path / "idx", place)
        command = [sys.executable, "-c", script, str(place), str(10 + 45 * killed)]
        ended = subprocess.run(command, check=False).returncode
        repair_index(place)
        assert content(place) == held
        assert check_index(place, deep=True)[1] == []
        killed += ended == -signal.SIGKILL

    assert (ended, killed >= 3) == (0, True)
