"""A filter: lines of requests in, the same bytes out in fair order.

A line is a trace record or an OpenAI batch request. Every line read is an arrival, every line written is served at once
and in full. Knows no clock and no memory: what is fair is the policy's, how far ahead it may look is the window's.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from llmsys.errors import BadInput
from llmsys.fair_queue.policy import Policy, PolicySpecError, Request, RequestsPerMinute, TokensPerMinute, create
from llmsys.fair_queue.policy.registry import COSTS, PREDICTIONS
from llmsys.fair_queue.policy.spec import Options, check_weights
from llmsys.fair_queue.request_lines import RequestLines, read_request_lines

__all__ = ["order_lines"]


def order_lines(
    source: str | Path,
    policy: str = "vtc",
    *,
    weights: Mapping[str, float] | None = None,
    window: int = 10_000,
    default_max_tokens: int = 512,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
) -> Iterator[list[bytes]]:
    """Yield the lines of `source`, newline included, in the order in which the policy of this spec serves them.

    They come in lists, as they are due; at most `window` wait. A batch line without counts is taken as 4 bytes a token
    of prompt, and `default_max_tokens` where it sets no limit. Raises BadInput at FILE:LINE, or gives it to `on_skip`;
    PolicySpecError for a bad spec, or a policy that refuses or delays.
    """
    chosen = create(policy, weights)
    if isinstance(chosen, RequestsPerMinute | TokensPerMinute):
        raise PolicySpecError("a policy that refuses or delays requests cannot order lines; vtc, lcf, drr or fcfs can")
    options = Options(policy)
    refuse = on_skip if on_error == "skip" and on_skip is not None else _refuser(on_error)
    blocks = read_request_lines(
        source, default_max_tokens=default_max_tokens, refuse=refuse, records=not _is_compiled(options)
    )
    return _ordered(blocks, chosen, options, check_weights(weights), window)


def _refuser(on_error: str) -> Callable[[BadInput], None]:
    def fail(error: BadInput) -> None:
        raise error

    return fail if on_error != "skip" else lambda error: None


def _ordered(
    blocks: Iterator[RequestLines], policy: Policy, options: Options, weights: Mapping[str, float], window: int
) -> Iterator[list[bytes]]:
    """By the policy itself, or by the compiled loop where there is one and more than a window comes."""
    if not _is_compiled(options):
        yield from _serve(blocks, policy, window)
        return
    first: list[RequestLines] = []
    while sum(len(block.lines) for block in first) < window and (block := next(blocks, None)) is not None:
        first.append(block)
    if sum(len(block.lines) for block in first) < window:
        yield from _serve(iter(first), policy, window)
        return
    from llmsys.fair_queue.bulk_order import BulkOrder

    bulk = BulkOrder(
        window,
        wp=options.number("wp", 1.0),
        wq=options.number("wq", 2.0),
        lift=options.name == "vtc",
        weights=weights,
    )
    for block in chain(first, blocks):
        yield bulk.feed(block)
    yield bulk.drain()


def _is_compiled(options: Options) -> bool:
    """Whether the spec names counters of linear costs that nothing is predicted for."""
    if options.name not in ("vtc", "lcf"):
        return False
    return options.choice("cost", COSTS) == "linear" and options.choice("predict", PREDICTIONS) == "none"


def _serve(blocks: Iterator[RequestLines], policy: Policy, window: int) -> Iterator[list[bytes]]:
    pending: dict[str, bytes] = {}
    number = 0
    for block in blocks:
        for place, line in enumerate(block.lines):
            policy.arrive(_request(block, place, number), 0.0)
            pending[str(number)] = line
            number += 1
            if len(pending) >= window:
                yield [_serve_one(policy, pending)]
    while pending:
        yield [_serve_one(policy, pending)]


def _serve_one(policy: Policy, pending: dict[str, bytes]) -> bytes:
    room = iter((True,))
    (request,) = policy.admit(0.0, lambda _: next(room, False))
    policy.tokens(request.id, request.max_tokens, 0.0)
    policy.finish(request.id, 0.0)
    return pending.pop(request.id)


def _request(block: RequestLines, place: int, number: int) -> Request:
    whose_and_what = block.tenants[place], block.prompt_tokens[place], block.output_tokens[place]
    if block.records is None:
        return Request(str(number), *whose_and_what)
    record = block.records[place]
    return Request(
        str(number),
        *whose_and_what,
        group=record.group,
        priority=record.priority,
        prefix=record.prefix,
        ttft_slo_s=record.ttft_slo_s,
    )
