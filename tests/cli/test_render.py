"""What a person sees and what a program reads: table or JSON, colour, quiet."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from llmsys.cli._render import table

ESCAPE = "\x1b["
COLOR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|38|9[0-7])[;m]")  # bold and italic are no colour


def on_terminal(shell, *args: str, env: dict[str, str] | None = None, stderr_too: bool = False) -> str:
    """What `sample ARGS` writes to a terminal on stdout (and stderr)."""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, str(shell.sample_script), "sample", *args],
        cwd=shell.directory,
        env=shell.env | (env or {}),
        stdout=theirs,
        stderr=theirs if stderr_too else subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = b""
    while chunk := _read(ours):
        seen += chunk
    os.close(ours)
    assert run.wait(timeout=60) == 0
    return seen.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux: the other side of the terminal is closed
        return b""


def test_a_pipe_gets_one_json_line_and_stderr_the_table(shell):
    run = shell.sample("sample", "summary")

    assert run.stdout.count("\n") == 1
    assert json.loads(run.stdout)["rows"][0]["tokens"] == 1234
    assert "Summary" in run.stderr
    assert "98,765" in run.stderr
    assert "a note" in run.stderr


def test_json_on_a_pipe_comes_without_a_table(shell):
    run = shell.sample("sample", "summary", "--json")

    assert json.loads(run.stdout)["rows"][1]["name"] == "second"
    assert "Summary" not in run.stderr


def test_a_terminal_gets_the_table_and_no_json(shell):
    seen = on_terminal(shell, "summary")

    assert "Summary" in seen
    assert "0.1235" in seen
    assert "{" not in seen


def test_json_wins_on_a_terminal(shell):
    seen = on_terminal(shell, "summary", "--json")

    assert json.loads(seen)["rows"][0]["name"] == "first"


def test_quiet_leaves_nothing_on_stderr_but_errors(shell, one_line):
    run = shell.sample("sample", "summary", "--quiet")
    wrong = shell.sample("sample", "summary", "--quiet", "--color", "red")

    assert run.stderr == ""
    assert run.stdout.startswith("{")
    assert "error" in one_line(wrong.stderr)


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_silences_the_progress_bar_of_a_terminal(shell, option):
    seen = on_terminal(shell, "summary", "--json", option, stderr_too=True)

    assert "counting" not in seen
    assert "a note" not in seen


def test_a_terminal_sees_a_progress_bar_that_goes_away(shell):
    seen = on_terminal(shell, "summary", "--json", stderr_too=True)

    assert "counting" in seen
    assert "2/2" in seen
    assert "\x1b[2K" in seen  # the line is cleared


@pytest.mark.parametrize(
    ("args", "env", "colored"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--color", "never"], {}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
    ],
)
def test_color_on_a_terminal_follows_option_then_environment(shell, args, env, colored):
    seen = on_terminal(shell, "summary", *args, env=env, stderr_too=True)

    assert bool(COLOR.search(seen)) == colored


def test_color_asked_for_is_written_even_to_a_terminal_that_says_it_is_dumb(shell):
    assert ESCAPE in on_terminal(shell, "summary", "--color", "always", env={"TERM": "dumb"})


def test_color_in_a_pipe_comes_only_when_asked_for(shell):
    plain = shell.sample("sample", "summary")
    asked = shell.sample("sample", "summary", "--color", "always")

    assert ESCAPE not in plain.stderr
    assert ESCAPE in asked.stderr
    assert ESCAPE not in asked.stdout


def test_table_puts_numbers_right_words_left_and_says_what_is_missing(capsys):
    table([{"name": "a", "n": 1, "x": 0.5, "ok": True}, {"name": "long", "n": 1000, "x": None, "ok": False}])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]

    assert lines[0].split() == ["name", "n", "x", "ok"]
    assert lines[2].split() == ["a", "1", "0.5", "yes"]
    assert lines[3].split() == ["long", "1000", "-", "no"]
    assert lines[2].index("1") > lines[3].index("1")


def test_a_table_of_nothing_prints_nothing(capsys):
    table([])

    assert capsys.readouterr().out == ""
