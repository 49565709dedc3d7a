"""The grammar of `--policy`: NAME[:key=value,...], read into typed options with every mistake named.

Knows no policy: which keys exist is what the builder of a policy reads.
"""

import math
from collections.abc import Mapping, Sequence

from llmsys.errors import UsageFault

__all__ = ["Options", "PolicySpecError", "check_weights", "parse_weights", "split_specs"]


class PolicySpecError(UsageFault, ValueError):
    """A policy, key, value or weight that does not exist or cannot be used; the message names what can."""


def split_specs(text: str) -> list[str]:
    """Split a list of specs: by `;`, or by `,` where no spec has options.

    >>> split_specs("fcfs,vtc"), split_specs("fcfs;vtc:wp=1,wq=3"), split_specs("vtc:wp=1,wq=3")
    (['fcfs', 'vtc'], ['fcfs', 'vtc:wp=1,wq=3'], ['vtc:wp=1,wq=3'])
    """
    separator = ";" if ";" in text or ":" in text else ","
    parts = text.split(separator)
    return [part.strip() for part in parts if part.strip()]


def check_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """A copy of the tenants' weights; PolicySpecError unless each is finite and above 0."""
    for tenant, weight in (weights or {}).items():
        if not (math.isfinite(weight) and weight > 0):
            raise PolicySpecError(f"weight of tenant {tenant!r} is {weight}; expected a finite number above 0")
    return dict(weights or {})


def parse_weights(pairs: Sequence[str] | None) -> dict[str, float]:
    """The weights that a command line gives as TENANT=W. Raises PolicySpecError for what is no number above 0.

    >>> parse_weights(["a=2", "b=0.5"])
    {'a': 2.0, 'b': 0.5}
    """
    weights: dict[str, float] = {}
    for pair in pairs or ():
        tenant, _, value = pair.rpartition("=")
        try:
            weights[tenant] = float(value)
        except ValueError:
            raise PolicySpecError(f"weight {pair!r} is not TENANT=W, as in search=3") from None
    return check_weights(weights)


class Options:
    """The name and the options of one spec. Read every option, then call `done()`, which names unknown keys.

    `rpm=5` is short for `rpm:limit=5`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        name, _, rest = text.partition(":")
        if not rest and "=" in name:
            name, _, value = name.partition("=")
            rest = f"limit={value}"
        self.name = name.strip()
        self._given = dict(self._pair(item) for item in rest.split(",")) if rest else {}
        self._read: list[str] = []

    def _pair(self, item: str) -> tuple[str, str]:
        key, equals, value = item.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise PolicySpecError(f"policy {self.text!r}: {item!r} is not key=value")
        return key.strip(), value.strip()

    def number(
        self,
        key: str,
        default: float | None,
        *,
        above: float | None = None,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """The number at `key`; without a default the key is required. Bounds: > above, >= least, <= most."""
        given = self._text(key, default)
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or value > most or (above is not None and value <= above):
            bound = f"a number above {above:g}" if above is not None else f"a number of at least {least:g}"
            bound += f" and at most {most:g}" if most < math.inf else ""
            raise PolicySpecError(f"policy {self.name}: {key}={given} is not {bound}")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """The word at `key`, one of `allowed`, the first being the default."""
        value = str(self._text(key, allowed[0]))
        if value not in allowed:
            raise PolicySpecError(f"policy {self.name}: {key}={value} is not one of {', '.join(allowed)}")
        return value

    def inner(self, key: str, allowed: Sequence[str]) -> str:
        """The spec of a policy inside this one: its name at `key`, its keys all those that were not read before."""
        name = self.choice(key, allowed)
        rest = {other: value for other, value in self._given.items() if other not in self._read}
        self._read += rest
        return ":".join([name, *([",".join(f"{k}={v}" for k, v in rest.items())] if rest else [])])

    def given(self, key: str) -> bool:
        """Whether the spec names this key."""
        return key in self._given

    def _text(self, key: str, default: float | str | None) -> float | str:
        self._read.append(key)
        value = self._given.get(key, default)
        if value is None:
            raise PolicySpecError(f"policy {self.name} needs {key}=N, as in {self.name}:{key}=30")
        return value

    def done(self) -> None:
        """Raise PolicySpecError for the first key that nobody read, naming the allowed ones."""
        for key in self._given:
            if key not in self._read:
                allowed = ", ".join(sorted(self._read)) or "none"
                raise PolicySpecError(f"policy {self.name} has no key {key!r}; allowed: {allowed}")
