"""Every setting of the decoder, checked when it is made.

Knows nothing of backends.
"""

from dataclasses import dataclass, field

from llmsys.errors import UsageFault
from llmsys.sgd_decode.backends import Size
from llmsys.sgd_decode.forwarding import FULL, Forwarding
from llmsys.sgd_decode.prompting import Prompts
from llmsys.sgd_decode.repair import MAX_NODES
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["FULL_PLANS", "MODES", "ON_FLAT", "DecodeSettings", "Routing"]

MODES = ("auto", "ar", "sot", "sgd", "sgd-v1")
FULL_PLANS = ("auto", "always", "never")
ON_FLAT = ("hint", "drop")
PLAN_TOKENS = 320


@dataclass(frozen=True, slots=True)
class Routing:
    """Which of two models writes what; with `pair` False there is one, and nothing to route.

    threshold: parts up to this level go to the small one. planner: who plans. escalate: a part of the small model whose
    mean log-probability is below `escalate_below` (None: the 20th percentile of such parts so far) is written anew by
    the large one.
    """

    pair: bool = False
    threshold: int = 2
    planner: Size = "large"
    escalate: bool = False
    escalate_below: float | None = None


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How answers are written. Mode sgd-v1 is sgd without `pipeline`, `continue_parent` and `share_prefix`.

    pipeline: parts may start while the plan is being written. full_plan: which of them wait for its end nevertheless,
    to see all titles: auto, those for which the wait is short. continue_parent: a part goes on in the conversation of
    the parent that holds most of what it needs instead of starting from the plan. share_prefix: keys and values are
    used by many jobs. forward: how much of its parents' texts a part sees. grammar: the plan is held to its form where
    the backend can. node_tokens: most tokens of a part, None by level. answer_tokens: most tokens of an answer in one
    piece. min_gain: least predicted speed-up, below which the answer is written in one piece, with the plan as a hint
    or without it (`on_flat`); checked where `step_time` is known. retries: times that a failed part is tried again by
    each model.
    """

    mode: str = "sgd"
    pipeline: bool = True
    full_plan: str = "auto"
    continue_parent: bool = True
    share_prefix: bool = True
    forward: Forwarding = FULL
    routing: Routing = Routing()
    grammar: bool = True
    max_nodes: int = MAX_NODES
    node_tokens: int | None = None
    answer_tokens: int = 1024
    min_gain: float = 1.10
    on_flat: str = "hint"
    retries: int = 2
    temperature: float = 0.0
    seed: int = 0
    headings: bool = False
    step_time: StepTime | None = None
    prompts: Prompts = field(default_factory=Prompts.load)

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("full_plan", FULL_PLANS), ("on_flat", ON_FLAT)):
            if getattr(self, name) not in allowed:
                raise UsageFault(f"{name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.mode == "sgd-v1":
            for name in ("pipeline", "continue_parent", "share_prefix"):
                object.__setattr__(self, name, False)

    @property
    def plan_tokens(self) -> int:
        """Most tokens of a plan."""
        return PLAN_TOKENS
