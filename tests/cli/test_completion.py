"""Completion as bash, zsh and fish ask for it, and the scripts that ask."""

import shutil

import pytest

from llmsys.cli._commands import COMMANDS


def asked(shell_name: str, words: str) -> dict[str, str]:
    """The environment that the shell's script sets to ask what may follow `words`."""
    env = {"_LLMSYS_COMPLETE": f"complete_{shell_name}", "_TYPER_COMPLETE_ARGS": words}
    if shell_name == "bash":
        split = words.split(" ")
        env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}
    if shell_name == "fish":
        env["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    return env


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_commands_are_completed(shell, shell_name):
    run = shell.run(env=asked(shell_name, "llmsys se"))

    assert (run.returncode, run.stderr) == (0, "")
    assert "serve-lora" in run.stdout
    assert "vindex" not in run.stdout


def test_every_command_is_offered_before_the_first_letter(shell):
    run = shell.run(env=asked("bash", "llmsys "))

    assert set(COMMANDS) <= set(run.stdout.split())


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("llmsys sample co", "count"),
        ("llmsys sample settings --dev", "--device"),
        ("llmsys sample fail ref", "refused"),
    ],
)
def test_verbs_options_and_values_are_completed(shell, shell_name, words, offered):
    run = shell.sample(env=asked(shell_name, words))

    assert (run.returncode, run.stderr) == (0, "")
    assert offered in run.stdout


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_a_command_that_is_not_built_completes_to_nothing_without_a_word(shell, shell_name):
    run = shell.sample(env=asked(shell_name, "llmsys planned ver"))

    assert run.stderr == ""
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed_and_parses(shell, shell_name):
    run = shell.run(env={"_LLMSYS_COMPLETE": f"source_{shell_name}"})

    assert (run.returncode, run.stderr) == (0, "")
    assert f"_LLMSYS_COMPLETE=complete_{shell_name}" in run.stdout
    if shutil.which(shell_name):
        (shell.directory / "script").write_text(run.stdout)
        assert shell.pipeline(f"{shell_name} -n script").returncode == 0


def test_bash_completes_through_its_script(shell):
    line = (
        'eval "$(_LLMSYS_COMPLETE=source_bash llmsys)"; COMP_WORDS=(llmsys vin); COMP_CWORD=1; '
        '_llmsys_completion llmsys; echo "${COMPREPLY[@]}"'
    )
    run = shell.pipeline(line)

    assert run.stdout == "vindex\n"
