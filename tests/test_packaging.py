"""What a wheel and an sdist carry, and that a wheel runs where no checkout is."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from llmsys import __version__

ROOT = Path(__file__).resolve().parents[1]
LEFT_BEHIND = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo-out", "tests")
LINKED = ("llmsys/cli", "llmsys/gpu")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A directory with the wheel and the sdist of a copy of the tree, links as links."""
    pytest.importorskip("setuptools", minversion="80")
    base = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, base / "tree", symlinks=True, ignore=LEFT_BEHIND)
    for kind in ("sdist", "wheel"):
        hook = f"import setuptools.build_meta as b; b.build_{kind}({str(base / 'dist')!r})"
        subprocess.run([sys.executable, "-c", hook], cwd=base / "tree", check=True, capture_output=True, timeout=300)
    return base / "dist"


def modules_of(package: str) -> set[str]:
    return {f"{package}/{path.name}" for path in (ROOT / package).glob("*.py")}


def test_a_wheel_carries_the_linked_packages_as_directories(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    assert wheel.name.startswith(f"llmsys-{__version__}-")
    for package in LINKED:
        assert modules_of(package) <= names
    assert "llmsys/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"llmsys", f"llmsys-{__version__}.dist-info"}


def test_an_sdist_carries_the_linked_packages_as_files(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}

    for package in LINKED:
        assert modules_of(package) <= set(members)
    assert not any(member.issym() or member.islnk() for member in members.values())


def test_a_wheel_runs_in_a_clean_environment(built, tmp_path):
    """Its one needed package, Typer, is lent from this environment; nothing is fetched."""
    import typer

    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=False)
    bin_directory = tmp_path / "clean" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(bin_directory / "python")]
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True, timeout=300
    )
    (site,) = (tmp_path / "clean" / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(str(Path(typer.__file__).parents[1]) + "\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLMSYS", "COVERAGE"))}
    run = subprocess.run(
        [bin_directory / "llmsys", "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    where = subprocess.run(
        [bin_directory / "python", "-c", "import llmsys.cli; print(llmsys.cli.__file__)"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout == f"llmsys {__version__}\n"
    assert where.stdout.startswith(str(tmp_path))
