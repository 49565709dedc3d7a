"""Randomness by name: the generator of one query and one copy, from numpy's counter-based Philox.

Knows no estimator. Equal names give equal streams; different names give independent ones.
"""

import numpy as np

__all__ = ["coins"]


def coins(seed: int, query: int, copy: int = 0) -> np.random.Generator:
    """The generator of query number `query` and copy number `copy` under `seed`."""
    key = np.array([seed, copy], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, query], np.uint64)))
