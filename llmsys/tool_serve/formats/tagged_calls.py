"""Formats that write each argument between tags, as plain text: qwen3_coder, glm45. Types come from the schema.

A string's characters are told as they come. Knows no tool.
"""

from typing import Any

from llmsys.tool_serve.events import Sealed, Text, Value
from llmsys.tool_serve.formats.reading import Markers, Reading
from llmsys.tool_serve.formats.typed import Schemas, as_typed, is_text

__all__ = ["Glm45", "Qwen3Coder"]


class _Tagged(Reading):
    """Text up to a call, its name, arguments one by one, its end; subclasses know the tags."""

    MARKERS: Markers
    VALUE_END: Markers
    trims = False

    def __init__(self, schemas: Schemas) -> None:
        super().__init__()
        self.schemas = schemas
        self.name = ""
        self.call = -1
        self.args: dict[str, Any] = {}
        self._key = ""
        self._pieces: list[str] = []
        self.step = self.outside

    def outside(self) -> bool:
        """Text up to a call."""
        raise NotImplementedError

    def inside(self) -> bool:
        """Between arguments."""
        raise NotImplementedError

    def begin(self, name: str) -> bool:
        """The call's name is known."""
        self.name, self.args = name, {}
        self.call = self.open_call(name)
        self.step = self.inside
        return True

    def begin_value(self, key: str) -> bool:
        """An argument's text begins here, behind one line end if there is one."""
        self._key, self._pieces, self.step = key, [], self._skip_line_end if self.trims else self._value
        return True

    def seal(self) -> bool:
        """The call is complete."""
        self.tell(Sealed(self.call, self.args, self.offset(self.at)))
        self.step = self.outside
        return True

    def cut_off(self, expected: str) -> bool:
        """At the turn's end a call that is not complete is told as that; what is left of the text belongs to it."""
        if self.closed:
            raw, self.at = self.text[self.at :], len(self.text)
            self.malformed(self.call, f"the text ended; expected {expected}", self.at, raw)
            self.step = lambda: False
        return False

    def fault(self, *options: str) -> bool:
        """What comes is none of what must: the rest of the turn belongs to the call."""
        if self.closed and any(one.startswith(self.text[self.at :]) for one in options):
            return self.cut_off(options[-1])
        raw = self.mismatch(options)
        self.malformed(self.call, f"{raw!r}; expected {' or '.join(options)}", self.at, raw)
        self.at = len(self.text)
        self.step = self._dropped
        return True

    def _dropped(self) -> bool:
        self.at = len(self.text)
        return False

    def _skip_line_end(self) -> bool:
        if self.at == len(self.text):
            return self.cut_off("a value")
        self.at += self.text[self.at] == "\n"
        self.step = self._value
        return True

    def _value(self) -> bool:
        place, end = self.VALUE_END.find(self.text, self.at)
        piece = self.text[self.at : place]
        if piece:
            self.at = place
            self._pieces.append(piece)
            if is_text(self.schemas, self.name, self._key):
                self.tell(Text(self.call, (self._key,), piece, self.offset(place)))
        if end is None:
            return self.cut_off(f"the end of argument {self._key}")
        self.at = place + len(end)
        self.args[self._key] = as_typed(self.schemas, self.name, self._key, "".join(self._pieces))
        self.tell(Value(self.call, (self._key,), self.args[self._key], self.offset(self.at)))
        self.step = self.inside
        return True


class Qwen3Coder(_Tagged):
    """`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`, a line each."""

    WRAP, FUNCTION, PARAMETER = "<tool_call>", "<function=", "<parameter="
    FUNCTION_END, WRAP_END = "</function>", "</tool_call>"
    MARKERS = Markers(WRAP, FUNCTION, WRAP_END)
    VALUE_END = Markers("\n</parameter>", "</parameter>", fences=False)
    trims = True

    def outside(self) -> bool:
        """Text up to a function; the tags around it are dropped, and so is the space behind them."""
        found = self.passage_to(self.MARKERS)
        if found is None:
            return False
        self.step = self._name if found == self.FUNCTION else self._wrapped if found == self.WRAP else self.outside
        return True

    def _wrapped(self) -> bool:
        mark = self.skip_space()
        if not mark and not self.closed:
            return False
        self.step = self.outside
        return bool(mark)

    def _name(self) -> bool:
        name = self.until(">")
        if name is None:
            if self.closed:
                self.call, self.calls = self.calls, self.calls + 1
            return self.cut_off("'>' behind a function's name")
        return self.begin(name.strip())

    def inside(self) -> bool:
        """Another parameter or the function's end."""
        if not self.skip_space():
            return self.cut_off(self.FUNCTION_END)
        found = self.takes([self.PARAMETER, self.FUNCTION_END, self.WRAP_END])
        if found == "":
            return False
        if found is None:
            return self.fault(self.PARAMETER, self.FUNCTION_END)
        if found == self.PARAMETER:
            self.step = self._parameter
            return True
        return self.seal()

    def _parameter(self) -> bool:
        key = self.until(">")
        return self.cut_off("'>' behind a parameter's name") if key is None else self.begin_value(key.strip())


class Glm45(_Tagged):
    """`<tool_call>NAME`, then `<arg_key>KEY</arg_key>` and `<arg_value>VALUE</arg_value>` pairs, `</tool_call>`."""

    START, END = "<tool_call>", "</tool_call>"
    KEY, KEY_END, VALUE = "<arg_key>", "</arg_key>", "<arg_value>"
    MARKERS = Markers(START)
    NAME_END = Markers("\n", "<arg_key>", "</tool_call>", fences=False)
    VALUE_END = Markers("</arg_value>", fences=False)

    def outside(self) -> bool:
        """Text up to a call."""
        if self.passage_to(self.MARKERS) is None:
            return False
        self.step = self._name
        return True

    def _name(self) -> bool:
        if not self.skip_space():
            return self._unnamed()
        place, end = self.NAME_END.find(self.text, self.at)
        if end is None:
            return self._unnamed()
        name, self.at = self.text[self.at : place], place
        return self.begin(name.strip())

    def _unnamed(self) -> bool:
        if self.closed:
            self.call, self.calls = self.calls, self.calls + 1
        return self.cut_off("a tool's name")

    def inside(self) -> bool:
        """Another pair or the call's end."""
        if not self.skip_space():
            return self.cut_off(self.END)
        found = self.takes([self.KEY, self.END])
        if found == "":
            return False
        if found is None:
            return self.fault(self.KEY, self.END)
        if found == self.END:
            return self.seal()
        self.step = self._pair
        return True

    def _pair(self) -> bool:
        """A key and the tag of its value."""
        start = self.at
        key = self.until(self.KEY_END)
        if key is None:
            return self.cut_off(self.KEY_END)
        if self.skip_space() and (found := self.takes([self.VALUE])) != "":
            return self.begin_value(key.strip()) if found else self.fault(self.VALUE)
        self.at = start
        return self.cut_off(self.VALUE)
