"""llmsys: nine systems of large-model serving, training and retrieval, as libraries.

Knows nothing about the command line (`llmsys.cli`); importing it loads nothing heavy.
"""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("llmsys")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
