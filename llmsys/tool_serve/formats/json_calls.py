"""Formats whose calls are JSON objects with a name in them: hermes, llama3_json, mistral, json.

Knows no schema and no tool.
"""

from llmsys.tool_serve.events import Passage
from llmsys.tool_serve.formats.bodies import Arguments, Envelope
from llmsys.tool_serve.formats.reading import Markers, Reading

__all__ = ["Hermes", "Json", "Llama3Json", "Mistral"]


class _Objects(Reading):
    """Calls one after another. `_next` is what comes behind a call; `_lost` what comes behind one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self._body: Envelope | Arguments = Envelope()
        self._start = 0

    def begin(self, body: Envelope | Arguments) -> bool:
        """Read a call from here on."""
        self._body, self.step = body, self._read
        return True

    def _read(self) -> bool:
        before = self.at
        state = self.read_body(self._body)
        if state is None:
            self.step = self.after_fault
        elif state:
            if isinstance(self._body, Envelope) and not self._body.is_call:
                self.no_call(self.text[before : self.at])
            self.step = self.after_call
        return state is not False

    def after_call(self) -> bool:
        """Step behind a call."""
        raise NotImplementedError

    def after_fault(self) -> bool:
        """Step behind a call that is malformed: the rest of the turn is part of it."""
        self.at = len(self.text)
        return False

    def no_call(self, text: str) -> None:
        """An object that has no name, complete."""
        self.malformed(None, 'an object without "name"; expected a call', self.at, text)


class Hermes(_Objects):
    """`<tool_call>{"name":…,"arguments":{…}}</tool_call>` (Hermes, Qwen 2.5 and 3)."""

    START, END = "<tool_call>", "</tool_call>"
    MARKERS = Markers(START)

    def __init__(self) -> None:
        super().__init__()
        self.step = self._outside

    def _outside(self) -> bool:
        return self.passage_to(self.MARKERS) is not None and self.begin(Envelope())

    def after_call(self) -> bool:
        """Another object, or the end of the tag, which a model may leave out."""
        place = self.peek()
        if place is not None and self.text[place] == "{":
            self.at = place
            return self.begin(Envelope())
        rest = self.text[place : place + len(self.END)] if place is not None else ""
        if rest == self.END and place is not None:
            self.at = place + len(self.END)
        elif not self.closed and self.END.startswith(rest):
            return False
        self.step = self._outside
        return True

    def after_fault(self) -> bool:
        """Go behind the end of the tag."""
        if self.until(self.END) is None:
            self.at = max(self.at, len(self.text) - len(self.END) + 1)
            return False
        self.step = self._outside
        return True


class Json(_Objects):
    """An object, or an array of objects, that is the whole turn; objects may follow each other, with `;` or `,`."""

    def __init__(self) -> None:
        super().__init__()
        self._in_array = False
        self.step = self._first

    def _first(self) -> bool:
        """Calls begin with the turn's first character that is no space."""
        place = self.peek()
        if place is None:
            self.step = self.rest if self.closed else self._first
            return self.closed
        if self.text[place] not in "{[":
            self.step = self.rest
            return True
        self._in_array = self.text[place] == "["
        self.at = place + self._in_array
        return self.begin(Envelope())

    def after_call(self) -> bool:
        """Another object behind what may stand between, or text."""
        place = self.peek()
        if place is not None and self._in_array and self.text[place] in ",]":
            self.at, self._in_array = place + 1, self.text[place] == ","
            return True
        if place is not None and self.text[place] in ",;":
            place = self.peek(place + 1)
        if place is None and not self.closed:
            return False
        if place is not None and self.text[place] == "{":
            self.at = place
            return self.begin(Envelope())
        self.step = self.rest
        return True

    def rest(self) -> bool:
        """Everything else is text."""
        self.pass_on(len(self.text))
        return False

    def no_call(self, text: str) -> None:
        """JSON that is an answer and no call."""
        self.tell(Passage(text, self.offset(self.at)))


class Llama3Json(Json):
    """As `Json`, with `"parameters"`; `<|python_tag|>` may stand before a call, and then text before that (Llama 3)."""

    MARKERS = Markers("<|python_tag|>")

    def rest(self) -> bool:
        """Text, until the tag says that a call follows."""
        return self.passage_to(self.MARKERS) is not None and self.begin(Envelope())


class Mistral(_Objects):
    """`[TOOL_CALLS][{…}, {…}]`, or `[TOOL_CALLS]name{…}` and `[TOOL_CALLS]name[ARGS]{…}` in later models."""

    MARKERS = Markers("[TOOL_CALLS]")
    ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"

    def __init__(self) -> None:
        super().__init__()
        self._in_array = False
        self.step = self._outside

    def _outside(self) -> bool:
        if self.passage_to(self.MARKERS) is None:
            return False
        self.step = self._which
        return True

    def _which(self) -> bool:
        """An array of objects, or a name."""
        mark = self.skip_space()
        if not mark and not self.closed:
            return False
        self._in_array = mark == "["
        if self._in_array:
            self.at += 1
            return self.begin(Envelope())
        self.step = self._name
        return True

    def _name(self) -> bool:
        """A name ends where its arguments begin."""
        place = self.text.find("{", self.at)
        if place < 0:
            return self._no_arguments() if self.closed else False
        name = self.text[self.at : place].split(self.CALL_ID)[0].removesuffix(self.ARGS).strip()
        self.at = place
        return self.begin(Arguments(self.open_call(name)))

    def _no_arguments(self) -> bool:
        raw, self.at = self.text[self.at :], len(self.text)
        if raw:
            self.malformed(None, "the text ended; expected a name and its arguments", self.at, raw)
        return False

    def after_call(self) -> bool:
        """Another object of the array or its end; else text, in which the marker may come again."""
        if self._in_array:
            place = self.peek()
            if place is None:
                return False
            if self.text[place] in ",]":
                self.at = place + 1
            if self.text[place] == ",":
                return self.begin(Envelope())
        self.step = self._outside
        return True
