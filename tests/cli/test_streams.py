"""Closed pipes, full disks, closed streams, Ctrl-C, and files that appear whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("args", ["sample count 100000", "--help", "sample --help"])
def test_a_reader_that_leaves_ends_the_run_quietly_with_0(shell, args):
    run = shell.pipeline(f"{shell.sample_line(args)} | head -n 1")

    assert run.returncode == 0
    assert run.stdout.count("\n") == 1
    assert run.stderr == ""


@pytest.mark.parametrize("args", [["--version"], ["sample", "count", "1"], ["sample", "fail", "none"]])
def test_a_reader_that_left_before_the_first_byte_is_no_error(shell, args):
    reader, writer = os.pipe()
    os.close(reader)
    run = shell.sample(*args, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert (run.returncode, run.stderr) == (0, "")


def test_an_error_that_would_follow_after_the_reader_left_is_not_reached(shell):
    line = shell.sample_line("sample fail input --after 100000")
    run = shell.pipeline(f"{line} | head -n 1")

    assert run.returncode == 0
    assert run.stderr == ""


@pytest.mark.parametrize("args", ["sample count 1", "sample count 100000", "--help", "--version"])
def test_a_full_disk_under_stdout_is_a_failure_that_names_it(shell, one_line, args):
    run = shell.pipeline(f"{shell.sample_line(args)} > /dev/full")

    assert run.returncode == 1
    assert one_line(run.stderr).endswith("error: stdout: No space left on device; the output is incomplete")


def test_a_full_disk_after_another_error_keeps_that_errors_code(shell):
    run = shell.pipeline(f"{shell.sample_line('sample fail input --after 1')} > /dev/full")

    assert run.returncode == 65
    assert "stdout: No space left on device" in run.stderr


def test_a_full_disk_under_a_named_file_names_the_file(shell, one_line):
    pytest.importorskip("llmsys.artifacts.atomic", reason="artifacts are not in this tree")
    run = shell.sample("sample", "count", "1", "--out", "/dev/full/x")

    assert run.returncode == 1
    assert "/dev/full" in one_line(run.stderr)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "2> /dev/full"])
def test_a_closed_stream_does_not_break_the_run(shell, closed):
    pytest.importorskip("llmsys.artifacts.atomic", reason="artifacts are not in this tree")
    run = shell.pipeline(f"{shell.sample_line('sample count 2 --out kept.jsonl')} {closed}")

    assert run.returncode == 0
    assert (shell.directory / "kept.jsonl").read_text() == '{"number":0}\n{"number":1}\n'


@pytest.mark.parametrize("closed", ["2>&-", "2> /dev/full"])
def test_an_error_that_nobody_can_read_still_sets_the_code(shell, closed):
    run = shell.pipeline(f"{shell.sample_line('sample fail unavailable')} {closed}")

    assert run.returncode == 69


def test_text_comes_before_the_records_that_follow_it(shell):
    run = shell.sample("sample", "count", "1", "--text")

    assert run.stdout == 'text first\n{"number":0}\n'


def interrupted(shell, out: str) -> subprocess.Popen[str]:
    """A run of `sample wait`, interrupted once it said that its first record is written."""
    sample = shell.sample_line(f"sample wait {out}")
    run = subprocess.Popen(
        ["bash", "-c", f"exec {sample}"],
        cwd=shell.directory,
        env=shell.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    return run


def test_ctrl_c_exits_130_and_says_nothing(shell):
    run = interrupted(shell, "-")
    stdout, stderr = run.communicate(timeout=60)

    assert run.returncode == 130
    assert stdout == '{"number":0}\n'
    assert stderr == ""


def test_ctrl_c_leaves_no_partial_file_and_an_older_file_as_it_was(shell):
    pytest.importorskip("llmsys.artifacts.atomic", reason="artifacts are not in this tree")
    (shell.directory / "out.jsonl").write_text("older\n")
    run = interrupted(shell, "out.jsonl")
    run.communicate(timeout=60)

    assert run.returncode == 130
    assert [path.name for path in shell.directory.iterdir()] == ["out.jsonl"]
    assert (shell.directory / "out.jsonl").read_text() == "older\n"


def test_main_leaves_streams_alone_that_its_caller_set(shell):
    script = "import io, sys; sys.stdout = io.StringIO(); from llmsys.cli import main; main(['--version']); " \
             "sys.stderr.write(sys.stdout.getvalue())"  # fmt: skip
    run = subprocess.run([sys.executable, "-c", script], env=shell.env, capture_output=True, text=True, check=True)

    assert run.stderr.startswith("llmsys ")
    assert run.stdout == ""
