"""Every setting of the decoder, checked when it is made.

Knows nothing of backends.
"""

from dataclasses import dataclass, field

from llmsys.errors import UsageFault
from llmsys.sgd_decode.prompting import Prompts
from llmsys.sgd_decode.repair import MAX_NODES
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["MODES", "DecodeSettings"]

MODES = ("ar", "sot", "sgd", "sgd-v1")
PLAN_TOKENS = 320


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How answers are written. Mode sgd-v1 is sgd without `pipeline` and `continue_parent`.

    pipeline: parts may start while the plan is being written. continue_parent: a part goes on in the conversation of
    its longest parent instead of starting from the plan. grammar: the plan is held to its form where the backend can.
    node_tokens: most tokens of a part, None by level. answer_tokens: most tokens of an answer in one piece. min_gain:
    least predicted speed-up, below which the answer is written in one piece; checked where `step_time` is known.
    retries: times that a failed part is tried again.
    """

    mode: str = "sgd"
    pipeline: bool = True
    continue_parent: bool = True
    grammar: bool = True
    max_nodes: int = MAX_NODES
    node_tokens: int | None = None
    answer_tokens: int = 1024
    min_gain: float = 1.10
    retries: int = 2
    temperature: float = 0.0
    seed: int = 0
    headings: bool = False
    step_time: StepTime | None = None
    prompts: Prompts = field(default_factory=Prompts.load)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageFault(f"mode {self.mode!r}; expected one of {', '.join(MODES)}")
        if self.mode == "sgd-v1":
            object.__setattr__(self, "pipeline", False)
            object.__setattr__(self, "continue_parent", False)

    @property
    def plan_tokens(self) -> int:
        """Most tokens of a plan."""
        return PLAN_TOKENS
