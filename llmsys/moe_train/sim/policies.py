"""The policies by name, each with the sentence that says what it is a model of and what was assumed.

Names that end in `-like` are models of published systems from their papers, not those systems.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import UsageFault
from llmsys.moe_train.sim.cost import CostModel
from llmsys.moe_train.sim.engine import Policy
from llmsys.moe_train.sim.parallel import (
    EqualReplicas,
    memory_copies,
    reconfigured,
    replica_groups,
    restarted,
    snapshots,
)
from llmsys.moe_train.sim.pipelines import PipelinePolicy
from llmsys.moe_train.sim.planned import IdealPolicy, PlannedPolicy

__all__ = ["POLICIES", "chosen_policies"]

Loads = NDArray[np.int64]
Builder = Callable[[str, CostModel, Loads], Policy]


def _planned(note: str, method: str, mapping: str) -> Builder:
    return lambda name, cost, loads: PlannedPolicy(name, note, cost, loads, method=method, mapping=mapping)


def _restarting(note: str, *, saves_to_join: bool) -> Builder:
    return lambda name, cost, loads: EqualReplicas(
        name, note, cost, loads, recovery=restarted, saves_to_join=saves_to_join
    )


def _in_place(note: str) -> Builder:
    return lambda name, cost, loads: EqualReplicas(name, note, cost, loads, recovery=reconfigured)


POLICIES: Mapping[str, Builder] = {
    "ideal": lambda name, cost, loads: IdealPolicy(cost),
    "lazarus": _planned("the paper's MRO to the letter, its greedy mapping; steady loads", "mro", "greedy"),
    "best": _planned(
        "this package: corrected placement, least-transfer mapping, the same constants", "best", "optimal"
    ),
    "ds": _restarting(
        "DeepSpeed-MoE as the paper runs it: full restart from a checkpoint every 50 steps", saves_to_join=True
    ),
    "ds-ft": _in_place("the paper's DS(FT): equal replicas with in-place reconfiguration"),
    "tutel-ft": _in_place(
        "the paper's Tutel(FT), modelled as ds-ft: adaptive parallelism is a `slowdown` for you to give"
    ),
    "torchrun": _restarting(
        "an elastic launcher: any change of members stops all and loads the last checkpoint", saves_to_join=False
    ),
    "torchft": lambda name, cost, loads: EqualReplicas(
        name,
        "replica groups of ep_size nodes; a broken group stops until whole; 5.1 s measured for 0.2.0 to commit again",
        cost,
        loads,
        recovery=replica_groups,
    ),
    "oobleck-like": lambda name, cost, loads: PipelinePolicy(
        name,
        "a model of Oobleck from its paper: any node count, one loss at a time; pipeline bubbles assumed 10 %",
        cost,
        loads,
        tolerated=1,
        neighbours_back_up=False,
    ),
    "bamboo-like": lambda name, cost, loads: PipelinePolicy(
        name,
        "a model of Bamboo from its paper: neighbours repeat each other's work, assumed to cost 25 %",
        cost,
        loads,
        tolerated=None,
        neighbours_back_up=True,
    ),
    "gemini-like": lambda name, cost, loads: EqualReplicas(
        name,
        "a model of Gemini from its paper: restart from a neighbour's memory as of the last step, copies for free",
        cost,
        loads,
        recovery=memory_copies,
    ),
    "moevement-like": lambda name, cost, loads: EqualReplicas(
        name,
        "a model of MoEvement from its paper: as ds-ft, lost experts replayed from snapshots within reconfigure_s",
        cost,
        loads,
        recovery=snapshots,
    ),
}


def chosen_policies(names: str, cost: CostModel, loads: Loads) -> Sequence[Policy]:
    """The policies of a list as `ds,lazarus`, or `all`. Raises UsageFault for an unknown or repeated name."""
    chosen = list(POLICIES) if names == "all" else names.split(",")
    strange = [name for name in chosen if name not in POLICIES]
    if strange or len(set(chosen)) < len(chosen):
        raise UsageFault(f"--policies {names}; expected all, or different ones of {', '.join(POLICIES)}")
    return [POLICIES[name](name, cost, loads) for name in chosen]
