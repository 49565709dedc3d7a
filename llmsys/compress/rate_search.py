"""Find the setting whose measured figure comes closest below a target: a bracketed secant, in few evaluations.

Knows neither rates nor errors: `measure` falls as its argument rises, roughly along a line.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Found", "search_below"]


@dataclass(frozen=True, slots=True)
class Found:
    """A setting and what was measured there; `reached` is False where nothing at or below the target was found."""

    x: float
    y: float
    reached: bool


def search_below(
    measure: Callable[[float], float],
    target: float,
    start: float,
    *,
    slack: float,
    slope: float = -1.0,
    tries: int = 10,
) -> Found:
    """The x with target − slack <= measure(x) <= target, else the largest measure not over the target that was seen.

    `slope` is the expected change of the measure per unit of x, negative; `tries` bounds the evaluations.

    >>> search_below(lambda x: 10 - x, 4.0, 0.0, slack=0.5)
    Found(x=6.25, y=3.75, reached=True)
    """
    aim = target - slack / 2
    over: tuple[float, float] | None = None
    under: tuple[float, float] | None = None
    x, y = start, measure(start)
    for _ in range(tries - 1):
        if target - slack <= y <= target:
            return Found(x, y, reached=True)
        if y > target:
            over = (x, y) if over is None or x > over[0] else over
        elif under is None or y > under[1]:
            under = (x, y)
        x = _next(over, under, aim, slope)
        y = measure(x)
    if y <= target and (under is None or y > under[1]):
        under = (x, y)
    return Found(*under, reached=True) if under is not None else Found(x, y, reached=False)


def _next(over: tuple[float, float] | None, under: tuple[float, float] | None, aim: float, slope: float) -> float:
    if over is None or under is None:
        x, y = over or under or (0.0, aim)
        return x + max(-8.0, min(8.0, (aim - y) / slope)) * (1.0 if over is None else 1.1)
    share = (over[1] - aim) / (over[1] - under[1])
    return over[0] + min(0.98, max(0.02, share)) * (under[0] - over[0])
