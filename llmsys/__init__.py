"""llmsys: nine systems of large-model serving, training and retrieval, as libraries.

Knows nothing about the command line (`llmsys.cli`); importing it loads nothing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
