"""The bench itself: every proxy in front of one backend, in turns, and what a request and a chunk cost it in CPU time.

CPU time is the proxy's own, from the system's counters, so the clients' and the backend's share of the machine does not
enter; what else runs on the machine still does, which is why proxies take turns and medians are compared. The time to
the first byte is that of plain requests which come at half the rate that our gateway has just sustained.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from llmsys.errors import LlmsysError
from llmsys.fair_queue.gateway.bench.answering import CHUNKS, REPLY, STREAM_BYTES
from llmsys.fair_queue.gateway.bench.asking import Asked, Load, ask_all
from llmsys.fair_queue.gateway.bench.proxies import PROXIES, Proxy, Running, running_backend

__all__ = ["GatewayBench", "ProxyCost", "run_gateway_bench"]

PLAIN_CLIENTS, STREAMS = 32, 64


@dataclass(frozen=True, slots=True)
class ProxyCost:
    """One proxy: CPU µs per plain request and per streamed chunk, as medians over rounds with the extremes; our cost
    over its; ms to the first byte at half load (none for a proxy too slow for that), and how many of them our gateway
    adds to its; answers that were no 200.
    """

    proxy: str
    us_request: float | None = None
    us_request_range: tuple[float, float] | None = None
    us_chunk: float | None = None
    us_chunk_range: tuple[float, float] | None = None
    request_ratio: float | None = None
    chunk_ratio: float | None = None
    first_byte_p50_ms: float | None = None
    first_byte_p99_ms: float | None = None
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None
    failed: int = 0
    absent: str = ""


@dataclass(frozen=True, slots=True)
class GatewayBench:
    """Every proxy's cost, ours first; what ran. half_rate_s: plain requests a second at half load, the last round's."""

    proxies: list[ProxyCost]
    rounds: int
    half_rate_s: float
    requests: int
    streams: int
    chunks: int
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Samples:
    us_request: list[float] = field(default_factory=list)
    us_chunk: list[float] = field(default_factory=list)
    first_byte_s: list[float] = field(default_factory=list)
    plain_s: float = 0.0
    failed: int = 0


def run_gateway_bench(
    *, rounds: int, requests: int, peers: Sequence[str] | None = None, on_done: Callable[[int], None] = lambda n: None
) -> GatewayBench:
    """Measure the gateway and its peers, all of them unless some are named. Raises ValueError for an unknown name."""
    known = {proxy.name: proxy for proxy in PROXIES}
    for name in peers or ():
        if name not in known:
            raise ValueError(f"no proxy is named {name!r}; known: {', '.join(known)}")
    chosen = [proxy for proxy in PROXIES if proxy.name == "llmsys" or peers is None or proxy.name in peers]
    streams = max(STREAMS, requests // CHUNKS)
    loads = (Load("plain", PLAIN_CLIENTS, requests, stream=False), Load("stream", STREAMS, streams, stream=True))
    absent = {proxy.name: why for proxy in chosen if (why := proxy.missing) is not None}
    samples: dict[str, _Samples] = {}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        backend = stack.enter_context(running_backend(Path(directory)))
        running: dict[str, Running] = {"direct": backend}
        for proxy in chosen:
            if proxy.name not in absent:
                _start(proxy, backend.port, Path(directory), stack, running, absent)
        for _ in range(rounds):
            for name, one in running.items():
                _measure(one, loads, samples.setdefault(name, _Samples()))
                on_done(1)
            half_rate_s = 0.5 * requests / samples["llmsys"].plain_s
            paced = Load("paced", PLAIN_CLIENTS, requests, stream=False, rate_s=half_rate_s)
            for name, one in running.items():
                if samples[name].plain_s * half_rate_s < requests:
                    _time(one, paced, samples[name])
                on_done(1)
    costs = _costs(chosen, samples, absent)
    return GatewayBench(costs, rounds, half_rate_s, requests, streams, CHUNKS, _warnings(costs))


def _start(
    proxy: Proxy, backend: int, directory: Path, stack: ExitStack, running: dict[str, Running], absent: dict[str, str]
) -> None:
    try:
        running[proxy.name] = stack.enter_context(proxy.in_front_of(backend, directory))
    except LlmsysError as error:
        if proxy.name == "llmsys":
            raise
        absent[proxy.name] = str(error)
        return
    ask_all(running[proxy.name].port, Load("warm-up", 8, 200, stream=False), key=proxy.key)


def _measure(one: Running, loads: tuple[Load, Load], samples: _Samples) -> None:
    for load in loads:
        before_s = one.cpu_s()
        asked = ask_all(one.port, load, key=one.key)
        spent_us = 1e6 * (one.cpu_s() - before_s)
        samples.failed += asked.failed + _short(asked, load)
        if load.stream:
            samples.us_chunk.append(spent_us / (load.requests * CHUNKS))
        else:
            samples.us_request.append(spent_us / load.requests)
            samples.plain_s = asked.wall_s


def _time(one: Running, load: Load, samples: _Samples) -> None:
    asked = ask_all(one.port, load, key=one.key)
    samples.failed += asked.failed + _short(asked, load)
    samples.first_byte_s += asked.first_byte_s


def _short(asked: Asked, load: Load) -> int:
    """Whether half of the bytes are missing: proxies may word an answer anew, but not leave it out."""
    return int(asked.body_bytes < load.requests * (STREAM_BYTES if load.stream else len(REPLY)) // 2)


def _costs(chosen: Sequence[Proxy], samples: dict[str, _Samples], absent: dict[str, str]) -> list[ProxyCost]:
    ours = samples["llmsys"]
    found = [_cost("direct", samples["direct"], None)]
    for proxy in chosen:
        if proxy.name in samples:
            found.append(_cost(proxy.name, samples[proxy.name], ours))
        else:
            found.append(ProxyCost(proxy.name, absent=absent[proxy.name]))
    return found


def _cost(name: str, samples: _Samples, ours: _Samples | None) -> ProxyCost:
    request, part = statistics.median(samples.us_request), statistics.median(samples.us_chunk)
    p50_ms, p99_ms = _first_byte_ms(samples)
    our_p50_ms, our_p99_ms = _first_byte_ms(ours) if ours else (None, None)
    return ProxyCost(
        name,
        us_request=request,
        us_request_range=(min(samples.us_request), max(samples.us_request)),
        us_chunk=part,
        us_chunk_range=(min(samples.us_chunk), max(samples.us_chunk)),
        request_ratio=statistics.median(ours.us_request) / request if ours and request else None,
        chunk_ratio=statistics.median(ours.us_chunk) / part if ours and part else None,
        first_byte_p50_ms=p50_ms,
        first_byte_p99_ms=p99_ms,
        added_p50_ms=our_p50_ms - p50_ms if our_p50_ms is not None and p50_ms is not None else None,
        added_p99_ms=our_p99_ms - p99_ms if our_p99_ms is not None and p99_ms is not None else None,
        failed=samples.failed,
    )


def _first_byte_ms(samples: _Samples) -> tuple[float | None, float | None]:
    """Median and 99th percentile, if there are any."""
    first = sorted(samples.first_byte_s)
    if not first:
        return None, None
    return 1e3 * first[len(first) // 2], 1e3 * first[int(0.99 * len(first))]


def _warnings(costs: Sequence[ProxyCost]) -> list[str]:
    found = [f"{one.proxy} is absent: {one.absent}" for one in costs if one.absent]
    for one in costs:
        if one.us_chunk_range and one.us_chunk_range[1] > 1.5 * one.us_chunk_range[0]:
            found.append(f"{one.proxy} varies by more than 1.5x between rounds: the machine is busy")
        if one.failed:
            found.append(f"{one.proxy} failed {one.failed} answers")
    return found
