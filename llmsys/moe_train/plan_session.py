"""What `plan` does between its options and its records: the members after losses and joins, the plan, the moves.

Knows no stream.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmsys.errors import UsageFault
from llmsys.moe_train.domains import NodeDomain, failure_model, read_domains
from llmsys.moe_train.failures import MOST_FAILURES, FailureModel, failure_weights
from llmsys.moe_train.loads import LoadTable
from llmsys.moe_train.migration import Migration, migrate
from llmsys.moe_train.plan_records import read_plan
from llmsys.moe_train.planning import ModelPlan, plan_model

__all__ = ["Outcome", "PlanRequest", "make_plan", "parse_numbers"]


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What was asked for. `nodes` counts the nodes after `lost` and `add`, which need an old plan to come from;
    `counts` (k) replace the weights that node MTBF and repair time give.
    """

    slots: int
    nodes: int | None = None
    min_replicas: int = 2
    method: str = "best"
    split: str = "lp"
    mtbf_s: float = 21_600.0
    repair_s: float = 60.0
    counts: Sequence[int] = ()
    domains: Path | None = None
    old: str | Path | None = None
    lost: Sequence[int] = ()
    add: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The plan on its nodes, the world and the k it is judged by, the moves from the old plan, planning time, and what
    a person should know.
    """

    plan: ModelPlan
    world: FailureModel
    counts: tuple[int, ...]
    seconds: float
    migration: Migration | None = None
    warnings: tuple[str, ...] = field(default=())


def parse_numbers(text: str | None, what: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises UsageFault that names `what`.

    >>> parse_numbers("3,7", "--lost")
    (3, 7)
    """
    if not text:
        return ()
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0 or len(set(found)) < len(found):
        raise UsageFault(f"{what} {text!r}; expected different numbers from 0, as 1,2,3")
    return found


def make_plan(table: LoadTable, request: PlanRequest) -> Outcome:
    """Plan, and migrate from the old plan where there is one.

    Raises UsageFault for options that do not fit each other, PlanError where the slots cannot hold every expert,
    Unrecoverable where no living node holds some expert.
    """
    old = read_plan(request.old) if request.old is not None else None
    node_ids = _members(request, old)
    if old is not None and (len(old.placements), old.experts) != table.loads.shape:
        raise UsageFault(
            f"--from holds {len(old.placements)} layers of {old.experts} experts; "
            f"the loads have {table.loads.shape[0]} of {table.loads.shape[1]}"
        )
    world = _world(request, node_ids)
    import scipy.optimize  # noqa: F401  (loading the solver is not planning)

    started = time.perf_counter()
    plan = plan_model(
        table.loads,
        len(node_ids),
        request.slots,
        f=request.min_replicas,
        method=request.method,
        split=request.split,
        failures=world,
        node_ids=node_ids,
    )
    # racks and hazards belong to nodes: columns planned for them must stay where they are
    alike = world.is_uniform and world.domains == len(node_ids)
    mapping = "optimal" if alike else "fixed"
    moved = migrate(old, node_ids, plan, state_bytes=table.state_bytes, mapping=mapping) if old is not None else None
    seconds = time.perf_counter() - started
    placed = plan.on(moved.mapping) if moved else plan
    return Outcome(placed, world, tuple(sorted(world.weights)), seconds, moved, _warnings(request, plan))


def _members(request: PlanRequest, old: ModelPlan | None) -> list[int]:
    if old is None:
        if request.nodes is None or request.lost or request.add:
            raise UsageFault("give --nodes N, or --from PLAN with --lost and --add")
        return list(range(request.nodes))
    strange = sorted(set(request.lost) - set(old.node_ids))
    if strange:
        raise UsageFault(f"--lost {','.join(map(str, strange))}: not in the old plan, whose nodes are {old.node_ids}")
    living = [node for node in old.node_ids if node not in request.lost]
    living += range(max(old.node_ids) + 1, max(old.node_ids) + 1 + request.add)
    if request.nodes is not None and request.nodes != len(living):
        raise UsageFault(f"--nodes {request.nodes}, but {len(living)} are there after --lost and --add")
    if not living:
        raise UsageFault("--lost leaves no node; add some with --add")
    return living


def _world(request: PlanRequest, node_ids: Sequence[int]) -> FailureModel:
    named: Mapping[int, NodeDomain] = read_domains(request.domains) if request.domains is not None else {}
    alone = failure_model(node_ids, named, {})
    if request.counts:
        if max(request.counts) >= alone.domains or min(request.counts) < 1:
            raise UsageFault(f"--k {max(request.counts)}: {alone.domains} nodes or domains; expected 1 to one fewer")
        weights = {k: 1 / len(request.counts) for k in request.counts}
    elif alone.domains > 1:
        p = -math.expm1(-request.repair_s / request.mtbf_s)
        weights = failure_weights(alone.domains, p, MOST_FAILURES)
    else:
        weights = {}
    return failure_model(node_ids, named, weights)


def _warnings(request: PlanRequest, plan: ModelPlan) -> tuple[str, ...]:
    if plan.threshold == request.min_replicas:
        return ()
    room = f"{len(plan.node_ids)} nodes of {plan.slots} slots for {plan.experts} experts"
    return (f"--min-replicas {request.min_replicas} lowered to {plan.threshold}: {room} allow no more",)
