"""What the formats share: text in pieces of any size, passages out unchanged, markers found wherever they are cut.

A format is a `Reading` whose `step` does one thing with the text that is there. At the end of a feed only what may be
the beginning of a marker is held back. Knows no format.
"""

import re
from collections.abc import Callable, Sequence
from itertools import takewhile

from llmsys.tool_serve.events import CallOpen, Event, Malformed, Passage
from llmsys.tool_serve.formats.bodies import Body
from llmsys.tool_serve.scanner import ScanFault

__all__ = ["FENCE", "Markers", "Reading"]

FENCE = "```"


class Markers:
    """Some texts to look for; `fences` also finds code fences, in which nothing else is looked for."""

    def __init__(self, *texts: str, fences: bool = True) -> None:
        self.texts = (*texts, FENCE) if fences else texts
        self._any = re.compile("|".join(map(re.escape, sorted(self.texts, key=len, reverse=True))))
        self._longest = max(map(len, self.texts))

    def find(self, text: str, at: int) -> tuple[int, str | None]:
        """(place, marker) of the first one; (place that a marker cut off at the end may begin, None) without one."""
        found = self._any.search(text, at)
        if found is not None:
            return found.start(), found[0]
        for start in range(max(at, len(text) - self._longest + 1), len(text)):
            if any(one.startswith(text[start:]) for one in self.texts):
                return start, None
        return len(text), None


ONLY_FENCES = Markers()


class Reading:
    """A turn's text under one format. Subclasses set `step`, which returns whether it got on."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.closed = False
        self.calls = 0
        self.step: Callable[[], bool] = lambda: False
        self._events: list[Event] = []
        self._counted = (0, 0)
        self._in_fence = False
        self._raw: list[str] = []

    def feed(self, text: str) -> list[Event]:
        """As `Parser` says."""
        offset = self.offset(self.at)
        self.text, self.at, self._counted = self.text[self.at :] + text, 0, (0, offset)
        return self._run()

    def close(self) -> list[Event]:
        """As `Parser` says."""
        self.closed = True
        return self._run()

    def start_at(self, offset: int) -> None:
        """The text that comes first is `offset` bytes into the turn."""
        self._counted = (0, offset)

    def tell(self, *events: Event) -> None:
        """Give events out."""
        self._events += events

    def offset(self, place: int) -> int:
        """Bytes of the turn before a place in the text."""
        counted, size = self._counted
        if place >= counted:
            part = self.text[counted:place]
            size += len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass"))
            self._counted = (place, size)
            return size
        return size - len(self.text[place:counted].encode("utf-8", "surrogatepass"))

    def passage_to(self, markers: Markers) -> str | None:
        """Pass text on up to a marker and go behind it; None where there is none yet. In code fences there are none."""
        while True:
            place, found = (ONLY_FENCES if self._in_fence else markers).find(self.text, self.at)
            if found is None:
                self.pass_on(len(self.text) if self.closed else place)
                return None
            if found != FENCE:
                self.pass_on(place)
                self.at = place + len(found)
                return found
            self._in_fence = not self._in_fence
            self.pass_on(place + len(FENCE))

    def pass_on(self, place: int) -> None:
        """Pass on the text up to a place."""
        if place > self.at:
            part, self.at = self.text[self.at : place], place
            self.tell(Passage(part, self.offset(place)))

    def skip_space(self) -> str:
        """Go past white space; the next character, or "" where there is none yet."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def peek(self, at: int | None = None) -> int | None:
        """The place of the next character that is no white space, from `at` or here; None where there is none yet."""
        place = self.at if at is None else at
        while place < len(self.text) and self.text[place].isspace():
            place += 1
        return place if place < len(self.text) else None

    def mismatch(self, options: Sequence[str]) -> str:
        """What comes, up to the first character that makes it none of some texts."""
        rest = self.text[self.at : self.at + max(map(len, options))]
        pairs = (takewhile(lambda pair: pair[0] == pair[1], zip(rest, one, strict=False)) for one in options)
        return rest[: max(sum(1 for _ in agreed) for agreed in pairs) + 1]

    def takes(self, options: Sequence[str]) -> str | None:
        """Go behind the one of some texts that comes next; "" while it may still become one, None for another text."""
        rest = self.text[self.at : self.at + max(map(len, options))]
        for one in sorted(options, key=len, reverse=True):
            if rest.startswith(one):
                self.at += len(one)
                return one
        return "" if not self.closed and any(one.startswith(rest) for one in options) else None

    def until(self, end: str) -> str | None:
        """The text up to `end`, behind which it goes; None while it is not there."""
        place = self.text.find(end, self.at)
        if place < 0:
            return None
        part, self.at = self.text[self.at : place], place + len(end)
        return part

    def open_call(self, name: str) -> int:
        """Announce a call; returns its number."""
        number, self.calls = self.calls, self.calls + 1
        self.tell(CallOpen(number, f"call_{number}", name, self.offset(self.at)))
        return number

    def read_body(self, body: Body) -> bool | None:
        """Read on in a call's JSON: True at its end, False where text is missing, None where it is no call.

        What is no JSON is told as Malformed, with the text so far.
        """
        start = self.at
        try:
            self.at = body.scanner.feed(self.text, start)
            self._raw.append(self.text[start : self.at])
            self.tell(*body.events(self))
            if body.scanner.done:
                self._raw.clear()
                return True
            if self.closed:
                body.scanner.finish(self.at)
        except ScanFault as fault:
            self.tell(*body.events(self))
            self._raw.append(self.text[start : fault.at])
            self.malformed(body.call, str(fault), fault.at)
            return None
        return False

    def malformed(self, call: int | None, why: str, place: int, raw: str | None = None) -> None:
        """Tell a call that cannot become valid; one that was not named yet counts as a call."""
        if call is None:
            call, self.calls = self.calls, self.calls + 1
        self.tell(Malformed(call, why, "".join(self._raw) if raw is None else raw, self.offset(place)))
        self._raw.clear()

    def _run(self) -> list[Event]:
        while self.step():
            pass
        events, self._events = self._events, []
        return events
