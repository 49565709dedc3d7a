"""Replay every transcript: what man pages and README.md quote is what the installed `llmsys` prints.

A transcript runs line by line under `bash -o pipefail` in one fresh directory, in which `fixtures` is the repository's;
every line must exit 0. What may differ is said in `man/transcripts.py`, `matches`. One whose first line is `# slow` is
marked slow. `UPDATE_TRANSCRIPTS=1 pytest tests/cli/test_transcripts.py` writes what was printed in place of what no
longer matches; `python man/build.py` and `cog -r -I man README.md` then quote it.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "man"))

import transcripts  # noqa: E402

UPDATE = "UPDATE_TRANSCRIPTS" in os.environ


def every_transcript() -> list[object]:
    def mark(path: Path) -> tuple[pytest.MarkDecorator, ...]:
        return (pytest.mark.slow,) if path.read_text(encoding="utf-8").startswith("# slow") else ()

    return [pytest.param(path, id=path.stem, marks=mark(path)) for path in sorted(transcripts.DIRECTORY.glob("*.txt"))]


@pytest.mark.parametrize("path", every_transcript())
def test_a_transcript_is_what_the_command_prints(shell, path):
    if (ROOT / "fixtures").is_dir():
        (shell.directory / "fixtures").symlink_to(ROOT / "fixtures")
    text = path.read_text(encoding="utf-8")
    steps = list(transcripts.read_steps(text))
    runs = [shell.pipeline(step.command) for step in steps]
    if UPDATE:
        path.write_text(transcripts.with_outputs(text, [run.stdout for run in runs]), encoding="utf-8")
        steps = list(transcripts.read_steps(path.read_text(encoding="utf-8")))

    assert steps
    for step, run in zip(steps, runs, strict=True):
        assert run.returncode == 0, f"$ {step.command}\n{run.stderr}"
        assert transcripts.matches(step.output, run.stdout), f"$ {step.command}\n{run.stdout}"


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("a  \n", "a\n"),
        ("took 1.5 ms\n", "took 1,203 ms\n"),
        ("80 tok/s and 3e9 B/s\n", "7.25 tok/s and 4 B/s\n"),
        ('{"wall_s":1.25,"n":3}\n', '{"wall_s":0.5,"n":3}\n'),
        ("found ... of 9\n", "found 7 of 9\n"),
        ("first\n...\nlast\n", "first\nlast\n"),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n"),
        ("", ""),
    ],
)
def test_what_may_differ_does(expected, actual):
    assert transcripts.matches(expected, actual)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("a\n", "b\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("", "a\n"),
        ("3 records\n", "4 records\n"),
        ("3 services\n", "4 services\n"),
        ('{"arrival_s":1.25}\n', '{"arrival_s":1.5}\n'),
        ('{"n":3}\n', '{"n":4}\n'),
        ("took 1.5 ms\n", "took long ms\n"),
        ("found ... of 9\n", "found 7\nof 9\n"),
        ("a.c\n", "abc\n"),
    ],
)
def test_what_must_not_differ_fails(expected, actual):
    assert not transcripts.matches(expected, actual)


def test_a_transcript_reads_and_writes_back_to_the_same_text():
    text = "# why\n$ seq 2 | \\\n> sort\n1\n2\n$ true\n$ echo three\nthree\n"
    steps = list(transcripts.read_steps(text))

    assert [step.command for step in steps] == ["seq 2 | \\\nsort", "true", "echo three"]
    assert transcripts.with_outputs(text, [step.output for step in steps]) == text


def test_an_update_keeps_what_still_matches_and_replaces_the_rest():
    text = "# why\n$ one\ntook 3 s\n$ two\nold\n"

    assert transcripts.with_outputs(text, ["took 4 s\n", "new\n"]) == "# why\n$ one\ntook 3 s\n$ two\nnew\n"
