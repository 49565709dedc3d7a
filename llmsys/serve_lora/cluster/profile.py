"""What a replica can do and how long it takes: measured by `serve-lora calibrate`, read by the simulator.

The step model is fitted by non-negative least squares on relative errors, so that short and long steps count alike.
Knows nothing of traces or policies.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from llmsys.artifacts import encode, replace_file
from llmsys.errors import BadInput
from llmsys.serve_lora.step_cost import StepModel, StepRow

__all__ = ["Fit", "ReplicaProfile", "Sample", "fit_profile", "read_profile", "write_profile"]

COEFFICIENTS = tuple(StepModel.__slots__)
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]


class ReplicaProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One replica: seconds of a step by its content, what fits, what bringing things in costs.

    batch_tokens: tokens of one step. kv_tokens: tokens whose keys and values fit. cold_start_s: from nothing to the
    first step; adapter_load_s: from disk to a slot. The defaults are set by hand for SmolLM2-135M on two CPU cores.
    """

    step: dict[str, Seconds] = msgspec.field(default_factory=lambda: asdict(StepModel()))
    max_batch: Positive = 32
    batch_tokens: Positive = 256
    kv_tokens: Positive = 100_000
    lora_slots: Positive = 32
    adapter_rank: Positive = 16
    adapter_load_s: Seconds = 0.02
    cold_start_s: Seconds = 6.0

    @property
    def model(self) -> StepModel:
        """The step model."""
        return StepModel(**self.step)


@dataclass(frozen=True, slots=True)
class Sample:
    """One step that was measured."""

    rows: tuple[StepRow, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model and how far it is from its samples: median and 90th percentile of relative errors."""

    model: StepModel
    samples: int
    error_p50: float
    error_p90: float


def fit_profile(samples: Sequence[Sample]) -> Fit:
    """Fit the step model's six coefficients to measured steps.

    Raises ValueError for fewer samples than coefficients or a step without time.
    """
    from scipy.optimize import nnls

    if len(samples) < len(COEFFICIENTS):
        raise ValueError(f"{len(samples)} steps were measured; expected at least {len(COEFFICIENTS)}")
    seconds = np.array([sample.seconds for sample in samples])
    if not (seconds > 0).all():
        raise ValueError("a step of no time; expected seconds above 0")
    design = np.array([_features(sample.rows) for sample in samples]) / seconds[:, None]
    scale = np.maximum(design.max(axis=0), 1e-300)
    found, _ = nnls(design / scale, np.ones(len(samples)))
    coefficients = found / scale
    errors = np.abs(design @ coefficients - 1.0)
    model = StepModel(**dict(zip(COEFFICIENTS, coefficients.tolist(), strict=True)))
    return Fit(model, len(samples), float(np.median(errors)), float(np.quantile(errors, 0.9)))


def read_profile(path: Path | None) -> ReplicaProfile:
    """Read a profile; None is the one set by hand. Raises BadInput that names the field."""
    if path is None:
        return ReplicaProfile()
    right = "a profile that `serve-lora calibrate` wrote"
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=ReplicaProfile)
        profile.model  # noqa: B018 (raises for names that are no coefficients)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise BadInput(str(path), str(error), right) from error
    return profile


def write_profile(path: Path, profile: ReplicaProfile) -> None:
    """Write a profile; it appears whole."""
    with replace_file(path) as stream:
        stream.write(encode(profile))


def _features(rows: Sequence[StepRow]) -> list[float]:
    """What the coefficients multiply: 1, prefill and decode tokens, context, adapters, the sum of their ranks."""
    ranks = {row.adapter: row.rank for row in rows if row.adapter}
    return [
        1.0,
        float(sum(row.prefill_tokens for row in rows)),
        float(sum(row.decode_tokens for row in rows)),
        float(sum(row.context_tokens for row in rows)),
        float(len(ranks)),
        float(sum(ranks.values())),
    ]
