"""What `llmsys.gpu` exports is what its modules call public."""

from importlib import import_module
from pkgutil import iter_modules

import llmsys.gpu

APART = ("compiled", "kernels")
"""Modules whose members are imported from themselves: they need numba or triton, which the package must not load."""


def test_the_package_exports_exactly_its_modules_public_names():
    modules = [info.name for info in iter_modules(llmsys.gpu.__path__) if not info.name.startswith("_")]
    public = {name for module in modules if module not in APART for name in _public(module)}

    assert public == set(llmsys.gpu.__all__)


def _public(module: str) -> list[str]:
    return import_module(f"llmsys.gpu.{module}").__all__
