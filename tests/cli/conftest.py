"""Run the installed `llmsys`, or the same `main` with two commands of the tests' own, as a subprocess.

Every run gets a home of its own and an environment without LLMSYS_* and NO_COLOR, so that no test sees the machine's.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LLMSYS = str(Path(sys.executable).with_name("llmsys"))
FOREIGN = (
    *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TRITON_INTERPRET"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
)
SAMPLE = Path(__file__).parent / "sample_main.py"


class Shell:
    """Runs command lines in one directory and one environment."""

    llmsys = LLMSYS
    sample_script = SAMPLE

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMSYS", "_LLMSYS"))}
        for name in FOREIGN:
            kept.pop(name, None)
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        self.env = kept | {"HOME": str(directory), "PATH": path, "TERM": "xterm", "LC_ALL": "C.UTF-8"}

    def run(self, *args: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run `llmsys ARGS`."""
        return self._run([LLMSYS, *args], **settings)

    def sample(self, *args: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run ARGS through the same `main`, with the commands `sample` and `planned` added."""
        return self._run([sys.executable, str(SAMPLE), *args], **settings)

    def sample_line(self, args: str) -> str:
        """The same as a line for a shell pipeline."""
        return f"'{sys.executable}' '{SAMPLE}' {args}"

    def pipeline(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash; its exit code is the first failing part's."""
        return self._run(["bash", "-o", "pipefail", "-c", line])

    def _run(self, command: list[str], *, env: dict[str, str] | None = None, **settings: object):
        settings = {"capture_output": True} | settings if "stdout" not in settings else settings
        return subprocess.run(
            command, cwd=self.directory, env=self.env | (env or {}), text=True, timeout=120, check=False, **settings
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def one_line() -> Callable[[str], str]:
    """Check that a text is one line, newline included, without a traceback; returns it bare."""

    def check(text: str) -> str:
        assert text.endswith("\n"), text
        assert text.count("\n") == 1, text
        return text[:-1]

    return check
