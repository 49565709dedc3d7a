"""Options that every verb of `llmsys al-sample` takes, defined once."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Basis", "Intercept", "Pool", "Weights"]

Pool = Annotated[
    str,
    typer.Argument(
        metavar="POOL", help="Points: .npy, .npz:KEY, .safetensors[:KEY], .fvecs, or JSON Lines with `x`; - is stdin."
    ),
]
Basis = Annotated[
    str,
    typer.Option(
        "--basis",
        help="Family of functions: linear, poly:P, legendre:P, chebyshev:P, fourier:P, rff:D:H or FILE.py:FUNCTION.",
    ),
]
Intercept = Annotated[
    bool, typer.Option("--intercept/--no-intercept", help="Put a constant first unless a column is constant.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--pool-weights", metavar="FILE", help="Weight of each point in the pool's distribution: .npy or text."
    ),
]
