"""A Python program, as it is written, in pieces that can run: complete top-level statements.

A statement is complete when another begins at column 0 that cannot continue it: not `else`, `elif`, `except`, `finally`
or `case`, not a closing bracket, all judged on their whole first word. The last statement is never given out here: it
is complete only when the program is. Each line is looked at once and each statement parsed once. Knows no tool.
"""

import ast
import re

__all__ = ["Statements"]

_CONTINUES = frozenset({"else", "elif", "except", "finally", "case"})
_WORD = re.compile(r"[^\W\d]\w*")
_TOKEN = re.compile(r"""\\.|\\$|#.*|'''|\"\"\"|['"()\[\]{}]|[^\\#'"()\[\]{}]+""", re.DOTALL)
_IN_STRING = {quote: re.compile(rf"\\.|\\$|{quote}|[^\\]", re.DOTALL) for quote in ("'''", '"""')}
_SHORT = {"'": re.compile(r"(?:[^'\\]|\\.)*'", re.DOTALL), '"': re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)}


class Statements:
    """Text in, complete statements out, which joined are the text without its last statement."""

    def __init__(self) -> None:
        self._line = ""
        self._pending: list[str] = []
        self._depth = 0
        self._quote = ""
        self._continued = False
        self._judged = False
        self._has_code = False
        self._broken = False

    def feed(self, text: str) -> list[str]:
        """Read some more characters; the statements that they complete."""
        if self._broken:
            return []
        found: list[str] = []
        *whole, rest = (self._line + text).split("\n")
        self._line = rest
        for line in whole:
            found += self._begin(line, complete=True)
            self._end(line + "\n")
        found += self._begin(rest, complete=False)
        return found

    def _begin(self, line: str, *, complete: bool) -> list[str]:
        """What is complete now that this line begins, which is judged once, by its first word."""
        if self._judged or self._depth or self._quote or self._continued or not self._has_code:
            return []
        first = line[:1]
        if not line or first in "#)]}" or first.isspace():
            return []
        word = _WORD.match(line)
        if word is not None and (word[0] in _CONTINUES or (word.end() == len(line) and not complete)):
            return []
        self._judged = True
        source = "".join(self._pending)
        if not _is_complete(source):
            # a decorator waits for what it decorates; any other fault is told, with its line, when the whole runs
            self._broken = not _is_complete(source + "def _(): pass\n")
            return []
        self._pending, self._has_code = [], False
        return [source]

    def _end(self, line: str) -> None:
        """A line is whole: keep it, and know whether it leaves a bracket, a string or itself open."""
        self._pending.append(line)
        self._has_code = self._has_code or not (line.isspace() or line.lstrip().startswith("#"))
        self._judged = False
        self._continued = False
        at = 0
        while at < len(line):
            at = self._past_string(line, at) if self._quote else self._past_token(line, at)

    def _past_string(self, line: str, at: int) -> int:
        """Past the end of a long string, if it is on this line."""
        scan = _IN_STRING[self._quote]
        while (token := scan.match(line, at)) is not None:
            at = token.end()
            if token[0] == self._quote:
                self._quote = ""
                break
        return at

    def _past_token(self, line: str, at: int) -> int:
        token = _TOKEN.match(line, at)
        assert token is not None
        mark = token[0]
        if mark in _IN_STRING:
            self._quote = mark
        elif mark in _SHORT:
            string = _SHORT[mark].match(line, token.end())
            return string.end() if string is not None else len(line)
        elif mark in "([{":
            self._depth += 1
        elif mark in ")]}":
            self._depth = max(self._depth - 1, 0)
        elif mark == "\\\n":
            self._continued = True
        return token.end()


def _is_complete(source: str) -> bool:
    try:
        compile(source, "<statements>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
