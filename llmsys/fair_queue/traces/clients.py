"""Made-up clients: each with a rate, lengths and a process of arrivals, merged into one trace.

Every client draws from its own stream of the seed, so adding one changes none of the others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault

__all__ = ["Client", "generate_clients", "parse_client"]

KEYS = ("rate", "in", "out", "process", "start")
PROCESSES = "uniform, poisson, gamma:cv=X or onoff:SECONDS"


@dataclass(slots=True, frozen=True)
class Client:
    """Arrivals at `rate` per second from `start_s`, gaps with coefficient of variation `cv` (0 even, 1 Poisson).

    Lengths are drawn from [low, high]. With `on_off_s` the client is silent in every second stretch of that length.
    """

    rate: float
    inputs: tuple[int, int] = (256, 256)
    outputs: tuple[int, int] = (256, 256)
    cv: float = 1.0
    on_off_s: float | None = None
    start_s: float = 0.0


def parse_client(text: str) -> Client:
    """Read `rate=1.5,in=256,out=16-512,process=poisson,start=30`. Raises UsageFault naming what does not fit."""
    pairs = [item.partition("=") for item in text.split(",")]
    given = {key.strip(): value.strip() for key, _, value in pairs}
    unknown = next((key for key in given if key not in KEYS), None)
    if unknown is not None or "rate" not in given:
        wrong = f"has no key {unknown!r}" if unknown is not None else "needs rate=N"
        raise UsageFault(f"--client {text!r} {wrong}; keys: {', '.join(KEYS)}")
    cv, on_off_s = _process(given.get("process", "poisson"), text)
    return Client(
        rate=_number(given["rate"], text, above=0.0),
        inputs=_range(given.get("in", "256"), text),
        outputs=_range(given.get("out", "256"), text),
        cv=cv,
        on_off_s=on_off_s,
        start_s=_number(given.get("start", "0"), text),
    )


def generate_clients(clients: Sequence[Client], *, duration_s: float, seed: int = 42) -> list[TraceRecord]:
    """The requests of all clients until `duration_s`, by arrival; client k is tenant client-k."""
    rows = sorted(
        (at_s, index, prompt_tokens, output_tokens)
        for index, client in enumerate(clients)
        for at_s, prompt_tokens, output_tokens in _arrivals(client, duration_s, np.random.default_rng([seed, index]))
    )
    return [
        TraceRecord(f"{number:07d}", f"client-{index}", at_s, prompt_tokens, output_tokens)
        for number, (at_s, index, prompt_tokens, output_tokens) in enumerate(rows)
    ]


def _arrivals(client: Client, duration_s: float, draw: Generator) -> Iterator[tuple[float, int, int]]:
    at_s = client.start_s
    while True:
        mean_s = 1.0 / client.rate
        at_s += float(draw.gamma(client.cv**-2, mean_s * client.cv**2)) if client.cv else mean_s
        if at_s >= duration_s:
            return
        lengths = int(draw.integers(*client.inputs, endpoint=True)), int(draw.integers(*client.outputs, endpoint=True))
        if client.on_off_s is None or int(at_s // client.on_off_s) % 2 == 0:
            yield at_s, *lengths


def _process(text: str, whole: str) -> tuple[float, float | None]:
    """The coefficient of variation and the on-off period of a process."""
    kind, _, rest = text.partition(":")
    if kind == "uniform" and not rest:
        return 0.0, None
    if kind == "poisson" and not rest:
        return 1.0, None
    if kind == "gamma" and rest.startswith("cv="):
        return _number(rest.removeprefix("cv="), whole, above=0.0), None
    if kind == "onoff" and rest:
        return 0.0, _number(rest, whole, above=0.0)
    raise UsageFault(f"--client {whole!r}: process {text!r} is not {PROCESSES}")


def _range(text: str, whole: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdigit() and (high or low).isdigit() and int(low) <= int(high or low)):
        raise UsageFault(f"--client {whole!r}: {text!r} is not a length N or a range LOW-HIGH")
    return int(low), int(high or low)


def _number(text: str, whole: str, *, above: float | None = None) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
        raise UsageFault(f"--client {whole!r}: {text!r} is not a number {'above' if above == 0 else 'of at least'} 0")
    return value
