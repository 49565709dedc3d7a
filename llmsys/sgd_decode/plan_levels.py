"""Difficulty in whatever words a model gave it, mapped to 1 (trivial) … 5 (hard).

Knows nothing of plans.
"""

import math
import re

from llmsys.sgd_decode.plan import MAX_LEVEL

__all__ = ["DEFAULT_LEVEL", "level_of"]

DEFAULT_LEVEL = 3
TEN = 10
WORDS = {
    **dict.fromkeys(("trivial", "very easy"), 1),
    **dict.fromkeys(("easy", "simple", "low"), 2),
    **dict.fromkeys(("medium", "moderate", "normal"), 3),
    **dict.fromkeys(("hard", "difficult", "high", "complex"), 4),
    **dict.fromkeys(("very hard", "very difficult", "extreme"), 5),
}
WHOLE = re.compile(r"\d{1,3}")
FRACTION = re.compile(r"(\d{1,3})/(\d{1,3})")


def level_of(stated: str | int | float | None) -> tuple[int, bool]:
    """The level, and whether it was written as one: 1 to 5. A scale of ten is halved; the rest is DEFAULT_LEVEL.

    >>> level_of("4"), level_of("7/10"), level_of("hard"), level_of("★★"), level_of("soon")
    ((4, True), (4, False), (4, False), (2, False), (3, False))
    """
    if isinstance(stated, str):
        return _of_words(stated.strip().lower())
    return _of_number(stated) if stated is not None else (DEFAULT_LEVEL, False)


def _of_words(words: str) -> tuple[int, bool]:
    fraction = FRACTION.fullmatch(words)
    if fraction is not None:
        return _of_share(int(fraction[1]), int(fraction[2])), False
    if WHOLE.fullmatch(words):
        return _of_number(int(words))
    if words and set(words) == {"★"}:
        return min(len(words), MAX_LEVEL), False
    return WORDS.get(words, DEFAULT_LEVEL), False


def _of_number(number: float) -> tuple[int, bool]:
    if not 1 <= number <= TEN:
        return DEFAULT_LEVEL, False
    if number <= MAX_LEVEL:
        return round(number), isinstance(number, int)
    return _of_share(number, TEN), False


def _of_share(part: float, whole: float) -> int:
    return max(1, min(MAX_LEVEL, math.ceil(MAX_LEVEL * part / whole))) if whole > 0 else DEFAULT_LEVEL
