"""The simulator that defines the others: one Python object per idea, one step at a time, any policy.

Arrivals go to a replica when they come; those up to the end of a step are queued before its tokens are charged, those
of one instant in file order. Slow; `fast.py` is the one to use where it can.
"""

import math
from collections.abc import Callable

import numpy as np

from llmsys.fair_queue.policy import Policy
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine
from llmsys.fair_queue.sim.result import Result, Workload
from llmsys.fair_queue.sim.route import Route, make_route
from llmsys.fair_queue.sim.server import OnEvent, Server

__all__ = ["simulate_stepwise"]


def simulate_stepwise(
    workload: Workload,
    make_policy: Callable[[], Policy],
    hardware: Hardware,
    machine: Machine,
    on_event: OnEvent | None = None,
) -> Result:
    """Serve the workload; every replica gets a policy of its own.

    `on_event` gets what happens, in order of time, as the audit reads it (without meta).
    """
    count = len(workload.ids)
    nothing = np.full(count, np.nan)
    result = Result(workload, nothing, nothing.copy(), nothing.copy(), np.zeros(count, np.bool_), [])
    servers = [Server(number, make_policy(), hardware, machine, result, on_event) for number in range(machine.replicas)]
    route = make_route(machine.route, machine.replicas, block_tokens=machine.block_tokens)
    now_s, arrived = 0.0, 0
    while (now_s := _next_instant(servers, workload, arrived, now_s)) < math.inf:
        arrived = _deliver(servers, route, workload, arrived, now_s)
        for server in servers:
            if server.ends_s is not None and server.ends_s <= now_s:
                server.complete()
                for index in server.ended:
                    route.ended(workload.records[index], server.number)
                server.ended.clear()
            if server.ends_s is None:
                server.begin(now_s)
    assert not any(server.waiting for server in servers), "a request that fits an empty machine was not admitted"
    return result


def _next_instant(servers: list[Server], workload: Workload, arrived: int, now_s: float) -> float:
    """When something happens next: an arrival, the end of a step, or a limit that lets a request go; else infinity."""
    times = [float(workload.arrival[arrived])] if arrived < len(workload.ids) else []
    for server in servers:
        at_s = server.wake_s(now_s) if server.ends_s is None else server.ends_s
        times += [] if at_s is None else [at_s]
    return max(now_s, min(times)) if times else math.inf


def _deliver(servers: list[Server], route: Route, workload: Workload, arrived: int, now_s: float) -> int:
    """Hand over what has arrived by now; returns the number of the next arrival."""
    while arrived < len(workload.ids) and workload.arrival[arrived] <= now_s:
        chosen = 0
        if len(servers) > 1:
            chosen = route.choose(workload.records[arrived], [server.load for server in servers])
        servers[chosen].offer(arrived, float(workload.arrival[arrived]))
        arrived += 1
    return arrived
