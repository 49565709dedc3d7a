"""Files appear whole or not at all, whatever ends the writer."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from llmsys.artifacts import replace_file, replace_path

KILLED_WRITER = """
import sys
from pathlib import Path
from llmsys.artifacts import {opener}

with {opener}(Path(sys.argv[1])) as place:
    {write}
    print("half", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("opener", "write"),
    [
        ("replace_file", "place.write(b'new' * 100_000); place.flush()"),
        ("replace_path", "place.write_bytes(b'new' * 100_000)"),
    ],
)
def test_a_killed_writer_leaves_the_old_file_whole(tmp_path, opener, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = KILLED_WRITER.format(opener=opener, write=write)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_place_untouched_and_no_temporary(tmp_path, fault):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_halfway():
        with replace_file(path) as stream:
            stream.write(b"new")
            raise fault

    def fail_beside():
        with replace_path(path) as beside:
            beside.write_bytes(b"new")
            raise fault

    for attempt in (fail_halfway, fail_beside):
        with pytest.raises(fault):
            attempt()

    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_nothing_is_seen_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    with replace_file(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert not path.exists()

    assert path.read_bytes() == b"new"


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    together = threading.Barrier(4)

    def write(letter):
        with replace_file(path) as stream:
            stream.write(letter * 50_000)
            together.wait()
            stream.write(letter * 50_000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = path.read_bytes()

    assert content in [letter * 100_000 for letter in (b"a", b"b", b"c", b"d")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_keeps_pointing_and_its_target_changes(tmp_path):
    target = tmp_path / "real"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    with replace_file(link) as stream:
        stream.write(b"new")

    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_permissions_of_an_existing_file_stay_and_new_files_follow_the_umask(tmp_path):
    path = tmp_path / "script"
    path.touch()
    path.chmod(0o750)
    for place in (path, tmp_path / "new"):
        with replace_file(place) as stream:
            stream.write(b"new")
    reference = tmp_path / "reference"
    reference.touch()

    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert (tmp_path / "new").stat().st_mode == reference.stat().st_mode


def test_a_pipe_is_written_directly(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with replace_file(pipe) as stream:
        stream.write(b"through")
    reader.join()

    assert received == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"), replace_file("/dev/full") as stream:
        stream.write(b"x" * 2**20)


def test_a_disk_that_fills_up_halfway_leaves_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = """
import resource, sys
from pathlib import Path
from llmsys.artifacts import replace_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replace_file(Path(sys.argv[1])) as stream:
        stream.write(b"new" * 1000)
except OSError as error:
    print(error.filename)
"""
    printed = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout

    assert printed == f"{path}\n"
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("opener", [replace_file, replace_path])
def test_a_missing_directory_is_an_error_that_names_the_file_asked_for(tmp_path, opener):
    path = tmp_path / "none" / "file"

    with pytest.raises(FileNotFoundError) as caught, opener(path):
        pass
    assert caught.value.filename == str(path)


def test_a_name_that_a_directory_took_meanwhile_is_an_error_with_one_name(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(IsADirectoryError, match=r"Is a directory: '[^']*/file'$"), replace_file(path):
        path.mkdir()

    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replace_file(tmp_path / "file"):
        (tmp_path / "input.tmp").read_bytes()

    assert caught.value.filename == str(tmp_path / "input.tmp")


def test_a_directory_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(IsADirectoryError), replace_file(tmp_path):
        pass


def test_a_library_may_replace_the_temporary_by_a_file_of_its_own(tmp_path):
    path = tmp_path / "file"
    with replace_path(path) as beside:
        other = tmp_path / "own"
        other.write_bytes(b"own")
        other.replace(beside)

    assert path.read_bytes() == b"own"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_very_long_name_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 127)
    with replace_file(path) as stream:
        stream.write(b"new")

    assert path.read_bytes() == b"new"
