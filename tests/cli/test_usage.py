"""Help, version, and every way to call `llmsys` wrongly."""

import pytest

from llmsys import __version__
from llmsys.cli._commands import COMMANDS


def test_help_names_every_command_with_its_line(shell):
    run = shell.run("--help")
    told = " ".join(run.stdout.split())

    assert run.returncode == 0
    assert run.stderr == ""
    for name, line in COMMANDS.items():
        assert f" {name} " in told
        assert line in told


def test_help_fits_eighty_columns_and_names_no_environment_variable_of_an_option(shell):
    run = shell.run("--help")

    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "env var" not in run.stdout


@pytest.mark.parametrize("words", [[], ["sample"], ["sample", "count"]])
def test_short_and_long_help_are_the_same_at_every_level(shell, words):
    short, long = shell.sample(*words, "-h"), shell.sample(*words, "--help")

    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout
    assert long.stdout.startswith(f"Usage: {' '.join(['llmsys', *words])} ")


def test_version_is_the_package_version(shell):
    run = shell.run("--version")

    assert (run.returncode, run.stdout, run.stderr) == (0, f"llmsys {__version__}\n", "")


def test_a_version_in_the_environment_is_not_taken_for_the_option(shell):
    run = shell.run("--help", env={"LLMSYS_VERSION": "9.1"})

    assert run.returncode == 0


@pytest.mark.parametrize("words", [[], ["sample"]])
def test_no_argument_prints_help_to_stderr_and_exits_2(shell, words):
    run = shell.sample(*words)

    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == shell.sample(*words, "--help").stdout


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["vindx"], "llmsys: error: No such command 'vindx'. Did you mean 'vindex'?"),
        (["zzz"], "llmsys: error: No such command 'zzz'."),
        (["--versio"], "llmsys: error: No such option: --versio (Possible options: --version)"),
        (["sample", "cuont", "3"], "llmsys sample: error: No such command 'cuont'. Did you mean 'count'?"),
        (
            ["sample", "settings", "--sed", "3"],
            "llmsys sample settings: error: No such option: --sed (Possible options: --seed)",
        ),
        (
            ["sample", "count", "many"],
            "llmsys sample count: error: Invalid value for 'records': "
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        (["sample", "count"], "llmsys sample count: error: Missing argument 'records'."),
        (
            ["sample", "settings", "--device", "tpu"],
            "llmsys sample settings: error: Invalid value for '--device': 'tpu' is not auto, cpu, cuda or cuda:N",
        ),
        (
            ["sample", "settings", "--device", "cuda:x"],
            "llmsys sample settings: error: Invalid value for '--device': 'cuda:x' is not auto, cpu, cuda or cuda:N",
        ),
        (
            ["sample", "settings", "--dtype", "int8"],
            "llmsys sample settings: error: Invalid value for '--dtype': "
            "'int8' is not one of auto, float32, bfloat16, float16",
        ),
        (
            ["sample", "settings", "--on-error", "stop"],
            "llmsys sample settings: error: Invalid value for '--on-error': 'stop' is not one of fail, skip",
        ),
        (
            ["sample", "settings", "--plot", "curve.bmp"],
            "llmsys sample settings: error: Invalid value for '--plot': curve.bmp does not end in .png, .svg, .html",
        ),
        (
            ["sample", "settings", "--seed", "-1"],
            "llmsys sample settings: error: Invalid value for '--seed': Input should be greater than or equal to 0",
        ),
        (
            ["sample", "summary", "--color", "red"],
            "llmsys sample summary: error: Invalid value for '--color': 'red' is not one of auto, always, never",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_the_way_out_and_exit_2(shell, one_line, args, line):
    run = shell.sample(*args)

    assert run.returncode == 2
    assert run.stdout == ""
    assert one_line(run.stderr) == line


def test_a_double_dash_ends_options(shell, one_line):
    run = shell.sample("sample", "fail", "--", "--none")

    assert run.returncode == 0


@pytest.mark.parametrize("args", [["planned"], ["planned", "--help"], ["planned", "verb", "--option", "1"]])
def test_a_command_that_is_not_built_exits_69_and_names_those_that_are(shell, one_line, args):
    run = shell.sample(*args)
    line = one_line(run.stderr)

    assert run.returncode == 69
    assert run.stdout == ""
    assert line.startswith("llmsys planned: error: this command is not built yet; commands that work: ")
    assert line.endswith("sample")


def test_help_marks_a_command_that_is_not_built(shell):
    run = shell.sample("--help")

    assert "planned     (not built yet) A command that nobody wrote." in run.stdout
    assert "sample      Verbs that the tests of the shell drive." in run.stdout
