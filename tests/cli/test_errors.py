"""Every class of error: one line on stderr, no traceback, its exit code."""

import pytest


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("failed", 1, "it failed in two lines"),
        ("usage", 2, "--k 7 exceeds the 5 vectors; give at most 5"),
        ("input", 65, "trace.jsonl:3: arrival_s is -1; expected 0 or more"),
        ("unavailable", 69, "no CUDA device; use --device cpu"),
        ("oserror", 1, "[Errno 2] No such file or directory: 'missing.jsonl'"),
        ("refused", 1, "[Errno 111] Connection refused"),
        ("brokenpipe", 1, "a process or server that this verb writes to went away"),
        ("bug", 1, "unexpected ZeroDivisionError: division by zero; with LLMSYS_TRACEBACK=1 the run says where"),
        ("eof", 1, "an input ended before it was whole"),
    ],
)
def test_an_error_is_one_line_with_the_code_of_its_class(shell, one_line, how, code, line):
    run = shell.sample("sample", "fail", how)

    assert run.returncode == code
    assert run.stdout == ""
    assert one_line(run.stderr) == f"llmsys sample fail: error: {line}"


def test_records_before_an_error_are_kept(shell):
    run = shell.sample("sample", "fail", "input", "--after", "2")

    assert run.returncode == 65
    assert run.stdout == '{"number":0}\n{"number":1}\n'


@pytest.mark.parametrize(("how", "code"), [("input", 65), ("bug", 1)])
def test_the_traceback_is_shown_when_asked_for_and_the_code_stays(shell, how, code):
    run = shell.sample("sample", "fail", how, env={"LLMSYS_TRACEBACK": "1"})

    assert run.returncode == code
    assert "Traceback (most recent call last)" in run.stderr
    assert "raise faults[how]" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("llmsys sample fail: error: ")


def test_an_error_under_a_configuration_still_names_command_and_verb(shell):
    (shell.directory / "vindex").write_text("")
    run = shell.sample("--config", "vindex", "sample", "fail", "failed")

    assert run.stderr == "llmsys sample fail: error: it failed in two lines\n"
