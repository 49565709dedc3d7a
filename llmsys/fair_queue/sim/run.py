"""One door to both simulators: the compiled one where it knows the policy, the stepwise one for everything else.

Both give the same order of admission and the same times up to rounding; a test holds them together.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from llmsys.artifacts import Event, TraceRecord
from llmsys.fair_queue.policy import create
from llmsys.fair_queue.policy.prediction import Oracle
from llmsys.fair_queue.policy.protocol import Request
from llmsys.fair_queue.policy.registry import COSTS, PREDICTIONS
from llmsys.fair_queue.policy.spec import Options, check_weights
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine
from llmsys.fair_queue.sim.reference import simulate_stepwise
from llmsys.fair_queue.sim.result import Result, Workload, workload_of

__all__ = ["meta_event", "run"]

COMPILED = ("fcfs", "rpm", "lcf", "vtc")


def run(
    trace: Iterable[TraceRecord] | Workload,
    policy: str,
    hardware: Hardware,
    *,
    machine: Machine | None = None,
    weights: Mapping[str, float] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Simulate a trace under a policy's spec. Raises PolicySpecError for a bad spec or weight.

    With `on_event` every event is made, `meta` first, so the run goes step by step.
    """
    work = trace if isinstance(trace, Workload) else workload_of(trace)
    machine = machine or Machine()
    create(policy, weights)
    if on_event is None and _is_compiled(policy, machine):
        return _run_compiled(work, policy, hardware, machine, check_weights(weights))
    if on_event is not None:
        on_event(meta_event(policy, machine, weights))
    return simulate_stepwise(work, lambda: create(policy, weights), hardware, machine, on_event)


def meta_event(policy: str, machine: Machine, weights: Mapping[str, float] | None) -> Event:
    """The first record of a simulated log: the rules that the run follows."""
    options = Options(policy)
    return Event(
        0.0,
        "meta",
        policy=policy,
        reserve=machine.reserve,
        memory=machine.memory,
        weights=dict(weights or {}),
        prompt_weight=_price(options, "wp", 1.0),
        output_weight=_price(options, "wq", 2.0),
        clock="virtual",
        max_batch=machine.max_batch,
        admit_every=machine.admit_every,
    )


def _price(options: Options, key: str, default: float) -> float:
    return options.number(key, default, least=0.0)


def _is_compiled(policy: str, machine: Machine) -> bool:
    options = Options(policy)
    linear = options.name not in ("lcf", "vtc") or options.choice("cost", COSTS) == "linear"
    return options.name in COMPILED and linear and machine.reserve != "paged" and machine.is_plain


def _run_compiled(
    work: Workload, policy: str, hardware: Hardware, machine: Machine, weights: Mapping[str, float]
) -> Result:
    from llmsys.fair_queue.sim.fast import simulate_arrays
    from llmsys.fair_queue.sim.ledger import Pace, Requests, Rules, new_book
    from llmsys.fair_queue.sim.queues import new_queues

    options = Options(policy)
    counting = options.name in ("lcf", "vtc")
    predict = options.choice("predict", PREDICTIONS) if counting else "none"
    tenants = max(len(work.tenants), 1)
    tenant = work.tenant.astype(np.int64)
    requests = Requests(
        queue=tenant if counting else np.zeros_like(tenant),
        tenant=tenant,
        arrival=work.arrival,
        prompt=work.prompt,
        output=work.output,
        holds=machine.holds_each(work.prompt, work.output),
        guess=_guesses(work, predict, int(options.number("seed", 0.0)) if counting else 0),
    )
    rules = Rules(
        weight=np.array([weights.get(name, 1.0) for name in work.tenants] or [1.0]),
        wp=_price(options, "wp", 1.0),
        wq=_price(options, "wq", 2.0),
        lift=options.name == "vtc",
        predict=predict != "none",
        learn=predict == "ema",
        rpm=int(options.number("limit", None, least=1.0)) if options.name == "rpm" else 0,
        memory=machine.memory,
        max_batch=machine.max_batch,
        max_prefill=machine.max_prefill,
        admit_every=machine.admit_every,
        peak=machine.reserve == "peak",
        p0=hardware.p0,
        p1=hardware.p1,
        pace=Pace(hardware.d0, hardware.d1, hardware.d2, hardware.floor),
    )
    book = new_book(len(work.ids), tenants, machine.max_batch)
    # with a guess each request is charged by itself, so that a step charges nothing by itself
    unit = np.zeros(tenants) if rules.predict else rules.wq / rules.weight
    simulate_arrays(book, requests, new_queues(unit, len(work.ids)), rules)
    order = book.order[book.order >= 0].tolist()
    return Result(work, book.admit, book.first, book.finish, book.refused, order)


def _guesses(work: Workload, predict: str, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What an oracle says of every request; zeros where nothing is predicted or the guess is learned."""
    if predict in ("none", "ema"):
        return np.zeros(len(work.ids))
    oracle = Oracle(spread=0.0 if predict == "oracle" else 0.5, seed=seed)
    rows = zip(work.ids, work.output, strict=True)
    return np.array([oracle.guess(Request(name, "", 0, int(output))) for name, output in rows], np.float64)
