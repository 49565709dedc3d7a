"""Where an option's value comes from: command line, then LLMSYS_*, then --config, then the default."""

import json

import pytest

TOML = """
[sample.settings]
device = "cuda:1"
on-error = "skip"
seed = 3

[vindex.search]
anything = 1
"""


@pytest.fixture
def config(shell) -> str:
    path = shell.directory / "defaults.toml"
    path.write_text(TOML)
    return str(path)


def settings(run) -> dict[str, object]:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_default_holds_where_nothing_else_speaks(shell):
    got = settings(shell.sample("sample", "settings"))

    assert got == {
        "device": "auto",
        "dtype": "auto",
        "threads": 0,
        "seed": 0,
        "on_error": "fail",
        "tenant": None,
        "plot": None,
        "chrome_trace": None,
    }


def test_the_configuration_overrides_the_default_and_keys_are_spelled_as_options(shell, config):
    got = settings(shell.sample("--config", config, "sample", "settings"))

    assert (got["device"], got["on_error"], got["seed"]) == ("cuda:1", "skip", 3)


def test_the_environment_overrides_the_configuration(shell, config):
    env = {"LLMSYS_SAMPLE_SETTINGS_SEED": "4", "LLMSYS_SAMPLE_SETTINGS_ON_ERROR": "fail"}
    got = settings(shell.sample("--config", config, "sample", "settings", env=env))

    assert (got["device"], got["on_error"], got["seed"]) == ("cuda:1", "fail", 4)


def test_the_command_line_overrides_everything(shell, config):
    env = {"LLMSYS_SAMPLE_SETTINGS_SEED": "4"}
    got = settings(shell.sample("--config", config, "sample", "settings", "--seed", "5", env=env))

    assert got["seed"] == 5


def test_the_configuration_can_be_named_by_the_environment(shell, config):
    got = settings(shell.sample("sample", "settings", env={"LLMSYS_CONFIG": config}))

    assert got["seed"] == 3


def test_a_value_from_the_configuration_is_checked_like_any_other(shell, one_line):
    (shell.directory / "c.toml").write_text('[sample.settings]\ndevice = "tpu"\n')
    run = shell.sample("--config", "c.toml", "sample", "settings")

    assert run.returncode == 2
    assert "'tpu' is not auto, cpu, cuda or cuda:N" in one_line(run.stderr)


@pytest.mark.parametrize(
    ("text", "where", "names"),
    [
        ("[sampel.settings]\nseed = 1\n", "c.toml: 'sampel' is no table of a command", ["vindex", "sample"]),
        ("sample = 3\n", "c.toml: 'sample' is no table of a command", ["vindex", "sample"]),
        ("[sample.setings]\nseed = 1\n", "c.toml: [sample]: 'setings' is no verb or option", ["settings", "count"]),
        ("[sample]\nsettings = 1\n", "c.toml: [sample]: 'settings' is no verb or option", ["settings"]),
        (
            "[sample.settings]\nsede = 1\n",
            "c.toml: [sample.settings]: 'sede' is no verb or option",
            ["seed", "chrome-trace"],
        ),
        ("[sample.settings\n", "c.toml: Expected ']'", ["a readable TOML file"]),
        ("\x00", "c.toml: ", ["a readable TOML file"]),
    ],
)
def test_a_configuration_that_would_be_ignored_is_bad_input(shell, one_line, text, where, names):
    (shell.directory / "c.toml").write_text(text)
    run = shell.sample("--config", "c.toml", "sample", "settings")
    line = one_line(run.stderr)

    assert run.returncode == 65
    assert where in line
    for name in names:
        assert name in line.partition("; expected ")[2]


@pytest.mark.parametrize(("path", "why"), [("missing.toml", "No such file"), (".", "Is a directory")])
def test_a_configuration_that_cannot_be_read_is_bad_input(shell, one_line, path, why):
    run = shell.sample("--config", path, "sample", "settings")

    assert run.returncode == 65
    assert f"{path}: {why}" in one_line(run.stderr)


def test_a_configuration_that_is_not_text_is_bad_input(shell, one_line):
    (shell.directory / "c.toml").write_bytes(b"\xff\xfe\x00")
    run = shell.sample("--config", "c.toml", "sample", "settings")

    assert run.returncode == 65
    assert "c.toml: " in one_line(run.stderr)
