"""The moments of a calibration, by the name of a weight, and the file that keeps them.

Knows how a fused projection's parts share their inputs; how moments are measured is `calibration`'s.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from llmsys.artifacts import open_tensors, write_tensors
from llmsys.errors import BadInput

__all__ = ["Place", "Sensitivity", "Statistics", "read_statistics"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Of one matrix [out, in]: H [in, in] and g [out], float32; a common factor of both means nothing within it."""

    inputs: F32
    outputs: F32


class Place(msgspec.Struct, frozen=True):
    """A matrix is rows first … first + rows of the fused projection `group`."""

    group: str
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sensitivities of a model's projections by the name of their weight; fused ones share their inputs."""

    inputs: dict[str, F32]
    outputs: dict[str, F32]
    places: dict[str, Place]

    def of(self, name: str, shape: tuple[int, ...]) -> Sensitivity | None:
        """Of one matrix, None where nothing was measured. Raises BadInput for a matrix of another shape."""
        place = self.places.get(name)
        if place is None:
            return None
        found = Sensitivity(self.inputs[place.group], self.outputs[place.group][place.first :][: place.rows])
        expected = (len(found.outputs), len(found.inputs))
        if shape != expected:
            raise BadInput("the calibration", f"tensor {name!r} of shape {shape}", f"shape {expected}")
        return found

    def checksum(self) -> int:
        """The xxh3-64 of all moments: what a resumed run must find as it was."""
        whole = xxhash.xxh3_64()
        for group in sorted(self.inputs):
            whole.update(np.ascontiguousarray(self.inputs[group]).data)
            whole.update(np.ascontiguousarray(self.outputs[group]).data)
        return int(whole.intdigest())

    def write(self, path: Path) -> None:
        """Store as safetensors, whole or not at all."""
        arrays = {f"{group}.inputs": array for group, array in self.inputs.items()}
        arrays |= {f"{group}.outputs": array for group, array in self.outputs.items()}
        write_tensors(path, arrays, document=self.places)


def read_statistics(path: Path) -> Statistics:
    """What `Statistics.write` wrote. Raises BadInput for anything else."""
    file = open_tensors(path)
    places = file.document(dict[str, Place])
    inputs = {place.group: np.array(file.array(f"{place.group}.inputs")) for place in places.values()}
    outputs = {place.group: np.array(file.array(f"{place.group}.outputs")) for place in places.values()}
    for place in places.values():
        h, g = inputs[place.group], outputs[place.group]
        fits = h.ndim == 2 and h.shape[0] == h.shape[1] and g.ndim == 1
        if not (fits and 0 <= place.first < place.first + place.rows <= len(g)):
            raise BadInput(str(path), f"statistics of {place.group} that do not fit", "what `compress calibrate` wrote")
        if not (np.isfinite(h).all() and np.isfinite(g).all() and (g >= 0).all()):
            raise BadInput(str(path), f"statistics of {place.group} that are no moments", "finite numbers")
    return Statistics(inputs, outputs, places)
