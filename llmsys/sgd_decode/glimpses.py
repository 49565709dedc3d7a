"""An answer while it is being written: what of it is certain, and what of that is new.

A part that runs may still be cut at its last whole sentence, so only whole sentences of it are certain. Knows nothing
of connections.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["AsTheyCome", "Glimpse", "InOrder", "News", "whole_sentences"]

SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s)")
BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A part so far: `text` is what is certain of it, all of it once it `ended`. Part 0 is an answer in one piece."""

    part: int
    title: str
    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class News:
    """Text to append to a part. restart: what was said of this part before does not stand."""

    part: int
    title: str
    text: str
    restart: bool = False


def whole_sentences(text: str) -> str:
    """The beginning of a growing text that a later cut at a sentence's end cannot take away.

    >>> whole_sentences("One thing. Another th")
    'One thing.'
    """
    ends = list(SENTENCE_END.finditer(text))
    return text[: ends[-1].end()].lstrip() if ends else ""


class InOrder:
    """The answer as one text, from its start: a part's news come when all parts before it have ended.

    A part that is begun anew with other words after some were said is said again from its start, as a paragraph.
    """

    def __init__(self) -> None:
        self._part: int | None = None
        self._said = ""
        self._over: set[int] = set()

    def news(self, glimpses: Iterable[Glimpse]) -> Iterator[News]:
        """What to append, given the parts in their order."""
        for glimpse in glimpses:
            if glimpse.part in self._over:
                continue
            text = self._new(glimpse)
            if text:
                yield News(glimpse.part, glimpse.title, text)
            if not glimpse.ended:
                return
            self._over.add(glimpse.part)

    def _new(self, glimpse: Glimpse) -> str:
        """The text that this part adds, with what parts it from the one before."""
        between = ""
        if glimpse.part != self._part and (glimpse.text or glimpse.ended):
            between = BETWEEN if self._part is not None else ""
            self._part, self._said = glimpse.part, ""
        if not glimpse.text.startswith(self._said):
            if not glimpse.ended and self._said.startswith(glimpse.text):
                return ""  # begun anew, and so far in the same words
            between, self._said = BETWEEN, ""
        before, self._said = self._said, glimpse.text
        return between + glimpse.text[len(before) :]


class AsTheyCome:
    """Every part by itself, as soon as there is something certain of it."""

    def __init__(self) -> None:
        self._said: dict[int, str] = {}

    def news(self, glimpses: Iterable[Glimpse]) -> Iterator[News]:
        """What to append to which part."""
        for glimpse in glimpses:
            said = self._said.get(glimpse.part, "")
            if glimpse.text == said or (not glimpse.ended and said.startswith(glimpse.text)):
                continue
            restart = not glimpse.text.startswith(said)
            self._said[glimpse.part] = glimpse.text
            yield News(glimpse.part, glimpse.title, glimpse.text[0 if restart else len(said) :], restart)
