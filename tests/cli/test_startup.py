"""What `llmsys --help` costs, and what it must not load."""

import math
import os
import subprocess
import sys

import pytest

from llmsys.cli._commands import COMMANDS, is_built, module_of

HEAVY = {"numpy", "torch", "transformers", "rich", "asyncio", "orjson", "msgspec", "av", "faiss"}
MOST_RUNS = 40
TELL_MODULES = """
import sys
from llmsys.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def loaded_by(shell, *args: str, env: dict[str, str] | None = None) -> set[str]:
    """The modules in memory when a run ends; -X importtime would miss those that import_module loads."""
    run = subprocess.run(
        [sys.executable, "-c", TELL_MODULES, *args],
        env=shell.env | (env or {}),
        cwd=shell.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    names = set(run.stderr.splitlines()[-1].split())
    assert "llmsys.cli._main" in names
    return names


def commands(loaded: set[str]) -> set[str]:
    """The modules of commands among the loaded ones."""
    return {name for name in loaded if name.startswith("llmsys.cli.") and not name.startswith("llmsys.cli._")}


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_the_root_loads_nothing_heavy_and_no_command(shell, args):
    loaded = loaded_by(shell, *args)

    assert loaded & (HEAVY | {"pydantic"}) == set()
    assert commands(loaded) == set()


def test_a_mistyped_command_loads_nothing_but_what_typer_checks_words_with(shell):
    loaded = loaded_by(shell, "no-such-command")

    assert loaded & HEAVY == set()
    assert commands(loaded) == set()


def test_completion_of_a_command_name_loads_nothing_heavy(shell):
    loaded = loaded_by(shell, env={"_LLMSYS_COMPLETE": "complete_bash", "COMP_WORDS": "llmsys vin", "COMP_CWORD": "1"})

    assert loaded & HEAVY == set()
    assert commands(loaded) == set()


@pytest.mark.parametrize("command", [name for name in COMMANDS if is_built(name)])
def test_the_help_of_a_command_loads_that_command_and_nothing_heavy(shell, command):
    loaded = loaded_by(shell, command, "--help")

    assert loaded & HEAVY == set()
    assert commands(loaded) == {module_of(command)}


def cpu_s(command: list[str], env: dict[str, str]) -> float:
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, env, file_actions=silent), 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def costs_under(bar: float, own: list[str], env: dict[str, str]) -> bool:
    """Whether the minimum of `own`'s CPU time falls under `bar` times bare Python's within MOST_RUNS runs of each.

    What else the machine does can only raise a run's time, so a minimum says the truth from above.
    """
    bare_s = own_s = math.inf
    for run in range(MOST_RUNS):
        bare_s = min(bare_s, cpu_s([sys.executable, "-c", "pass"], env))
        own_s = min(own_s, cpu_s(own, env))
        if run >= 6 and own_s < bar * bare_s:
            return True
    return False


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_root_costs_under_eight_times_the_cpu_time_of_bare_python(shell, option):
    assert costs_under(8, [shell.llmsys, option], shell.env)


def test_completion_costs_under_eighteen_times_the_cpu_time_of_bare_python(shell):
    asked = {"_LLMSYS_COMPLETE": "complete_bash", "COMP_WORDS": "llmsys vin", "COMP_CWORD": "1"}

    assert costs_under(18, [shell.llmsys], shell.env | asked)


@pytest.mark.parametrize("command", [name for name in COMMANDS if is_built(name)])
def test_the_help_of_a_command_costs_under_eighteen_times_the_cpu_time_of_bare_python(shell, command):
    assert costs_under(18, [shell.llmsys, command, "--help"], shell.env)
