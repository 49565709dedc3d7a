"""What `llmsys.gpu` exports is what its modules call public."""

from importlib import import_module
from pkgutil import iter_modules

import llmsys.gpu


def test_the_package_exports_exactly_its_modules_public_names():
    modules = [info.name for info in iter_modules(llmsys.gpu.__path__) if not info.name.startswith("_")]
    public = {name for module in modules if module != "kernels" for name in _public(module)}

    assert public == set(llmsys.gpu.__all__)


def _public(module: str) -> list[str]:
    return import_module(f"llmsys.gpu.{module}").__all__
