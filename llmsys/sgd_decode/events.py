"""What happens while answers are written, as records of the house's event log.

Knows nothing of files.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DecodeEvent", "What"]

What = Literal[
    "plan_start",
    "plan_node",
    "plan_end",
    "node_ready",
    "node_start",
    "node_token",
    "node_end",
    "node_retry",
    "fork",
    "prefill",
    "escalate",
    "fallback",
    "done",
]


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """Something that happened to a question at `t_s`; `node` is 0 where no part is meant.

    detail: a title, a reason, or for `node_token` the piece of text; tokens: of what was written, for `prefill` of the
    prompt that were computed, for `fork` of the prompt that were there.
    """

    t_s: float
    event: What
    question: str
    node: int = 0
    tokens: int = 0
    detail: str = ""
