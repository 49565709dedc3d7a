"""Plans as JSON lines: one record a layer, one per move, one for the model; and back.

The file that `plan` writes is the file that `plan --from` reads. Knows nothing of how a plan was made.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from llmsys.artifacts import decode_record, read_lines, source_name
from llmsys.errors import BadInput
from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.migration import Migration
from llmsys.moe_train.placement import Placement
from llmsys.moe_train.planning import ModelPlan
from llmsys.moe_train.recovery import Chance, chances
from llmsys.moe_train.splits import balance, equal_split

__all__ = ["LayerRecord", "ModelRecord", "MoveRecord", "joint_chances", "plan_records", "read_plan"]

DIGITS = 6

Count = Annotated[int, msgspec.Meta(ge=0)]


class LayerRecord(msgspec.Struct, frozen=True, tag="layer", tag_field="event"):
    """One layer: `nodes[j]` the expert in each slot of the j-th living node, `split[expert][node id]` its share there.

    `recovery` and `bound` map k failures to the layer's own chance and to what no placement exceeds; `optimal` is true
    where that is proven, else "unknown".
    """

    layer: Count
    replicas: list[int]
    nodes: list[list[Count]]
    split: dict[str, dict[str, float]]
    recovery: dict[str, float]
    bound: dict[str, float]
    optimal: bool | str
    balance: float


class MoveRecord(msgspec.Struct, frozen=True, tag="move", tag_field="event", rename={"source": "from", "target": "to"}):
    """One expert's state from node to node."""

    layer: Count
    expert: Count
    source: Count
    target: Count
    bytes: Count


class ModelRecord(msgspec.Struct, frozen=True, tag="model", tag_field="event", omit_defaults=True):
    """All layers together. `interval` holds the 95 % interval of every joint chance that was sampled, not counted."""

    joint_recovery: dict[str, float]
    balance: float
    nodes: Count
    slots: Count
    min_replicas: Count
    node_ids: list[Count]
    seconds: float
    interval: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    moves: int | None = None
    bytes: int | None = None
    max_send_bytes: int | None = None


def joint_chances(plan: ModelPlan, world: FailureModel, counts: Sequence[int], seed: int = 0) -> dict[int, Chance]:
    """P(all layers survive k failures) for every k in `counts`."""
    return chances(plan.placements, counts, world, seed=seed)


def plan_records(
    plan: ModelPlan,
    world: FailureModel,
    counts: Sequence[int],
    *,
    seconds: float,
    seed: int = 0,
    migration: Migration | None = None,
) -> Iterator[LayerRecord | MoveRecord | ModelRecord]:
    """The lines of a plan: layers, then moves, then the model."""
    for layer in range(len(plan.placements)):
        yield _layer_record(plan, layer, chances([plan.placements[layer]], counts, world, seed=seed))
    for move in migration.moves if migration else ():
        yield MoveRecord(move.layer, move.expert, move.source, move.target, move.bytes)
    joint = joint_chances(plan, world, counts, seed)
    yield ModelRecord(
        _shown(joint),
        round(plan.balance(), DIGITS),
        len(plan.node_ids),
        plan.slots,
        plan.threshold,
        list(plan.node_ids),
        round(seconds, DIGITS),
        {str(k): (round(one.low, DIGITS), round(one.high, DIGITS)) for k, one in joint.items() if not one.exact},
        len(migration.moves) if migration else None,
        migration.bytes if migration else None,
        migration.max_send_bytes if migration else None,
    )


def _layer_record(plan: ModelPlan, layer: int, found: Mapping[int, Chance]) -> LayerRecord:
    placement, split = plan.placements[layer], plan.splits[layer]
    shares: dict[str, dict[str, float]] = {}
    for expert, node in zip(*np.nonzero(split), strict=True):
        shares.setdefault(str(expert), {})[str(plan.node_ids[node])] = round(float(split[expert, node]), DIGITS)
    return LayerRecord(
        layer,
        placement.replicas().tolist(),
        placement.columns.tolist(),
        shares,
        _shown(found),
        {str(k): round(value, DIGITS) for k, value in placement.bound.items() if k in found},
        placement.optimal or "unknown",
        round(balance(plan.loads[layer : layer + 1], [split]), DIGITS),
    )


def _shown(found: Mapping[int, Chance]) -> dict[str, float]:
    return {str(k): round(one.value, DIGITS) for k, one in found.items()}


def read_plan(source: str | Path) -> ModelPlan:
    """The plan of a file that `plan` wrote; its replicas share equally, its loads are unknown (zeros).

    Moves are passed over. Raises BadInput at FILE:LINE, and where the file ends before its model record.
    """
    name = source_name(source)
    decoder = msgspec.json.Decoder(LayerRecord | MoveRecord | ModelRecord)
    layers: list[Placement] = []
    for number, line in read_lines(source):
        if not line.strip():
            continue
        record = decode_record(line, decoder, f"{name}:{number}")
        if isinstance(record, LayerRecord):
            layers.append(_placement(record, f"{name}:{number}", layers))
        elif isinstance(record, ModelRecord):
            return _whole(record, layers, f"{name}:{number}")
    raise BadInput(name, f"{len(layers)} layers and no model record", "all lines that `plan` printed")


def _placement(record: LayerRecord, where: str, before: Sequence[Placement]) -> Placement:
    widths = {len(column) for column in record.nodes}
    if record.layer != len(before) or len(widths) != 1 or 0 in widths:
        raise BadInput(
            where, f"layer {record.layer} with nodes of {sorted(widths)} slots", "layers in order, one width"
        )
    columns, experts = np.array(record.nodes, np.int64), len(record.replicas)
    if before and (columns.shape != before[0].columns.shape or experts != before[0].experts):
        raise BadInput(where, f"nodes and slots {columns.shape}, {experts} experts", "the sizes of layer 0")
    if not experts or np.bincount(columns.ravel(), minlength=experts).tolist() != record.replicas:
        raise BadInput(where, "nodes that do not hold the replicas", "every expert as often as its replicas say")
    return Placement(columns, experts)


def _whole(record: ModelRecord, layers: Sequence[Placement], where: str) -> ModelPlan:
    ids = tuple(record.node_ids)
    if not layers or len(set(ids)) != layers[0].nodes or list(ids) != sorted(ids):
        raise BadInput(where, f"node ids {list(ids)}", "one ascending id per node, after its layers")
    splits = tuple(equal_split(placement) for placement in layers)
    loads = np.zeros((len(layers), layers[0].experts), np.int64)
    return ModelPlan(ids, tuple(layers), splits, loads, record.min_replicas)
