"""A JSON value read as it is written: events for every value and every piece of a string, in one pass, resumable.

Strict as RFC 8259: no NaN, no raw control characters, no lone surrogates. The last of equal keys wins. Depth and size
are bounded. Costs O(new characters) per feed, whatever came before. Knows no call: see `envelope.py`.
"""

import math
import re
from typing import Any

from llmsys.tool_serve.escapes import resolved
from llmsys.tool_serve.events import Path

__all__ = ["MAX_CHARS", "MAX_DEPTH", "JsonScanner", "ScanFault"]

MAX_DEPTH = 64
MAX_CHARS = 8 << 20
_PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')
_SPACE = re.compile(r"[ \t\n\r]*")
_DIGITS = re.compile(r"[-+0-9.eE]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS: dict[str, tuple[str, bool | None]] = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_STARTS = frozenset("-0123456789tfn")
_MAX_DIGITS = 4000
_VALUE, _KEY, _FIRST_KEY, _COLON, _AFTER, _FIRST_VALUE, _STRING, _NAME, _WORD, _DONE = range(10)

Found = tuple[Path, Any, bool, int]
"""(path, value or new characters, whether it is a piece of a string, place in the text behind it)."""


class ScanFault(ValueError):
    """What was found that is no JSON, and what was expected; `at` is its place in the text that was fed."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(why)
        self.at = at


class JsonScanner:
    """One JSON value. `feed` reads up to its end; `found` collects what was completed, for the caller to take."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.value: Any = None
        self._state = _VALUE
        self._stack: list[Any] = []
        self._keys: list[str | int] = []
        self._pieces: list[str] = []
        self._told = 0
        self._escape = ""
        self._chars = 0

    @property
    def done(self) -> bool:
        """Whether the value is complete."""
        return self._state == _DONE

    def feed(self, text: str, at: int = 0) -> int:
        """Read from text[at:] to the value's end, or all of it; returns the place behind what was read.

        Raises ScanFault. A number at the top is complete only when something follows it, or by `finish`.
        """
        start, end = at, len(text)
        while at < end and self._state != _DONE:
            if self._state in (_STRING, _NAME):
                at = self._read_string(text, at)
            elif self._state == _WORD:
                at = self._read_word(text, at)
            else:
                space = _SPACE.match(text, at)
                assert space is not None
                at = space.end()
                if at < end:
                    at = self._read_mark(text, at)
        self._chars += at - start
        if self._chars > MAX_CHARS:
            raise ScanFault(f"more than {MAX_CHARS} characters; expected a smaller value", at)
        return at

    def finish(self, at: int = 0) -> None:
        """Nothing follows: a number at the top is complete. Raises ScanFault where the value is cut off."""
        if self._state == _WORD and self._pieces[0][:1] not in _WORDS:
            self._end_number(at)
        if self._state != _DONE:
            raise ScanFault("the text ended; expected the rest of a JSON value", at)

    def snapshot(self) -> Any:  # noqa: ANN401 (a JSON value)
        """The value as far as it is known, a string that is being written included; None before the first."""
        open_text = "".join(self._pieces) if self._state == _STRING else None
        if not self._stack:
            return self.value if open_text is None else open_text
        root = _copied(self._stack[0])
        if open_text is not None:
            home = root
            for key in self._keys[: len(self._stack) - 1]:
                home = home[key]
            _put(home, self._keys[-1], open_text)
        return root

    def _path(self) -> Path:
        return tuple(self._keys)

    def _read_mark(self, text: str, at: int) -> int:
        """One structural character, or the first of a value."""
        mark, state = text[at], self._state
        if state in (_VALUE, _FIRST_VALUE):
            if mark == "]" and state == _FIRST_VALUE:
                return self._close(at)
            return self._begin_value(mark, at)
        if state in (_KEY, _FIRST_KEY):
            if mark == '"':
                self._state, self._pieces = _NAME, []
                return at + 1
            if mark == "}" and state == _FIRST_KEY:
                return self._close(at)
            raise ScanFault(f"{mark!r}; expected a key in double quotes", at)
        if state == _COLON:
            if mark != ":":
                raise ScanFault(f"{mark!r}; expected ':' after a key", at)
            self._state = _VALUE
            return at + 1
        return self._continue(mark, at)

    def _continue(self, mark: str, at: int) -> int:
        """After a value in a container: a comma or the container's end."""
        within_object = isinstance(self._stack[-1], dict)
        if mark == ",":
            if not within_object:
                self._keys[-1] = int(self._keys[-1]) + 1
            self._state = _KEY if within_object else _VALUE
            return at + 1
        closing = "}" if within_object else "]"
        if mark != closing:
            raise ScanFault(f"{mark!r}; expected ',' or {closing!r}", at)
        return self._close(at)

    def _begin_value(self, mark: str, at: int) -> int:
        if mark == '"':
            self._state, self._pieces = _STRING, []
        elif mark in "{[":
            if len(self._stack) == MAX_DEPTH:
                raise ScanFault(f"containers within containers more than {MAX_DEPTH} deep", at)
            made: Any = {} if mark == "{" else []
            if self._stack:
                _put(self._stack[-1], self._keys[-1], made)
            self._stack.append(made)
            self._keys.append("" if mark == "{" else 0)
            self._state = _FIRST_KEY if mark == "{" else _FIRST_VALUE
        elif mark in _STARTS:
            self._state, self._pieces = _WORD, []
            return at
        else:
            raise ScanFault(f"{mark!r}; expected a JSON value", at)
        return at + 1

    def _read_string(self, text: str, at: int) -> int:
        """Characters of a string or key to its end or the text's; escapes are resolved, never half of one is told."""
        if self._escape:
            at = self._read_escape(text, at)
        while at < len(text) and not self._escape:
            plain = _PLAIN.match(text, at)
            assert plain is not None
            if plain.end() > at:
                self._pieces.append(plain[0])
                at = plain.end()
            if at == len(text):
                break
            mark = text[at]
            if mark == '"':
                self._tell_text(at)
                return self._end_string(at + 1)
            if mark != "\\":
                raise ScanFault(f"{mark!r} within a string; expected it escaped", at)
            at = self._read_escape(text, at)
        self._tell_text(at)
        return at

    def _read_escape(self, text: str, at: int) -> int:
        """As much of an escape, or of a pair of surrogates, as the text has; whole ones become a character."""
        while at < len(text):
            self._escape += text[at]
            at += 1
            try:
                character = resolved(self._escape)
            except ValueError as error:
                raise ScanFault(str(error), at) from error
            if character is not None:
                self._pieces.append(character)
                self._escape = ""
                break
        return at

    def _tell_text(self, at: int) -> None:
        """Tell the characters read since the last time."""
        if self._state == _STRING and self._told < len(self._pieces):
            self.found.append((self._path(), "".join(self._pieces[self._told :]), True, at))
            self._told = len(self._pieces)

    def _end_string(self, at: int) -> int:
        whole = "".join(self._pieces)
        self._pieces, self._told = [], 0
        if self._state == _NAME:
            self._keys[-1] = whole
            self._state = _COLON
        else:
            self._complete(whole, at)
        return at

    def _read_word(self, text: str, at: int) -> int:
        """A number to where something else follows; true, false or null to its last letter."""
        if not self._pieces and text[at] in _WORDS:
            self._pieces.append("")
        if self._pieces and (word := _WORDS.get(self._pieces[0][:1] or text[at])):
            return self._read_named(text, at, *word)
        digits = _DIGITS.match(text, at)
        assert digits is not None
        self._pieces.append(digits[0])
        if digits.end() < len(text):
            self._end_number(digits.end())
        return digits.end()

    def _read_named(self, text: str, at: int, word: str, value: bool | None) -> int:
        known = len(self._pieces[0])
        new = text[at : at + len(word) - known]
        for place, letter in enumerate(new):
            if letter != word[known + place]:
                raise ScanFault(f"{(self._pieces[0] + new[: place + 1])!r}; expected {word}", at + place)
        self._pieces = [self._pieces[0] + new]
        if known + len(new) == len(word):
            self._pieces = []
            self._complete(value, at + len(new))
        return at + len(new)

    def _end_number(self, at: int) -> None:
        word = "".join(self._pieces)
        self._pieces = []
        if not _NUMBER.fullmatch(word) or len(word) > _MAX_DIGITS:
            raise ScanFault(f"{word[:40]!r}; expected a JSON number", at)
        number = float(word) if set(word) & set(".eE") else int(word)
        if abs(number) == math.inf:
            raise ScanFault(f"{word!r}; expected a number that a double can hold", at)
        self._complete(number, at)

    def _complete(self, value: Any, at: int) -> None:  # noqa: ANN401 (a JSON value)
        if self._stack:
            _put(self._stack[-1], self._keys[-1], value)
            self._state = _AFTER
        else:
            self.value = value
            self._state = _DONE
        self.found.append((self._path(), value, False, at))

    def _close(self, at: int) -> int:
        whole = self._stack.pop()
        self._keys.pop()
        self._state = _AFTER if self._stack else _DONE
        if not self._stack:
            self.value = whole
        self.found.append((self._path(), whole, False, at + 1))
        return at + 1


def _put(home: Any, key: str | int, value: Any) -> None:  # noqa: ANN401 (a JSON container)
    if isinstance(home, dict):
        home[key] = value
    elif key == len(home):
        home.append(value)
    else:
        home[key] = value


def _copied(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value
