"""Formats with a name in their markers and JSON arguments behind it: deepseek_v3, functionary, harmony.

Knows no schema and no tool.
"""

import re

from llmsys.tool_serve.formats.bodies import Arguments
from llmsys.tool_serve.formats.reading import Markers, Reading

__all__ = ["DeepSeekV3", "Functionary", "Harmony"]


class _Named(Reading):
    """Text up to `markers`, a head that ends with `head_end`, arguments, and a tail up to one of `tails`, if any."""

    MARKERS: Markers
    HEAD_END = "\n"
    TAILS: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.marker = ""
        self._body: Arguments | None = None
        self.step = self.outside

    def outside(self) -> bool:
        """Text up to a call."""
        found = self.passage_to(self.MARKERS)
        if found is None:
            return False
        self.marker, self.step = found, self._head
        return True

    def name_of(self, head: str) -> str | None:
        """The tool's name in a head; None for one that is of no call."""
        return head.strip()

    def _head(self) -> bool:
        head = self.until(self.HEAD_END)
        if head is None:
            if self.closed and self.at < len(self.text):
                raw, self.at = self.text[self.at :], len(self.text)
                self.malformed(None, f"the text ended; expected {self.HEAD_END!r} behind a name", self.at, raw)
            return False
        name = self.name_of(head)
        self.step = self.outside
        if name is not None:
            self._body, self.step = Arguments(self.open_call(name)), self._arguments
        return True

    def _arguments(self) -> bool:
        assert self._body is not None
        state = self.read_body(self._body)
        if state is not False:
            self.step = self._tail if self.TAILS else self.outside
        return state is not False

    def _tail(self) -> bool:
        """What closes a call is no text for people."""
        places = [(place, tail) for tail in self.TAILS if (place := self.text.find(tail, self.at)) >= 0]
        if not places:
            self.at = max(self.at, len(self.text) - (0 if self.closed else max(map(len, self.TAILS)) - 1))
            return False
        place, tail = min(places)
        self.at = place + len(tail)
        self.step = self.outside
        return True


class DeepSeekV3(_Named):
    """`<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, a fence with the arguments, `<｜tool▁call▁end｜>`."""

    ALL, ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    ONE, SEP, ONE_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    MARKERS = Markers(ALL, ALL_END, ONE)
    HEAD_END = "```json\n"
    TAILS = (ONE_END,)

    def outside(self) -> bool:
        """Text up to a call; the markers around all calls are dropped."""
        found = self.passage_to(self.MARKERS)
        if found == self.ONE:
            self.step = self._head
        return found is not None

    def name_of(self, head: str) -> str | None:
        """What stands behind the separator."""
        return head.rpartition(self.SEP)[2].strip()


class Functionary(_Named):
    """`<function=NAME>{…}</function>` (v3.1), or `>>>NAME` and a line with the arguments (v3.2); `>>>all` is text."""

    TAG, RECIPIENT, END = "<function=", ">>>", "</function>"
    MARKERS = Markers(TAG, RECIPIENT)

    def outside(self) -> bool:
        """Text up to a call, whose marker says how its head ends."""
        got_on = super().outside()
        tagged = self.marker == self.TAG
        self.HEAD_END, self.TAILS = (">", (self.END,)) if tagged else ("\n", ())
        return got_on

    def name_of(self, head: str) -> str | None:
        """The name; `all` is the reader."""
        return None if head.strip() == "all" else head.strip()


class Harmony(_Named):
    """`<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>` (gpt-oss).

    Messages of other channels are text: their heads and ends are dropped.
    """

    CHANNEL, START, END, RETURN = "<|channel|>", "<|start|>", "<|end|>", "<|return|>"
    MARKERS = Markers(CHANNEL, START, END, RETURN)
    HEAD_END = "<|message|>"
    TAILS = ("<|call|>", END, RETURN)
    _TO = re.compile(r"to=(?:functions\.)?([^\s<]+)")

    def outside(self) -> bool:
        """Text up to a message's head; what stands between <|start|> and it belongs to the head."""
        found = self.passage_to(self.MARKERS)
        if found in (self.CHANNEL, self.START):
            self.step = self._head
        return found is not None

    def name_of(self, head: str) -> str | None:
        """The recipient, if it is a tool."""
        found = self._TO.search(head)
        return found[1] if found is not None else None
