"""Who may import whom (pyproject.toml, [tool.importlinter]): the tree keeps it, and a breach is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = str(Path(sys.executable).with_name("lint-imports"))


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(directory), "COLUMNS": "200"}
    return subprocess.run(
        [LINT, "--no-cache"], cwd=directory, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages, links as links, in which a breach can be planted."""
    for name in ("llmsys", "cli", "gpu"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_tree_keeps_its_layers():
    run = lint(ROOT)

    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("module", "statement", "breach"),
    [
        ("llmsys/artifacts", "import llmsys.cli._streams", "llmsys.artifacts.planted -> llmsys.cli._streams"),
        ("llmsys/artifacts", "def late():\n    import typer", "llmsys.artifacts.planted -> typer"),
        ("gpu", "import llmsys.artifacts", "llmsys.gpu.planted -> llmsys.artifacts"),
        ("gpu", "from llmsys.cli import main", "llmsys.gpu.planted -> llmsys.cli"),
    ],
)
def test_a_planted_breach_is_found_and_named(tree, module, statement, breach):
    (tree / module / "planted.py").write_text(statement + "\n")
    run = lint(tree)

    assert run.returncode == 1
    assert breach in run.stdout
