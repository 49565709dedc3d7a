"""Policies by name: the one place that knows which names and keys the grammar has.

Knows no algorithm. `create` reads a spec, checks every key and value, and builds the policy.
"""

from collections.abc import Callable, Mapping

from llmsys.fair_queue.policy.billing import HolisticBilling, TokenBilling
from llmsys.fair_queue.policy.cost import A10G_LLAMA2_7B, Cost, LinearCost
from llmsys.fair_queue.policy.dlpm import DeficitLongestPrefixMatch
from llmsys.fair_queue.policy.drr import DeficitRoundRobin
from llmsys.fair_queue.policy.fairbatch import SlackBatching
from llmsys.fair_queue.policy.fcfs import FirstComeFirstServed, RequestsPerMinute, TokensPerMinute
from llmsys.fair_queue.policy.justitia import AgentFairSharing
from llmsys.fair_queue.policy.prediction import MovingAverage, NoPrediction, Oracle, Predictor
from llmsys.fair_queue.policy.priority import StrictPriority
from llmsys.fair_queue.policy.protocol import Policy
from llmsys.fair_queue.policy.spec import Options, PolicySpecError, check_weights
from llmsys.fair_queue.policy.urgency import Deadline, Slack, Urgency
from llmsys.fair_queue.policy.vtc import LeastCounterFirst, VirtualTokenCounter

__all__ = ["COSTS", "POLICIES", "PREDICTIONS", "create"]

Weights = Mapping[str, float]
# seconds of a prompt token, and of an output token in a batch that fills the memory, on the measured A10G
TOKEN_S, STEP_S = 0.000216, 0.045
COSTS = ("linear", "profile")
PREDICTIONS = ("none", "ema", "oracle", "oracle±50%", "oracle50")
INNER = ("vtc", "lcf", "drr", "fcfs", "edf", "slo", "dlpm", "justitia", "equinox")


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


def _cached(options: Options) -> float:
    return options.number("cached", 1.0, least=0.0, most=1.0)


def _billing(options: Options) -> TokenBilling:
    linear: Cost = _linear(options)
    cost = A10G_LLAMA2_7B if options.choice("cost", COSTS) == "profile" else linear
    return TokenBilling(cost, _cached(options))


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
    billing, predictor = _billing(options), _predictor(options)
    options.done()
    return LeastCounterFirst(billing=billing, weights=weights, predictor=predictor)


def _vtc(options: Options, weights: Weights) -> Policy:
    return _fair(options, weights, None)


def _fair(options: Options, weights: Weights, urgency: Urgency | None) -> Policy:
    billing, predictor = _billing(options), _predictor(options)
    options.done()
    # a refund of cached tokens can lower the least counter, as a refund of predicted ones can
    forget = billing.cached == 1.0
    return VirtualTokenCounter(billing=billing, weights=weights, predictor=predictor, urgency=urgency, forget=forget)


def _edf(options: Options, weights: Weights) -> Policy:
    return _fair(options, weights, Deadline(options.number("ttft", 10.0, least=0.0)))


def _slo(options: Options, weights: Weights) -> Policy:
    urgency = Slack(
        ttft_s=options.number("ttft", 10.0, least=0.0),
        tpot_s=options.number("tpot", 0.1, least=0.0),
        token_s=options.number("token", TOKEN_S, least=0.0),
        step_s=options.number("step", STEP_S, least=0.0),
    )
    return _fair(options, weights, urgency)


def _drr(options: Options, weights: Weights) -> Policy:
    quantum = options.number("quantum", 500.0, above=0.0)
    cost, cached = _linear(options), _cached(options)
    options.done()
    return DeficitRoundRobin(quantum, cost=cost, weights=weights, cached=cached)


def _dlpm(options: Options, weights: Weights) -> Policy:
    quantum = options.number("quantum", 500.0, above=0.0)
    cost = _linear(options)
    block = int(options.number("block", 512.0, least=1.0))
    capacity = int(options.number("blocks", 4096.0, least=1.0))
    options.done()
    return DeficitLongestPrefixMatch(quantum, cost=cost, block_tokens=block, capacity=capacity, weights=weights)


def _priority(options: Options, weights: Weights) -> Policy:
    age_s = options.number("age", None, above=0.0) if options.given("age") else None
    preempt = options.choice("preempt", ("no", "yes")) == "yes"
    inner = options.inner("inner", INNER)
    create(inner, weights)
    return StrictPriority(lambda: create(inner, weights), age_s=age_s, preempt=preempt)


def _fairbatch(options: Options, weights: Weights) -> Policy:
    tbt_s = options.number("tbt", 0.1, above=0.0)
    floor = int(options.number("floor", 32.0, least=1.0))
    return SlackBatching(create(options.inner("inner", INNER), weights), tbt_s=tbt_s, floor=floor)


def _justitia(options: Options, weights: Weights) -> Policy:
    kind = options.choice("predict", ("ema", "oracle"))
    options.done()
    return AgentFairSharing(weights=weights, predictor=MovingAverage() if kind == "ema" else Oracle())


def _equinox(options: Options, weights: Weights) -> Policy:
    billing = HolisticBilling(
        cost=_linear(options),
        alpha=options.number("alpha", 0.5, least=0.0, most=1.0),
        latency_s=options.number("latency", 10.0, above=0.0),
        gpu=options.number("gpu", 10.0, above=0.0),
    )
    kind = options.choice("predict", ("ema", "oracle", "none"))
    options.done()
    predictor = {"ema": MovingAverage, "oracle": Oracle, "none": NoPrediction}[kind]()
    return VirtualTokenCounter(billing=billing, weights=weights, predictor=predictor)


POLICIES: dict[str, Callable[[Options, Weights], Policy]] = {
    "fcfs": _fcfs,
    "rpm": _rpm,
    "tpm": _tpm,
    "lcf": _lcf,
    "vtc": _vtc,
    "drr": _drr,
    "dlpm": _dlpm,
    "priority": _priority,
    "edf": _edf,
    "slo": _slo,
    "justitia": _justitia,
    "equinox": _equinox,
    "fairbatch": _fairbatch,
}
