"""Step times of an engine, measured at several widths, and kept per machine so that the next start is at once.

Knows nothing of plans.
"""

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmsys.artifacts import replace_file
from llmsys.engine import Engine, Request, SamplingParams
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["Points", "known_step_time", "machine_key", "measure_step_time"]

Points = Sequence[tuple[int, float]]
WIDTHS = (1, 2, 4, 6, 8)
STEPS = 8
ROUNDS = 3
PROMPT_TOKENS = 192
FIRST_TOKEN = 300


def measure_step_time(
    engine: Engine, *, widths: Sequence[int] = WIDTHS, steps: int = STEPS, rounds: int = ROUNDS
) -> list[tuple[int, float]]:
    """(sequences, seconds of a decoding step) for each width; the engine must be idle.

    Widths take turns, `rounds` times, and the lower quartile of all steps of a width counts: what else a machine does
    makes steps longer, never shorter. Widths that the engine does not run at once are left out.
    """
    seconds: dict[int, list[float]] = {width: [] for width in widths if width <= engine.config.max_sequences}
    for _ in range(rounds):
        for width in seconds:
            seconds[width] += _steps(engine, width, steps)
    return [(width, statistics.quantiles(found, n=4)[0]) for width, found in seconds.items()]


def _steps(engine: Engine, width: int, steps: int) -> list[float]:
    """Seconds of decoding steps of so many sequences."""
    prompt = min(PROMPT_TOKENS, engine.max_len // 2)
    sampling = SamplingParams(max_tokens=steps + 2, ignore_eos=True, temperature=0.0)
    for row in range(width):
        tokens = tuple(FIRST_TOKEN + row + at for at in range(prompt))
        engine.add(Request(tokens, sampling, cache_salt="calibration"))
    seconds = []
    while engine.busy:
        started_s = time.perf_counter()
        events = engine.step()
        if len(events) == width:  # every sequence decoded: no prompt in this step
            seconds.append(time.perf_counter() - started_s)
    return seconds[1:]


def machine_key(name: str) -> str:
    """Key of a model's step times here: the processor, its threads and what the caller names."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    facts = (name, platform.machine(), platform.processor(), platform.release(), threads)
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def known_step_time(key: str, measure: Callable[[], Points]) -> StepTime | None:
    """The step time of a key from the user's cache, or measured and kept there; "" is not kept.

    None where fewer than two widths can be measured. A damaged file is measured anew.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(home) / "llmsys" / "step-times" / f"{key}.json"
    if key and path.exists():
        try:
            return StepTime.fit([(int(width), float(seconds)) for width, seconds in json.loads(path.read_bytes())])
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)
    points = measure()
    if len({width for width, _ in points}) <= 1:
        return None
    if key:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(json.dumps(list(points)).encode())
    return StepTime.fit(points)
