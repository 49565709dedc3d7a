"""Directories with a manifest: whole or not at all, and every fault found and named."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import MANIFEST_NAME, directory, open_directory, write_directory
from llmsys.errors import BadInput

FILES = {"points.npy": b"points", "leaf/ids": b"ids", "empty": b""}


def fill(place, files=None):
    for name, content in (FILES if files is None else files).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "idx"
    with write_directory(path, kind="index", version=2) as place:
        fill(place)
    return path


def alter_manifest(path, **changes):
    manifest = json.loads((path / MANIFEST_NAME).read_bytes())
    (path / MANIFEST_NAME).write_text(json.dumps(manifest | changes))


def test_a_directory_opens_with_its_version_and_files(index):
    manifest = open_directory(index, kind="index", version=3)

    assert (manifest.kind, manifest.version) == ("index", 2)
    assert {name: entry.bytes for name, entry in manifest.files.items()} == {"empty": 0, "leaf/ids": 3, "points.npy": 6}
    assert [entry.name for entry in index.parent.iterdir()] == ["idx"]


@settings(deadline=None)
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}/?[a-z]{1,8}\.x", fullmatch=True), st.binary(max_size=99), max_size=4
    )
)
def test_any_files_open_again(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("dir") / "d"
    with write_directory(path, kind="k", version=1) as place:
        fill(place, files)
    manifest = open_directory(path, kind="k", version=1)

    assert {name: (path / name).read_bytes() for name in manifest.files} == files


def test_the_manifest_is_the_same_bytes_each_time(tmp_path):
    for name in "ab":
        with write_directory(tmp_path / name, kind="k", version=1) as place:
            fill(place)

    assert (tmp_path / "a" / MANIFEST_NAME).read_bytes() == (tmp_path / "b" / MANIFEST_NAME).read_bytes()


def test_a_changed_byte_is_found(index):
    (index / "points.npy").write_bytes(b"pOints")

    with pytest.raises(BadInput, match=r"points\.npy: checksum \w+…; expected \w+…, as the manifest says"):
        open_directory(index, kind="index", version=2)
    assert open_directory(index, kind="index", version=2, verify=False).version == 2


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "points.npy").write_bytes(b"pts"), r"points\.npy: 3 bytes; expected 6"),
        (lambda path: (path / "leaf/ids").unlink(), "leaf/ids: missing"),
        (lambda path: (path / "leaf/new").touch(), "leaf/new: not in the manifest"),
        (lambda path: (path / "link").symlink_to("/etc"), "link: a link or a device"),
        (lambda path: os.mkfifo(path / "pipe"), "pipe: a link or a device"),
        (lambda path: (path / MANIFEST_NAME).unlink(), "no manifest.json; expected a directory that llmsys wrote"),
        (lambda path: (path / MANIFEST_NAME).write_bytes(b""), "manifest.json: input data was truncated"),
        (lambda path: (path / MANIFEST_NAME).write_bytes(b"[" * 200_000), "manifest.json: `array`"),
        (lambda path: (path / MANIFEST_NAME).write_bytes(b'{"x":' * 200_000), "nested too deeply"),
        (lambda path: alter_manifest(path, version=3), "version 3 of a newer llmsys; expected at most version 2"),
        (lambda path: alter_manifest(path, version=0), r"at `\$.version`; expected `int` >= 1"),
        (lambda path: alter_manifest(path, version="2"), r"`str` at `\$.version`; expected `int`"),
        (lambda path: alter_manifest(path, kind="sketch"), "kind 'sketch'; expected 'index'"),
        (lambda path: alter_manifest(path, files={"a": {"bytes": -1, "blake2b": "0" * 64}}), "expected `int` >= 0"),
        (lambda path: alter_manifest(path, files={"a": {"bytes": 1, "blake2b": "zz"}}), "matching regex"),
    ],
)
def test_every_fault_is_named(index, damage, message, verify):
    damage(index)

    with pytest.raises(BadInput, match=message):
        open_directory(index, kind="index", version=2, verify=verify)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "a//b", "./a", "", MANIFEST_NAME, "a\0"]
)
def test_a_manifest_cannot_point_outside(index, name):
    alter_manifest(index, files={name: {"bytes": 0, "blake2b": "0" * 64}})

    with pytest.raises(BadInput, match="expected a plain path inside the directory"):
        open_directory(index, kind="index", version=2)


def test_a_huge_manifest_is_refused_unread(index, monkeypatch):
    monkeypatch.setattr(directory, "MAX_MANIFEST_BYTES", 10)

    with pytest.raises(BadInput, match="over 10 bytes"):
        open_directory(index, kind="index", version=2)


def test_a_place_that_is_not_there_or_no_directory_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="none'"):
        open_directory(tmp_path / "none", kind="index", version=1)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file: no manifest\.json"):
        open_directory(tmp_path / "file", kind="index", version=1)


def test_logs_that_grow_stay_out_of_the_manifest(tmp_path):
    path = tmp_path / "idx"
    with write_directory(path, kind="index", version=1, unlisted=["wal-*.log"]) as place:
        fill(place, {"a": b"a", "wal-1.log": b"one"})
    (path / "wal-1.log").write_bytes(b"one, two")
    (path / "wal-2.log").write_bytes(b"three")

    assert list(open_directory(path, kind="index", version=1, unlisted=["wal-*.log"]).files) == ["a"]
    with pytest.raises(BadInput, match=r"wal-1\.log: not in the manifest"):
        open_directory(path, kind="index", version=1)


def test_what_is_there_stays_unless_it_may_be_overwritten(index):
    with (
        pytest.raises(FileExistsError, match=r"is there already: '.*idx'"),
        write_directory(index, kind="index", version=2),
    ):
        pass
    with write_directory(index, kind="index", version=3, overwrite=True) as place:
        fill(place, {"new": b"new"})

    assert list(open_directory(index, kind="index", version=3).files) == ["new"]
    assert [entry.name for entry in index.parent.iterdir()] == ["idx"]


def test_overwriting_spares_what_is_no_directory_of_that_kind(index, tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis").write_bytes(b"years")
    for path, reason in ((precious, "was not written by llmsys"), (index, "is of another kind")):
        with (
            pytest.raises(FileExistsError, match=reason),
            write_directory(path, kind="sketch", version=1, overwrite=True),
        ):
            pass

    assert (precious / "thesis").read_bytes() == b"years"


def test_systems_without_an_exchange_of_names_replace_too(index, monkeypatch):
    monkeypatch.setattr(directory.ctypes, "CDLL", lambda *_, **__: object())
    with write_directory(index, kind="index", version=3, overwrite=True) as place:
        fill(place, {"new": b"new"})

    assert list(open_directory(index, kind="index", version=3).files) == ["new"]
    assert [entry.name for entry in index.parent.iterdir()] == ["idx"]


def test_an_exception_leaves_the_old_directory_and_no_other(index):
    def fail_halfway():
        with write_directory(index, kind="index", version=2, overwrite=True) as place:
            fill(place, {"new": b"new"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert set(open_directory(index, kind="index", version=2).files) == set(FILES)
    assert [entry.name for entry in index.parent.iterdir()] == ["idx"]


def test_a_killed_writer_leaves_the_old_directory_whole(index):
    script = """
