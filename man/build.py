"""Write one man page per command, and llmsys.1, from the command line itself: `python man/build.py [DIRECTORY]`.

Walks the public Typer API (groups, commands, parameters) and quotes the transcripts of the tests. No page holds a date,
so that the same tree gives the same bytes. Commands that are not built have no page.
"""

import sys
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from pathlib import Path
from typing import Any

import facts
import transcripts
import typer

from llmsys import __version__
from llmsys.cli import root_group
from llmsys.cli._commands import COMMANDS, is_built, verbs_of

HERE = Path(__file__).resolve().parent


def escape(text: str) -> str:
    r"""Text as roff reads it: backslashes, hyphens, control characters at a line's start and non-ASCII made plain.

    >>> escape("--seed\n.rest")
    '\\-\\-seed\n\\&.rest'
    """
    plain = text.replace("\\", r"\e").replace("-", r"\-")
    ascii_only = "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in plain)
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in ascii_only.split("\n"))


def paragraphs(text: str) -> Iterator[str]:
    """A docstring's paragraphs, each as one line for roff to fill."""
    for number, paragraph in enumerate(cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        yield escape(" ".join(paragraph.split()))


def entries(table: Mapping[Any, str]) -> Iterator[str]:
    """A list of terms in bold, each with its explanation."""
    for term, explanation in table.items():
        yield from (".TP", rf"\fB{escape(str(term))}\fR", escape(explanation))


def parameters(command: Any) -> dict[str, str]:  # noqa: ANN401
    """Every argument and option of a verb, with its help, default and range, as --help words them."""
    context = typer.Context(command, info_name=command.name)
    records = [parameter.get_help_record(context) for parameter in command.params if not parameter.hidden]
    return dict(filter(None, records))


def synopsis(path: str, command: Any) -> str:  # noqa: ANN401
    """One line: how the command is called."""
    pieces = command.collect_usage_pieces(typer.Context(command, info_name=command.name))
    return rf"\fB{escape(path)}\fR {escape(' '.join(pieces))}"


def examples(name: str) -> Iterator[str]:
    """The command's transcripts, as they were typed and as they answered."""
    for path in transcripts.of_command(name):
        for step in transcripts.read_steps(path.read_text(encoding="utf-8")):
            yield from (".PP", ".EX", escape(step.text.rstrip()), ".EE")


def header(name: str, line: str) -> Iterator[str]:
    """A page's title and NAME."""
    yield r".\" Written by man/build.py from the command line; edit that, not this."
    yield f'.TH {escape(name.upper())} 1 "" "llmsys {__version__}" "llmsys manual"'
    yield from (".SH NAME", rf"{escape(name)} \- {escape(line)}")


def footer(see: list[str]) -> Iterator[str]:
    """What every page ends with, and the pages to see next."""
    yield from (".SH EXIT STATUS", *entries(facts.EXIT_CODES))
    yield from (".SH ENVIRONMENT", *entries(facts.ENVIRONMENT))
    yield from (".SH FILES", *entries(facts.FILES))
    yield from (".SH SEE ALSO", ", ".join(rf"\fB{escape(page)}\fR(1)" for page in see))


def command_page(name: str, built: list[str]) -> Iterator[str]:
    """The page of one built command: a synopsis line and a section per verb."""
    group: Any = root_group().commands[name]
    group = group.load()
    verbs = dict(verbs_of(group))
    yield from header(f"llmsys-{name}", COMMANDS[name].rstrip("."))
    yield ".SH SYNOPSIS"
    for verb, command in verbs.items():
        yield from (synopsis(f"llmsys {name} {verb}", command), ".br")
    yield from (".SH DESCRIPTION", *paragraphs(group.help or COMMANDS[name]))
    yield from entries(parameters(group))
    for verb, command in verbs.items():
        yield from (f".SH {escape(verb.upper())}", *paragraphs(command.help or ""), *entries(parameters(command)))
    if transcripts.of_command(name):
        yield from (".SH EXAMPLES", *examples(name))
    yield from footer(["llmsys", *(f"llmsys-{other}" for other in built if other != name)])


def root_page(built: list[str]) -> Iterator[str]:
    """The page of `llmsys` itself: its options, and every command with its state."""
    root = root_group()
    yield from header("llmsys", "systems of large-model serving, training and retrieval")
    yield from (".SH SYNOPSIS", synopsis("llmsys", root), ".SH DESCRIPTION", *paragraphs(root.help or ""))
    yield from (".SH OPTIONS", *entries(parameters(root)))
    yield from (".SH COMMANDS", *entries({name: str(command.help) for name, command in root.commands.items()}))
    yield from footer([f"llmsys-{name}" for name in built])


def pages() -> dict[str, str]:
    """Every page's file name and text."""
    built = [name for name in COMMANDS if is_built(name)]
    texts = {"llmsys.1": root_page(built)} | {f"llmsys-{name}.1": command_page(name, built) for name in built}
    return {name: "\n".join(lines) + "\n" for name, lines in texts.items()}


def main(directory: Path) -> None:
    """Write every page, and take away those of commands that are gone."""
    written = pages()
    for old in directory.glob("llmsys*.1"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
