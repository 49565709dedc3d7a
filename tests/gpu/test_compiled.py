"""Machine code on disk is used again as long as no file of its system has changed, and not after."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmsys

LOOPS = {
    "inner.py": """
from llmsys.gpu.compiled import compiled
from llmsys.sample_system.settings import STEP

@compiled
def one(x):
    return x + STEP
""",
    "outer.py": """
from llmsys.gpu.compiled import compiled
from llmsys.sample_system.inner import one

@compiled
def two(x):
    return 2 * one(x)
""",
    "settings.py": "STEP = 1\n",
    "__init__.py": "",
}
RUN = """
import sys
import llmsys
llmsys.__path__.append(sys.argv[1])
llmsys.__file__ = sys.argv[1] + "/__init__.py"
from llmsys.sample_system.outer import two
print(two(10), sum(two.stats.cache_hits.values()))
"""


@pytest.fixture
def system(tmp_path):
    package = tmp_path / "sample_system"
    package.mkdir()
    for name, text in LOOPS.items():
        (package / name).write_text(text)
    return package


def run(system, **environment):
    """The result of the outer loop in a process of its own, and how often its code came from disk."""
    env = {**os.environ, "PYTHONPATH": str(Path(llmsys.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", RUN, str(system.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env | environment)
    return tuple(map(int, done.stdout.split()))


def test_code_on_disk_is_used_again_and_given_up_when_a_callee_or_a_constant_changes(system):
    assert run(system) == (22, 0)
    assert run(system) == (22, 1)

    (system / "inner.py").write_text(LOOPS["inner.py"].replace("x + STEP", "x + STEP + 5"))
    assert run(system) == (32, 0)
    (system / "settings.py").write_text("STEP = 100\n")
    assert run(system) == (230, 0)
    assert run(system) == (230, 1)


def test_a_directory_that_the_user_names_is_used(system, tmp_path):
    run(system, NUMBA_CACHE_DIR=str(tmp_path / "own"))

    assert list((tmp_path / "own").rglob("outer.two-*.nbi"))
    assert not list(system.rglob("*.nbi"))
