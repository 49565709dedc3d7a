"""Times as people write them: `60s`, `5m`, `6h`, `90d`, `250ms`.

Knows no option.
"""

import math
import re

from llmsys.errors import UsageFault

__all__ = ["seconds_of"]

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
