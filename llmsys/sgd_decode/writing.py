"""The text of one job as it grows: when it repeats itself, and where to cut what a limit ended.

Knows nothing of jobs or plans.
"""

import re

__all__ = ["REPEATS", "WINDOW", "Text", "at_sentence_end"]

WINDOW = 12
REPEATS = 3
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)")


class Text:
    """Pieces put together, watched for a loop: the same WINDOW tokens REPEATS times."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._seen: dict[tuple[str, ...], int] = {}
        self.loops = False

    def add(self, piece: str) -> None:
        """Append a piece, one token long where the backend streams tokens."""
        if not piece:
            return
        self._pieces.append(piece)
        if len(self._pieces) >= WINDOW:
            window = tuple(self._pieces[-WINDOW:])
            self._seen[window] = self._seen.get(window, 0) + 1
            self.loops = self.loops or self._seen[window] >= REPEATS

    def __str__(self) -> str:
        return "".join(self._pieces)


def at_sentence_end(text: str) -> str:
    """Text that was cut off, up to the end of its last whole sentence; all of it if there is none.

    >>> at_sentence_end("One thing. Another th")
    'One thing.'
    """
    ends = list(SENTENCE_END.finditer(text))
    return text[: ends[-1].end()] if ends else text