import sys
from pathlib import Path
from llmsys.artifacts import write_directory
with write_directory(Path(sys.argv[1]), kind="index", version=2, overwrite=True) as place:
    (place / "new").write_bytes(b"new")
    print("half", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, index], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    assert set(open_directory(index, kind="index", version=2).files) == set(FILES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_concurrent_writers_leave_one_whole_directory(tmp_path, overwrite):
    path = tmp_path / "idx"
    together = threading.Barrier(4)
    refused = []

    def write(letter):
        try:
            with write_directory(path, kind="index", version=1, overwrite=overwrite) as place:
                fill(place, {f"{letter}{n}": letter.encode() for n in range(5)})
                together.wait()
        except FileExistsError:
            refused.append(letter)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = open_directory(path, kind="index", version=1).files

    assert len(files) == 5
    assert len({name[0] for name in files}) == 1
    assert overwrite or len(refused) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["idx"]


def test_the_manifest_comes_by_itself(tmp_path):
    with (
        pytest.raises(ValueError, match="the one file that comes by itself"),
        write_directory(tmp_path / "idx", kind="index", version=1) as place,
    ):
        (place / MANIFEST_NAME).touch()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_an_error_that_names_the_place_asked_for(tmp_path):
    path = tmp_path / "none" / "idx"
    with pytest.raises(FileNotFoundError) as caught, write_directory(path, kind="index", version=1):
        pass

    assert caught.value.filename == str(path)
