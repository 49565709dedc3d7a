"""The head names one snapshot and one log; what it does not name is nobody's; the lock has one holder."""

import json
import os
import subprocess
import sys
import threading

import msgspec
import pytest

from llmsys.errors import BadInput
from llmsys.vindex import Corrupt, Index, Locked
from llmsys.vindex.index_files import Head, PlanRecord, lock, read_head, read_state, remove_strays, write_head

PLAN = PlanRecord(0.95, 10, 64, 20, 8, 0.97, 0.96, 1000)


@pytest.fixture
def place(built):
    built[0].close()
    return built[0].path


def test_a_head_is_read_as_it_was_written(tmp_path):
    head = Head("vindex", 1, 7, (PLAN,))
    write_head(tmp_path, head)

    found = read_head(tmp_path)

    assert (found.generation, found.plans, found.snapshot, found.log) == (7, (PLAN,), "snap-7", "wal-7.log")


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"generation": 2}, Corrupt, "checksum"),
        ({"kind": "sketch"}, BadInput, "'sketch' version 1; expected 'vindex' version 1"),
        ({"version": 9}, BadInput, "version 9"),
        ({"checksum": ""}, Corrupt, "checksum"),
        ({"plans": [{"recall": 1.0}]}, BadInput, "plans"),
        ({"generation": "one"}, BadInput, "generation"),
    ],
)
def test_a_changed_head_is_refused(place, change, error, named):
    path = place / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(error, match=named):
        read_head(place)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"null", b"[]"])
def test_a_head_that_is_none_is_refused(place, text):
    (place / "manifest.json").write_bytes(text)

    with pytest.raises(BadInput, match=r"manifest\.json"):
        read_head(place)


def test_a_place_without_an_index_is_told_from_one_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"no manifest\.json"):
        read_head(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_head(tmp_path / "nowhere")


def test_strays_go_and_what_the_head_names_stays(place):
    kept = set(os.listdir(place))
    for name in ("snap-2", "snap-0", ".snap-3.abc.tmp"):
        (place / name).mkdir()
        (place / name / "x.npy").write_bytes(b"1")
    for name in ("wal-2.log", ".manifest.json.abc.tmp", "wal-0.log"):
        (place / name).write_bytes(b"1")
    (place / "notes.txt").write_text("a user's own")

    remove_strays(place, read_head(place))

    assert set(os.listdir(place)) == kept | {"notes.txt"}


def test_opening_for_reading_writes_nothing(place):
    for name in ("snap-2", "wal-2.log"):
        (place / name).mkdir()
    before = {path: path.stat().st_mtime_ns for path in sorted(place.rglob("*"))}

    Index.open(place).close()
    read_state(place, verify=True)

    assert {path: path.stat().st_mtime_ns for path in sorted(place.rglob("*"))} == before


def test_a_lock_names_its_holder_and_a_dead_holder_s_is_free(place):
    script = "import sys, time; from pathlib import Path; from llmsys.vindex.index_files import lock\n"
    script += "held = lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(place)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"

    with pytest.raises(Locked, match=f"process {other.pid} is writing"):
        lock(place, 0.05)
    other.kill()
    other.communicate()
    os.close(lock(place))


def test_who_waits_gets_the_lock_when_it_is_given_back(place):
    first, got = lock(place), []
    waiting = threading.Thread(target=lambda: got.append(lock(place, 600)))
    waiting.start()
    os.close(first)
    waiting.join(timeout=60)

    assert len(got) == 1
    os.close(got[0])


def test_a_failed_opening_gives_the_lock_back(place):
    (place / "snap-1" / "leaf.npy").write_bytes(b"")
    with pytest.raises(BadInput):
        Index.open(place, "w")

    os.close(lock(place))


def test_plans_take_the_place_of_those_for_the_same_recall(built):
    index = built[0]
    other = msgspec.structs.replace(PLAN, recall=0.9)
    index.keep_plans([PLAN, other])

    index.keep_plans([msgspec.structs.replace(PLAN, width=99)])

    assert [(plan.recall, plan.width) for plan in index.plans] == [(0.9, 20), (0.95, 99)]
    assert Index.open(index.path).plans == index.plans
