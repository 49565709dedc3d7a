"""What happens while answers are written, as records of the house's event log.

Knows nothing of files.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DecodeEvent", "What"]

What = Literal[
    "plan_start", "plan_node", "plan_end", "node_ready", "node_start", "node_end", "node_retry", "fallback", "done"
]


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """Something that happened to a question at `t_s`; `node` is 0 where no part is meant."""

    t_s: float
    event: What
    question: str
    node: int = 0
    tokens: int = 0
    detail: str = ""
