"""How long a step takes: a prefill of n tokens, a decode step of B requests that hold K tokens.

prefill(n) = p0 + p1 n and decode(B, K) = max(floor, d0 + d1 B + d2 K), in seconds: with few requests the host, which
launches the kernels, sets the pace. `delay` is what a client waits for its first token beyond the machine's steps (the
way in, tokenization, the way out); it keeps the machine from nothing. Knows no scheduling.
"""

import math
import tomllib
from dataclasses import astuple, dataclass
from pathlib import Path

from llmsys.errors import BadInput, UsageFault

__all__ = ["HARDWARE", "Hardware", "load_hardware"]

KEYS = {"prefill": 2, "decode": 3}


@dataclass(slots=True, frozen=True)
class Hardware:
    """Seconds per prefill and per token of it; per decode step, per request and per held token; of the host."""

    p0: float
    p1: float
    d0: float
    d1: float
    d2: float
    floor: float = 0.0
    delay: float = 0.0

    def prefill_s(self, tokens: float) -> float:
        """Seconds of a prefill of `tokens` tokens in all."""
        return self.p0 + self.p1 * tokens

    def decode_s(self, batch: float, held: float) -> float:
        """Seconds of one decode step of `batch` requests that hold `held` tokens."""
        return max(self.floor, self.d0 + self.d1 * batch + self.d2 * held)

    def to_toml(self) -> str:
        """The file that `load_hardware` reads."""
        rows = {"prefill": [self.p0, self.p1], "decode": [self.d0, self.d1, self.d2], "host": [self.floor, self.delay]}
        return "".join(f"{name} = {numbers!r}\n" for name, numbers in rows.items())


HARDWARE = {
    # fitted to four A10G logs of the VTC artifact: VTC/overload, FCFS/real, VTC/real, LShare/rpm5/real.
    # On its other seven: makespan off by 1.2 % (median) and 2.1 % (most), mean TTFT by 1.7 % and 9.3 %.
    "a10g-llama2-7b": Hardware(
        p0=18.1e-3, p1=0.257e-3, d0=20.2e-3, d1=0.267e-3, d2=1.81e-6, floor=36.0e-3, delay=60.0e-3
    ),
}


def load_hardware(name: str) -> Hardware:
    """The step model by name, or from a TOML file that `simulate calibrate` wrote.

    Raises UsageFault for what is neither, BadInput for a file that is no step model.
    """
    if name in HARDWARE:
        return HARDWARE[name]
    path = Path(name)
    if not path.is_file():
        raise UsageFault(f"--hardware {name!r} is no file and none of {', '.join(HARDWARE)}")
    right = "prefill = [p0, p1] and decode = [d0, d1, d2], in seconds, and perhaps host = [floor, delay]"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        numbers = [float(number) for key, count in KEYS.items() for number in _exactly(values[key], count)]
        numbers += [float(number) for number in _exactly(values.get("host", [0.0, 0.0]), 2)]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(name, f"no step model ({error})", right) from error
    model = Hardware(*numbers)
    if not all(math.isfinite(number) and number >= 0 for number in astuple(model)) or model.p0 + model.d0 == 0:
        raise BadInput(name, f"{model}", right + ", none negative")
    return model


def _exactly(values: list[float], count: int) -> list[float]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers")
    return values
