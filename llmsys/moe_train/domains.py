"""Which nodes fail together, from a file: `{"0": "rack-a", "1": {"domain": "rack-b", "hazard": 3.0}}`.

A node that the file does not name fails on its own. Knows no placement.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from llmsys.errors import BadInput
from llmsys.moe_train.failures import FailureModel

__all__ = ["failure_model", "read_domains"]


class NodeDomain(msgspec.Struct, frozen=True):
    """Where one node stands and how often it fails, relative to the others."""

    domain: str
    hazard: Annotated[float, msgspec.Meta(gt=0)] = 1.0


def read_domains(path: Path) -> dict[int, NodeDomain]:
    """The domains of nodes by id. Raises BadInput for anything but an object of strings or `domain` objects."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[int, str | NodeDomain])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        right = 'an object from node to domain, as {"0": "rack-a", "1": {"domain": "rack-b", "hazard": 3}}'
        raise BadInput(str(path), str(error), right) from error
    return {node: NodeDomain(one) if isinstance(one, str) else one for node, one in found.items()}


def failure_model(
    node_ids: Sequence[int], domains: Mapping[int, NodeDomain], weights: Mapping[int, float]
) -> FailureModel:
    """The failures of these nodes; a domain's hazard is the highest of its nodes."""
    placed = [domains.get(node, NodeDomain(f"node {node} alone")) for node in node_ids]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.domain for one in placed))}
    hazards = [0.0] * len(numbers)
    for one in placed:
        hazards[numbers[one.domain]] = max(hazards[numbers[one.domain]], one.hazard)
    known = {k: weight for k, weight in weights.items() if k < len(numbers)}
    return FailureModel(tuple(numbers[one.domain] for one in placed), tuple(hazards), known)
