"""Drives policies through made-up work: the same arrivals, memory and tokens for every policy under test."""

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import strategies as st

from llmsys.fair_queue.policy import Request


@dataclass(frozen=True)
class Work:
    step: int
    request: Request


def works(*, tenants=8, requests=60, longest=12):
    """Arrivals in bursts, of few tenants, with ties, with zero-length outputs."""
    lengths = st.integers(0, longest)
    row = st.tuples(st.sampled_from([0, 0, 0, 1, 2, 9, 40]), st.sampled_from("abcdefgh"[:tenants]), lengths, lengths)
    return st.lists(row, min_size=1, max_size=requests).map(_work)


def _work(rows):
    steps = accumulate(gap for gap, *_ in rows)
    return [
        Work(step, request(number, tenant, prompt, output))
        for number, (step, (_, tenant, prompt, output)) in enumerate(zip(steps, rows, strict=True))
    ]


def request(number, tenant, prompt, output):
    """A request with everything that some policy looks at, made from its number."""
    return Request(
        f"r{number}",
        tenant,
        prompt,
        output,
        group=None if number % 4 == 0 else f"g{number % 3}",
        priority=number % 3,
        prefix=tuple(range(number % 5)),
        ttft_slo_s=None if number % 2 else float(number % 7),
    )


def admissions(policy, work, *, memory, on_step=None):
    """Serve the work step by step, reserving final lengths; return the ids in order of admission."""
    order, running, free, step = [], {}, memory, 0
    todo = sorted(work, key=lambda item: item.step)

    def fits(request):
        nonlocal free
        need = request.prompt_tokens + request.max_tokens
        if need > free:
            return False
        free -= need
        return True

    while todo or running or len(order) < len(work):
        while todo and todo[0].step <= step:
            policy.arrive(todo.pop(0).request, float(step))
        for request in policy.admit(float(step), fits):
            order.append(request.id)
            running[request.id] = [request, request.max_tokens]
        for request_id in list(running):
            request, left = running[request_id]
            if left:
                policy.tokens(request_id, 1, float(step))
                running[request_id][1] -= 1
            if not running[request_id][1]:
                policy.finish(request_id, float(step))
                free += request.prompt_tokens + request.max_tokens
                del running[request_id]
        if on_step is not None:
            on_step(policy)
        step = step + 1 if running or not todo else max(step + 1, todo[0].step)
    return order
