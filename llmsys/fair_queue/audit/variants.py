"""What a policy adds to the constant of the bound: predictions that may be refunded, quanta that may be owed.

For these variants 2 (U_log + allowance) is expected, not proved: the audit reports it as an empirical check.
"""

import numpy as np

from llmsys.fair_queue.audit.columns import ADMIT, LEAVE, PREEMPT, TOKEN, Columns
from llmsys.fair_queue.audit.scan import Floats
from llmsys.fair_queue.policy import MovingAverage, Oracle, Predictor, Request
from llmsys.fair_queue.policy.registry import COSTS, PREDICTIONS
from llmsys.fair_queue.policy.spec import Options, PolicySpecError

__all__ = ["allowance", "cached_price", "is_plain_vtc"]

UNKNOWN = "unknown"


def is_plain_vtc(spec: str) -> bool:
    """Whether the log names VTC, by any order inside a tenant, with nothing refunded: then it can be replayed."""
    options = _options(spec)
    if options.name not in ("vtc", "edf", "slo") or cached_price(spec) < 1.0:
        return False
    return options.choice("predict", PREDICTIONS) == "none" and options.choice("cost", COSTS) == "linear"


def cached_price(spec: str) -> float:
    """What a cached prompt token counts, of one that is computed: the policy's `cached`; nothing for dlpm."""
    options = _options(spec)
    return 0.0 if options.name == "dlpm" else options.number("cached", 1.0, least=0.0, most=1.0)


def allowance(columns: Columns, unit: Floats, prompt_unit: Floats) -> float:
    """Cost units per weight to add to U_log: 2P for predictions, a quantum for round robin, otherwise 0.

    P is the largest charge of one tenant that was predicted and not yet generated, replayed from the log; what one
    admission charges for cached tokens and refunds after it is added. `unit` and `prompt_unit` price a token of every
    tenant.
    """
    options = _options(columns.meta.policy)
    refund = 2.0 * (1.0 - cached_price(columns.meta.policy)) * _largest_cached(columns, prompt_unit)
    if options.name in ("drr", "dlpm"):
        return options.number("quantum", 500.0, above=0.0) + refund
    predict = options.choice("predict", PREDICTIONS) if options.name in ("vtc", "lcf", "edf", "slo") else "none"
    if predict == "none":
        return refund
    seed = int(options.number("seed", 0.0, least=0.0))
    predictor: Predictor = MovingAverage() if predict == "ema" else Oracle(spread=0.5 * ("50" in predict), seed=seed)
    return 2.0 * _largest_prediction(columns, predictor, unit) + refund


def _options(spec: str) -> Options:
    """The options of a policy's name; a name outside our grammar, as another program may write it, has none."""
    try:
        return Options(spec or UNKNOWN)
    except PolicySpecError:
        return Options(UNKNOWN)


def _largest_cached(columns: Columns, prompt_unit: Floats) -> float:
    """The most that cached tokens of one tenant's requests that were admitted together cost at full price."""
    admitted = ~np.isnan(columns.stamps[:, 1])
    sums: dict[tuple[float, int], float] = {}
    for tokens, tenant, at_s in zip(
        columns.cached[admitted], columns.request_tenant[admitted], columns.stamps[admitted, 1], strict=True
    ):
        key = float(at_s), int(tenant)
        sums[key] = sums.get(key, 0.0) + tokens * prompt_unit[tenant]
    return max(sums.values(), default=0.0)


def _largest_prediction(columns: Columns, predictor: Predictor, unit: Floats) -> float:
    requests = [
        Request(name, columns.tenants[tenant], int(prompt), int(output))
        for name, tenant, prompt, output in zip(
            columns.requests, columns.request_tenant, columns.prompt, columns.output, strict=True
        )
    ]
    guessed, generated = np.zeros(len(requests)), np.zeros(len(requests), np.int64)
    ahead, largest = np.zeros(len(columns.tenants)), 0.0
    for kind, tenant, r, n in zip(columns.kind, columns.tenant, columns.request, columns.tokens, strict=True):
        before = max(guessed[r] - generated[r], 0.0)
        if kind == ADMIT and not guessed[r]:
            guessed[r] = predictor.guess(requests[r])
        elif kind == TOKEN:
            generated[r] += n
        elif kind == LEAVE:
            if n >= 0 and columns.finished[r]:
                predictor.learn(requests[r], int(generated[r]))
            guessed[r] = 0.0
        elif kind != PREEMPT:
            continue
        ahead[tenant] += (max(guessed[r] - generated[r], 0.0) - before) * unit[tenant]
        largest = max(largest, ahead[tenant])
    return float(largest)
