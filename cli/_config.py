"""Defaults of options from a TOML file: `[COMMAND.VERB]` tables, keys as the options are spelled.

Knows no option's meaning: names are checked here, values where every value of an option is checked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from llmsys.cli._commands import LazyCommand
from llmsys.errors import BadInput

__all__ = ["read_config"]


def read_config(path: Path, root: TyperGroup, command: str) -> dict[str, Any]:
    """The defaults of one command's options, as Typer takes them: {command: {verb: {parameter: value}}}.

    Tables of other commands are checked by name only. Raises BadInput for a file that cannot be read, or a name that
    no command, verb or option has.
    """
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        right = "a readable TOML file with tables named [COMMAND.VERB]"
        raise BadInput(str(path), getattr(error, "strerror", None) or str(error), right) from error
    for name, table in tables.items():
        if name not in root.commands or not isinstance(table, dict):
            raise BadInput(str(path), f"{name!r} is no table of a command", f"one of {', '.join(root.commands)}")
    lazy = root.commands.get(command)
    if command not in tables or not isinstance(lazy, LazyCommand):
        return {}
    return {command: _by_parameter(tables[command], lazy.load(), f"{path}: [{command}]")}


def _by_parameter(table: Mapping[str, Any], command: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    """The table with every option's spelling replaced by its parameter's name, verbs likewise inside."""
    options = {
        spelling.removeprefix("--"): option.name
        for option in command.params
        if option.param_type_name == "option"
        for spelling in option.opts
        if spelling.startswith("--")
    }
    verbs = getattr(command, "commands", {})
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key in verbs and isinstance(value, dict):
            found[key] = _by_parameter(value, verbs[key], f"{where[:-1]}.{key}]")
        elif key in options:
            found[options[key]] = value
        else:
            raise BadInput(where, f"{key!r} is no verb or option", f"one of {', '.join([*verbs, *options])}")
    return found
