"""What things cost on a cluster: a step, a checkpoint, a restart, a reconfiguration, a byte.

`cost.json` overrides the defaults, which are the paper's machine room as far as the paper says (10 × RTX 3090, 100
Gb/s, checkpoints on NFS). One number may be given per policy, with "*" for all others. Knows no policy's rules.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from llmsys.artifacts import replace_file
from llmsys.errors import BadInput

__all__ = ["MODELS", "CostModel", "ModelShape", "per_policy", "read_cost", "write_cost"]

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
EVERYONE = "*"


class ModelShape(msgspec.Struct, frozen=True):
    """A model of the paper's table: layers, experts, EP size of its baselines, MB of one expert's training state."""

    layers: int
    experts: int
    ep_size: int
    expert_mb: float


MODELS: Mapping[str, ModelShape] = {
    "gpt-s": ModelShape(12, 8, 2, 63.0),
    "gpt-m": ModelShape(12, 12, 2, 112.0),
    "gpt-l": ModelShape(12, 16, 4, 112.0),
}


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds unless the name says otherwise.

    One step with n working nodes takes `step_fixed_s + batch · sample_s · balance / n`. `expert_mb`: state of one
    expert in one layer; `reconfigure_s`: detection, groups and plan, without transfers; `restart_s`: until the first
    step after a full stop; `ckpt_s`: training stands still for a checkpoint; `ckpt_every` steps; `join_wait_s`: how
    long newcomers are collected. `slowdown` multiplies a policy's step.
    """

    sample_s: Positive = 0.22
    step_fixed_s: NotNegative = 0.05
    batch: Count = 40
    slots: Count = 6
    min_replicas: Count = 2
    ep_size: Count = 4
    expert_mb: Positive = 112.0
    link_gbps: Positive = 100.0
    reconfigure_s: NotNegative | dict[str, NotNegative] = msgspec.field(
        default_factory=lambda: {"torchft": 5.1, EVERYONE: 30.0}
    )
    restart_s: NotNegative | dict[str, NotNegative] = 180.0
    ckpt_s: NotNegative | dict[str, NotNegative] = 20.0
    ckpt_every: Count | dict[str, Count] = msgspec.field(default_factory=lambda: {"ds": 50, EVERYONE: 250})
    join_wait_s: NotNegative = 120.0
    slowdown: Positive | dict[str, Positive] = msgspec.field(
        default_factory=lambda: {"oobleck-like": 1.1, "bamboo-like": 1.25, EVERYONE: 1.0}
    )

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's state in one layer."""
        return round(self.expert_mb * 1e6)

    def step_s(self, nodes: int, balance: float, policy: str) -> float:
        """Seconds of one step of `policy` on `nodes` working nodes."""
        whole = self.step_fixed_s + self.batch * self.sample_s * balance / nodes
        return whole * per_policy(self.slowdown, policy, 1.0)

    def transfer_s(self, sent_bytes: int) -> float:
        """Seconds to send so many bytes over one node's link."""
        return sent_bytes * 8 / (self.link_gbps * 1e9)


def write_cost(path: Path, cost: CostModel) -> None:
    """Write costs as the file that `read_cost` reads."""
    with replace_file(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(cost)) + b"\n")


def per_policy(value: float | Mapping[str, float], policy: str, default: float) -> float:
    """The number for one policy: its own, that of "*", or the default."""
    if isinstance(value, Mapping):
        return value.get(policy, value.get(EVERYONE, default))
    return value


def read_cost(path: Path | None, model: str = "gpt-l") -> CostModel:
    """The costs of a file over those of the model; without a file, the defaults. Raises BadInput for anything else."""
    shape = MODELS[model]
    base = CostModel(ep_size=shape.ep_size, expert_mb=shape.expert_mb)
    if path is None:
        return base
    try:
        given = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        return msgspec.convert({**msgspec.structs.asdict(base), **given}, CostModel)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        right = 'an object as {"sample_s": 0.22, "batch": 40, "ckpt_every": {"ds": 50, "*": 250}}'
        raise BadInput(str(path), str(error), right) from error
