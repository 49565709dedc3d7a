"""Formats whose calls are code: pythonic (`[f(a=1), g(b="x")]`) and fence:python (a fenced block is the call).

Knows no tool and no schema.
"""

import ast
import re
from typing import Any

from llmsys.tool_serve.events import Sealed, Text, Value
from llmsys.tool_serve.formats.reading import Markers, Reading

__all__ = ["FencePython", "Pythonic"]

_WORDS = {"true": True, "false": False, "null": None}
_PAIRS = {"(": ")", "[": "]", "{": "}"}


class Pythonic(Reading):
    """Calls as a list of Python calls that is the whole turn (Llama 3.2 and 4); each argument is told when complete."""

    HEAD = re.compile(r"\s*(?:<\|python_start\|>)?\s*\[\s*(?=[A-Za-z_])")
    NAME = re.compile(r"\s*([A-Za-z_][\w.]*)\s*\(")
    KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
    BEGUN = re.compile(r"\s*[\w.]*\s*")
    END = Markers("<|python_end|>", fences=False)
    MOST_HEAD = 64

    def __init__(self) -> None:
        super().__init__()
        self._call = -1
        self._args: dict[str, Any] = {}
        self._key = ""
        self._open: list[str] = []
        self._quote = ""
        self._looked = 0
        self.step = self._first

    def _first(self) -> bool:
        """A list of calls begins with `[` and a name; anything else is text."""
        head = self.HEAD.match(self.text)
        if head is not None:
            self.at, self.step = head.end(), self._name
            return True
        bare = self.text.lstrip()
        may_come = bare in ("", "[") or "<|python_start|>".startswith(bare) or bare.startswith("<|python_start|>")
        if may_come and not self.closed and len(self.text) < self.MOST_HEAD:
            return False
        self.step = self._rest
        return True

    def _rest(self) -> bool:
        return self.passage_to(self.END) is not None

    def _name(self) -> bool:
        found = self.NAME.match(self.text, self.at)
        if found is None:
            return self._cut("a function's name and '('")
        self.at = found.end()
        self._call, self._args = self.open_call(found[1]), {}
        self.step = self._key_or_end
        return True

    def _key_or_end(self) -> bool:
        mark = self.skip_space()
        if mark == ")":
            self.at += 1
            self.tell(Sealed(self._call, self._args, self.offset(self.at)))
            self.step = self._between
            return True
        if mark == ",":
            self.at += 1
            return True
        found = self.KEY.match(self.text, self.at)
        if found is None:
            return self._cut("an argument's name and '='")
        self._key, self.at, self.step = found[1], found.end(), self._value
        self._looked = self.at
        return True

    def _between(self) -> bool:
        mark = self.skip_space()
        if mark in (",", "]"):
            self.at += 1
            self.step = self._name if mark == "," else self._rest
            return True
        return self._cut("',' or ']' behind a call")

    def _value(self) -> bool:
        """Look for the comma or parenthesis behind a value, past strings and brackets."""
        at = max(self._looked, self.at)
        while at < len(self.text):
            mark = self.text[at]
            if mark == "\\" and self._quote:
                if at + 1 == len(self.text):
                    break
                at += 1
            elif self._quote:
                self._quote = "" if mark == self._quote else self._quote
            elif mark in "'\"":
                self._quote = mark
            elif mark in _PAIRS:
                self._open.append(_PAIRS[mark])
            elif self._open and mark == self._open[-1]:
                self._open.pop()
            elif mark in ",)" and not self._open:
                return self._told(at)
            at += 1
        self._looked = at
        if self.closed:
            return self._cut(f"the end of argument {self._key}")
        return False

    def _told(self, end: int) -> bool:
        text, self.at = self.text[self.at : end].strip(), end
        try:
            value = _WORDS[text] if text in _WORDS else ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return self._fault(f"{text[:40]!r} as argument {self._key}; expected a literal", text)
        self._args[self._key] = value
        self.tell(Value(self._call, (self._key,), value, self.offset(end)))
        self.step = self._key_or_end
        return True

    def feed(self, text: str) -> list[Any]:
        """As `Parser` says."""
        self._looked -= self.at
        return super().feed(text)

    def _cut(self, expected: str) -> bool:
        """Wait for more text, unless it is clear that what comes is wrong."""
        good = self.BEGUN.match(self.text, self.at)
        assert good is not None
        if good.end() == len(self.text) and not self.closed:
            return False
        rest = self.text[self.at : good.end() + 1]
        return self._fault(f"{rest!r}; expected {expected}", rest)

    def _fault(self, why: str, raw: str) -> bool:
        over = self._call >= 0 and self.step in (self._between, self._name)
        self.malformed(None if over or self._call < 0 else self._call, why, self.at, raw)
        self.at = len(self.text)
        self.step = self._dropped
        return False

    def _dropped(self) -> bool:
        self.at = len(self.text)
        return False


class FencePython(Reading):
    """A block fenced as Python is a call of `python` with its text as `code`; characters are told as they come."""

    START = Markers("```python\n", "```py\n", fences=False)
    STOP = Markers("\n```", fences=False)
    FENCE = "```"

    def __init__(self) -> None:
        super().__init__()
        self._call = -1
        self._pieces: list[str] = []
        self.step = self._outside

    def _outside(self) -> bool:
        if self.passage_to(self.START) is None:
            return False
        self._call, self._pieces = self.open_call("python"), []
        self.step = self._first_line
        return True

    def _first_line(self) -> bool:
        """A block may be empty: its end is at its beginning then."""
        found = self.takes([self.FENCE])
        if found == "":
            return False
        if found:
            return self._seal()
        self.step = self._inside
        return True

    def _inside(self) -> bool:
        place, stop = self.STOP.find(self.text, self.at)
        end = place + (stop is not None)  # the last line's end belongs to the code
        piece = self.text[self.at : end]
        if piece:
            self.at = end
            self._pieces.append(piece)
            self.tell(Text(self._call, ("code",), piece, self.offset(end)))
        if stop is not None:
            self.at = place + len(stop)
            return self._seal()
        if self.closed:
            raw = "".join(self._pieces) + self.text[self.at :]
            self.at, self.step = len(self.text), self._outside
            self.malformed(self._call, f"the text ended; expected {self.FENCE} on a line of its own", self.at, raw)
        return False

    def _seal(self) -> bool:
        code = "".join(self._pieces)
        offset = self.offset(self.at)
        self.tell(Value(self._call, ("code",), code, offset), Sealed(self._call, {"code": code}, offset))
        self.step = self._outside
        return True
