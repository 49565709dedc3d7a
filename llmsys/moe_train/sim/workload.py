"""What is trained in a simulation: costs and loads that fit each other, and where they come from.

Knows no trace.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.loads import read_loads, zipf_loads
from llmsys.moe_train.sim.cost import MODELS, CostModel, read_cost

__all__ = ["Workload", "simulated_workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Costs, loads [L, E], and a sentence on the loads' origin."""

    cost: CostModel
    loads: NDArray[np.int64]
    note: str


def simulated_workload(model: str, cost: Path | None, loads: str | None, *, seed: int = 0) -> Workload:
    """The costs of a file over the model's, and the loads of a file or of Zipf's law in the model's shape.

    A loads file brings its own layers, experts and state size. Raises BadInput for files that do not fit their format.
    """
    shape = MODELS[model]
    if loads is None:
        drawn = zipf_loads(shape.layers, shape.experts, seed=seed)
        return Workload(
            read_cost(cost, model),
            drawn,
            "loads: assumed, Zipf's law (two of 32 experts take 55 %); --loads takes measured",
        )
    given = read_loads(loads)
    sizes = msgspec.structs.replace(read_cost(cost, model), expert_mb=max(given.state_bytes) / 1e6)
    return Workload(sizes, given.loads, f"loads: {loads}")
