"""Times as people write them: `60s`, `5m`, `6h`, `90d`, `250ms`.

Knows no option.
"""

import math
import re
from typing import TypeVar

from llmsys.errors import UsageFault

__all__ = ["optional_seconds", "seconds_of"]

Default = TypeVar("Default", float, None)

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHAPE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)?")


def seconds_of(text: str, what: str) -> float:
    """Seconds of a positive time; a bare number is seconds. Raises UsageFault that names `what`.

    >>> seconds_of("6h", "--mtbf")
    21600.0
    """
    found = _SHAPE.fullmatch(text.strip())
    value = float(found["number"]) * UNITS[found["unit"] or "s"] if found else 0.0
    if not 0 < value < math.inf:
        raise UsageFault(f"{what} {text!r} is no time; expected a positive one, as 250ms, 60s, 5m, 6h or 90d")
    return value


def optional_seconds(text: str | None, what: str, default: Default) -> float | Default:
    """As `seconds_of`; `default` where nothing was given."""
    return default if text is None else seconds_of(text, what)
