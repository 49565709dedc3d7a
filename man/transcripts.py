"""Transcripts: `$ command` lines and the stdout they print. Man pages and README.md quote them, the tests replay them.

A file holds comment lines (`# ...`), then steps: a line `$ COMMAND`, going on in lines `> MORE` after a backslash, and
the lines that it prints. The file's name starts with the command it shows: `vindex.txt`, `vindex-tenants.txt`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DIRECTORY", "Step", "matches", "of_command", "read_steps", "with_outputs"]

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "cli" / "transcripts"
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_VOLATILE = (
    (re.compile(rf"{_NUMBER}(?= ?(?:ns|us|µs|ms|s|min|h)\b)"), "#"),
    (re.compile(rf"{_NUMBER}(?= ?[A-Za-z]*/s\b)"), "#"),
    (re.compile(rf'("(?!arrival_s"|t_s")\w+_(?:ns|us|ms|s)": ?){_NUMBER}'), r"\1#"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command as it is typed, continuation lines included, and the lines it prints to stdout."""

    command: str
    output: str

    @property
    def text(self) -> str:
        """The step as a transcript writes it."""
        return "$ " + self.command.replace("\n", "\n> ") + "\n" + self.output


def read_steps(text: str) -> Iterator[Step]:
    r"""The steps of a transcript.

    >>> list(read_steps("# why\n$ seq 2\n1\n2\n"))
    [Step(command='seq 2', output='1\n2\n')]
    """
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = block.splitlines(keepends=True)
        typed = 1
        while typed < len(lines) and lines[typed].startswith("> "):
            typed += 1
        command = "".join([lines[0], *(line.removeprefix("> ") for line in lines[1:typed])])
        yield Step(command.rstrip("\n"), "".join(lines[typed:]))


def with_outputs(text: str, outputs: list[str]) -> str:
    """The transcript with every step's output replaced, where the old one no longer matches the new.

    Blanks at line ends are dropped.
    """
    head = text.partition("$ ")[0] if not text.startswith("$ ") else ""
    steps = zip(read_steps(text), outputs, strict=True)
    return head + "".join(
        step.text if matches(step.output, output) else Step(step.command, _bare(output)).text for step, output in steps
    )


def matches(expected: str, actual: str) -> bool:
    """Whether a run printed what the transcript says, by the one rule for what may differ.

    Blanks at line ends do not count; nor do numbers before a unit of time (`12.3 ms`) or rate (`80 tok/s`), nor those
    of JSON keys ending in _s, _ms, _us or _ns, except arrival_s and t_s, which are data. `...` stands for any text
    within a line, and alone on a line for any lines.

    >>> matches('took 3 s, found ...\\n', 'took 12.5 s, found 7 of 9\\n')
    True
    """
    pieces = [
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
        for line in _masked(expected).splitlines()
    ]
    return re.fullmatch("".join(pieces), _masked(actual)) is not None


def _bare(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def _masked(text: str) -> str:
    bare = _bare(text)
    for volatile, mask in _VOLATILE:
        bare = volatile.sub(mask, bare)
    return bare


def of_command(name: str) -> list[Path]:
    """The transcripts that show a command, the main one first."""
    return sorted([*DIRECTORY.glob(f"{name}.txt"), *DIRECTORY.glob(f"{name}-*.txt")], key=lambda path: path.stem)
