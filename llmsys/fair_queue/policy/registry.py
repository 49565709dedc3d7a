"""Policies by name: the one place that knows which names and keys the grammar has.

Knows no algorithm. `create` reads a spec, checks every key and value, and builds the policy.
"""

from collections.abc import Callable, Mapping

from llmsys.fair_queue.policy.cost import A10G_LLAMA2_7B, Cost, LinearCost
from llmsys.fair_queue.policy.drr import DeficitRoundRobin
from llmsys.fair_queue.policy.fcfs import FirstComeFirstServed, RequestsPerMinute, TokensPerMinute
from llmsys.fair_queue.policy.prediction import MovingAverage, Oracle, Predictor
from llmsys.fair_queue.policy.protocol import Policy
from llmsys.fair_queue.policy.spec import Options, PolicySpecError, check_weights
from llmsys.fair_queue.policy.vtc import LeastCounterFirst, VirtualTokenCounter

__all__ = ["COSTS", "POLICIES", "PREDICTIONS", "create"]

Weights = Mapping[str, float]
COSTS = ("linear", "profile")
PREDICTIONS = ("none", "ema", "oracle", "oracle±50%", "oracle50")


def create(spec: str, weights: Weights | None = None) -> Policy:
    """Build the policy that `spec`, NAME[:key=value,...], asks for; tenants without a weight have 1.

    Raises PolicySpecError, a ValueError that names the bad name, key, value or weight and what is allowed.

    >>> create("vtc:wq=2", weights={"a": 2.0}).snapshot()["counters"]
    {}
    """
    options = Options(spec)
    build = POLICIES.get(options.name)
    if build is None:
        hint = "; separate policies that have options by ';'" if "," in options.name else ""
        raise PolicySpecError(f"no policy is named {options.name!r}; known: {', '.join(POLICIES)}{hint}")
    return build(options, check_weights(weights))


def _linear(options: Options) -> LinearCost:
    return LinearCost(wp=options.number("wp", 1.0, least=0.0), wq=options.number("wq", 2.0, above=0.0))


def _cost(options: Options) -> Cost:
    linear = _linear(options)
    return A10G_LLAMA2_7B if options.choice("cost", COSTS) == "profile" else linear


def _predictor(options: Options) -> Predictor | None:
    kind = options.choice("predict", PREDICTIONS)
    seed = int(options.number("seed", 0.0, least=0.0))
    if kind == "none":
        return None
    if kind == "ema":
        return MovingAverage()
    return Oracle(spread=0.0 if kind == "oracle" else 0.5, seed=seed)


def _fcfs(options: Options, weights: Weights) -> Policy:
    options.done()
    return FirstComeFirstServed()


def _rpm(options: Options, weights: Weights) -> Policy:
    limit = options.number("limit", None, least=1.0)
    options.done()
    return RequestsPerMinute(int(limit))


def _tpm(options: Options, weights: Weights) -> Policy:
    limit = options.number("limit", None, above=0.0)
    refuse = options.choice("over", ("queue", "refuse")) == "refuse"
    options.done()
    return TokensPerMinute(limit, refuse=refuse)


def _lcf(options: Options, weights: Weights) -> Policy:
    cost, predictor = _cost(options), _predictor(options)
    options.done()
    return LeastCounterFirst(cost=cost, weights=weights, predictor=predictor)


def _vtc(options: Options, weights: Weights) -> Policy:
    cost, predictor = _cost(options), _predictor(options)
    options.done()
    return VirtualTokenCounter(cost=cost, weights=weights, predictor=predictor)


def _drr(options: Options, weights: Weights) -> Policy:
    quantum = options.number("quantum", 500.0, above=0.0)
    cost = _linear(options)
    options.done()
    return DeficitRoundRobin(quantum, cost=cost, weights=weights)


POLICIES: dict[str, Callable[[Options, Weights], Policy]] = {
    "fcfs": _fcfs,
    "rpm": _rpm,
    "tpm": _tpm,
    "lcf": _lcf,
    "vtc": _vtc,
    "drr": _drr,
}
