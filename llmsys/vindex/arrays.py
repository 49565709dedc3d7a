"""Names for the array types of the index. Knows no shapes: every function says its own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "F64", "I32", "I64", "Stored"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Stored = NDArray[np.floating[Any]]
