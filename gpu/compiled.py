"""Compile loops over arrays with numba, and keep the machine code on disk as long as it is right.

numba keeps a function's code until the file of that function changes, and so would go on using code that holds an old
version of what it calls or of a constant from another file. Here it is kept until any file of the function's system (a
package of llmsys) changes. Imported only where loops are; knows no loop.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator, _CacheLocator

import llmsys

__all__ = ["SystemLocator", "compile_loop", "compiled", "inlined"]

F = TypeVar("F", bound=Callable[..., object])
_ROOT = Path(llmsys.__file__).parent


def compiled(function: F) -> F:
    """The function, compiled at its first call and kept on disk; without the GIL, every float operation as written.

    The plain function stays reachable as `.py_func`, for tests that run both.
    """
    return compile_loop(function)


def compile_loop(function: F, **options: Any) -> F:  # noqa: ANN401
    """As `compiled`, with further options of numba.njit."""
    return cast(F, numba.njit(cache=True, nogil=True, **options)(function))


def inlined(function: F) -> F:
    """The function, for compiled callers to take in: a call costs 0.2 µs where the arguments are tuples of arrays."""
    return cast(F, numba.njit(inline="always", nogil=True)(function))


class SystemLocator(_CacheLocator):  # type: ignore[misc]
    """Where numba keeps the code of llmsys's functions: where it would anyway, under a stamp of the whole system."""

    def __init__(self, inner: Any, files: Path) -> None:  # noqa: ANN401
        self._inner = inner
        self._files = files

    @classmethod
    def from_function(cls, py_func: Callable[..., object], py_file: str) -> "SystemLocator | None":
        """The locator of a function of llmsys, None for others, which keep numba's own."""
        path = Path(py_file).absolute()
        if not path.is_relative_to(_ROOT):
            return None
        for kind in (UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator):
            inner = kind.from_function(py_func, py_file)
            if inner is not None:
                return cls(inner, _ROOT / path.relative_to(_ROOT).parts[0])
        return None

    def get_cache_path(self) -> str:
        """As numba's own."""
        return str(self._inner.get_cache_path())

    def get_source_stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Names, times and sizes of the system's files."""
        return _stamp(self._files)

    def get_disambiguator(self) -> str:
        """As numba's own."""
        return str(self._inner.get_disambiguator())


@cache
def _stamp(files: Path) -> tuple[tuple[str, int, int], ...]:
    found = [(path, path.stat()) for path in sorted(files.rglob("*.py"))]
    return tuple((str(path.relative_to(files)), stat.st_mtime_ns, stat.st_size) for path, stat in found)


def _locate_ours_first() -> None:
    """Put our locator before those that numba knows, or that the user set."""
    own = f"{SystemLocator.__module__}.{SystemLocator.__qualname__}"
    others = numba.config.CACHE_LOCATOR_CLASSES or ",".join(
        kind.__name__ for kind in numba.core.caching.CacheImpl._locator_classes
    )
    if own not in others:
        numba.config.CACHE_LOCATOR_CLASSES = f"{own},{others}"


_locate_ours_first()
