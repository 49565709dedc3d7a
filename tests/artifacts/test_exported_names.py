"""What `llmsys.artifacts` exports is what its modules make public, sorted, and cheap to import."""

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from llmsys import artifacts

MODULES = [import_module(f"llmsys.artifacts.{found.name}") for found in pkgutil.iter_modules(artifacts.__path__)]


def test_the_package_exports_every_public_name_of_its_modules():
    assert set(artifacts.__all__) == {name for module in MODULES for name in module.__all__}
    for module in MODULES:
        for name in module.__all__:
            assert getattr(artifacts, name) is getattr(module, name)


@pytest.mark.parametrize("module", [artifacts, *MODULES], ids=lambda module: module.__name__)
def test_names_are_sorted_constants_first(module):
    kinds = [(not name.isupper(), not name[0].isupper(), name) for name in module.__all__]

    assert kinds == sorted(kinds)


def test_importing_the_formats_loads_neither_torch_nor_asyncio():
    script = (
        "import sys, llmsys.artifacts; print(*sorted({'torch', 'asyncio', 'transformers', 'rich'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == ""
