"""The command line of llmsys: one lazy root, and the only place where errors print.

Registers names and help lines; a command's own module loads when it is called. Knows no system.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from llmsys.cli._commands import LazyCommand, hide_environment, lazy_commands
from llmsys.errors import BadInput, LlmsysError

__all__ = ["main", "root_group"]

INTERRUPTED = 130


class _Root(TyperGroup):
    """Adds the nine lazy commands to the root group."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        hide_environment(self)
        for command in lazy_commands():
            self.add_command(command)


app = typer.Typer(
    name="llmsys",
    cls=_Root,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LLMSYS"},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"llmsys {version('llmsys')}\n")
        raise typer.Exit


def _load_config(context: typer.Context, path: Path | None) -> None:
    """Take defaults of options from a TOML file: [COMMAND.VERB] option = value."""
    if path is None:
        return
    import tomllib

    try:
        context.default_map = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(str(path), str(error), "a readable TOML file with tables named [COMMAND.VERB]") from error


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", help="Defaults of options: a table [COMMAND.VERB] per verb."),
    ] = None,
) -> None:
    """Systems of large-model serving, training and retrieval, one command each.

    An option's value comes from the command line, else from LLMSYS_COMMAND_VERB_OPTION, else from --config, else its
    default. `llmsys doctor` says what this machine offers.
    """
    _load_config(context, config)


def root_group() -> TyperGroup:
    """The root group with its ten lazy commands, for man pages and tests."""
    return get_group(app)


def command_path(args: list[str]) -> str:
    """The words of `args` that name the command and its verb, as errors print them.

    >>> command_path(["vindex", "--help"])
    'llmsys vindex'
    """
    words, group = ["llmsys"], root_group()
    for word in args:
        if isinstance(group, LazyCommand):
            try:
                group = group.load()
            except LlmsysError:
                break
        found = getattr(group, "commands", {}).get(word)
        if found is None:
            break
        words.append(word)
        group = found
    return " ".join(words)


def main(args: list[str] | None = None) -> int:
    """Run one command line and return its exit code; every error of a user becomes one line on stderr."""
    given = sys.argv[1:] if args is None else args
    try:
        # standalone_mode=False hands back what the verb returned, or the code of its typer.Exit
        code = app(args=args, prog_name="llmsys", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (LlmsysError, typer.TyperException, OSError) as error:
        if os.environ.get("LLMSYS_TRACEBACK") == "1":
            raise
        return _report(error, given)
    return code if isinstance(code, int) else 0


def _report(error: Exception, given: list[str]) -> int:
    """Print the error as one line and return its exit code; help asked for by silence prints as help."""
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    if message.startswith("Usage:"):
        sys.stderr.write(message + "\n")
    else:
        line = " ".join(message.split())
        sys.stderr.write(f"{command_path(given)}: error: {line}\n")
    return getattr(error, "exit_code", 1)
