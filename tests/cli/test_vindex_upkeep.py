"""`llmsys vindex check`, `compact`, `snapshot` and their rivals as a user runs them, on real docstring vectors."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell

FIXTURES = Path(__file__).parents[2] / "fixtures" / "vindex"
DOCS, QUERIES, ACCESS = (str(FIXTURES / name) for name in ("docs.npy", "queries.npy", "access.jsonl"))


def records(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("original"))
    assert shell.run("vindex", "build", "idx", "--vectors", DOCS, "--access", ACCESS).returncode == 0
    return shell.directory / "idx"


@pytest.fixture
def indexed(shell, original):
    """A shell in whose directory an index of the shipped docstrings stands, as `idx`."""
    shutil.copytree(original, shell.directory / "idx")
    return shell


def test_compact_and_snapshot_change_nothing_that_is_exported(indexed):
    indexed.run("vindex", "delete", "idx", "10", "11")
    indexed.run("vindex", "grant", "idx", "--tenant", "acme", "12", "13")
    before = indexed.run("vindex", "export", "idx").stdout

    runs = [
        indexed.run("vindex", *verb)
        for verb in (("snapshot", "idx", "copy"), ("compact", "idx"), ("compact", "idx", "--retrain"))
    ]

    assert [run.returncode for run in runs] == [0, 0, 0], runs[-1].stderr
    assert len(records(before)) == 398
    assert indexed.run("vindex", "export", "idx").stdout == before
    assert indexed.run("vindex", "export", "copy").stdout == before
    assert json.loads(indexed.run("vindex", "stats", "idx").stdout)["log_bytes"] == 0


def test_check_names_a_flipped_bit(indexed):
    path = indexed.directory / "idx" / "snap-1" / "vectors.npy"
    assert indexed.run("vindex", "check", "idx", "--deep").returncode == 0
    damaged = bytearray(path.read_bytes())
    damaged[4000] ^= 4
    path.write_bytes(damaged)

    run = indexed.run("vindex", "check", "idx")

    assert run.returncode == 65
    assert "vectors.npy: checksum" in run.stderr


def test_check_repairs_codes_and_refuses_to_guess_at_access(indexed):
    held = indexed.run("vindex", "export", "idx").stdout
    for name in ("codes", "lists"):
        path = next((indexed.directory / "idx").glob(f"snap-*/{name}.npy"))
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 4
        path.write_bytes(damaged)
        run = indexed.run("vindex", "check", "idx", "--repair", "--deep", "--json")
        if name == "codes":
            assert json.loads(run.stdout)["copy"].endswith("idx.damaged"), run.stderr
            assert indexed.run("vindex", "export", "idx").stdout == held

    assert (run.returncode, run.stdout) == (65, "")
    assert "lists.npy: damaged" in run.stderr


def test_a_second_writer_is_told_who_writes(indexed):
    command = [sys.executable, "-m", "llmsys", "vindex", "apply", "idx", "-"]
    first = subprocess.Popen(
        command, cwd=indexed.directory, env=indexed.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    first.stdin.write(b'{"op":"grant","id":1,"tenant":"acme"}\n')
    first.stdin.flush()
    first.stdout.readline()

    second = indexed.run("vindex", "delete", "idx", "1")
    reader = indexed.run("vindex", "stats", "idx", "--tenant", "acme")
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    third = indexed.run("vindex", "delete", "idx", "1")

    assert (second.returncode, third.returncode) == (69, 0)
    assert f"process {first.pid} is writing" in second.stderr
    assert json.loads(reader.stdout)["vectors"] == 1


def test_a_writer_can_wait_for_the_one_before_it(indexed):
    apply = [sys.executable, "-m", "llmsys", "vindex", "apply", "idx", "-"]
    options = {"cwd": indexed.directory, "env": indexed.env, "stdout": subprocess.PIPE}
    first = subprocess.Popen(apply, stdin=subprocess.PIPE, **options)
    first.stdin.write(b'{"op":"grant","id":1,"tenant":"acme"}\n')
    first.stdin.flush()
    first.stdout.readline()

    late = indexed.run("vindex", "delete", "idx", "1", "--wait", "0.1")
    patient = [sys.executable, "-m", "llmsys", "vindex", "delete", "idx", "1", "--wait", "300", "--json"]
    second = subprocess.Popen(patient, **options)
    first.communicate(timeout=60)

    assert (late.returncode, second.communicate(timeout=200)[0]) == (69, b'{"deleted":1,"missing":0}\n')
    assert second.returncode == 0
