"""Predicates over labels: AND, OR, NOT, parentheses, ANY(a, b), ALL(a, b) and AT_LEAST(2; a, b). A tenant is a label.

Evaluated as set algebra on slots. A label with blanks or signs stands in double quotes. Knows no vectors.

>>> parse("acme AND NOT (draft OR archived)")
And(parts=(Label(name='acme'), Not(part=AtLeast(count=1, names=('draft', 'archived')))))
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

import numpy as np

from llmsys.errors import UsageFault
from llmsys.vindex.arrays import I32

__all__ = ["And", "AtLeast", "Expression", "Label", "Not", "Or", "evaluate", "labels", "parse"]

TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([(),;])|([^\s(),;"]+))')
MAX_TOKENS = 1000
KEYWORDS = ("AND", "OR", "NOT", "ANY", "ALL", "AT_LEAST")


@dataclass(frozen=True, slots=True)
class Label:
    """The vectors that carry a label."""

    name: str


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The vectors that carry at least `count` of the labels."""

    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The vectors that the part does not hold for, among those that the caller may see."""

    part: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """The vectors that all parts hold for."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """The vectors that a part holds for."""

    parts: tuple["Expression", ...]


Expression = Label | AtLeast | Not | And | Or


def parse(text: str) -> Expression:
    """The expression of a text. Raises UsageFault that names the place."""
    parser = _Parser(text, _tokens(text))
    found = parser.either()
    if parser.at < len(parser.tokens):
        parser.refuse("AND, OR or the end")
    return found


def labels(expression: Expression) -> set[str]:
    """The labels that an expression asks about."""
    match expression:
        case Label(name):
            return {name}
        case AtLeast(_, names):
            return set(names)
        case Not(part):
            return labels(part)
        case And(parts) | Or(parts):
            return set().union(*map(labels, parts))


def evaluate(expression: Expression, members: Callable[[str], I32], everything: I32) -> I32:
    """The slots, ascending, that the expression holds for, within `everything` (ascending).

    `members` gives the slots of a label, in any order without repeats.
    """
    match expression:
        case Label(name):
            return np.intersect1d(members(name), everything, assume_unique=True)
        case AtLeast(count, names):
            slots, times = np.unique(np.concatenate([members(name) for name in names]), return_counts=True)
            return np.intersect1d(slots[times >= count], everything, assume_unique=True)
        case Not(part):
            return np.setdiff1d(everything, evaluate(part, members, everything), assume_unique=True)
        case And(parts):
            return reduce(lambda within, part: evaluate(part, members, within), parts, everything)
        case Or(parts):
            return reduce(np.union1d, [evaluate(part, members, everything) for part in parts])


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    place: int
    quoted: bool = False


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None or len(found) == MAX_TOKENS:
            raise UsageFault(f"--where: cannot read {text[at : at + 20]!r} at {at}; expected labels, AND, OR, NOT, ( )")
        quoted, sign, word = match.groups()
        label = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else sign or word
        place = next(match.start(group) for group in (1, 2, 3) if match[group] is not None)
        found.append(_Token(label, place, quoted is not None))
        at = match.end()
    return found


@dataclass(slots=True)
class _Parser:
    text: str
    tokens: list[_Token]
    at: int = 0
    depth: int = 0

    def either(self) -> Expression:
        parts = [self.both()]
        while self.take("OR"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else _or(tuple(parts))

    def both(self) -> Expression:
        parts = [self.one()]
        while self.take("AND"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self) -> Expression:
        self.depth += 1
        if self.depth > 100:
            self.refuse("at most 100 levels")
        found = self.primary()
        self.depth -= 1
        return found

    def primary(self) -> Expression:
        if self.take("NOT"):
            return Not(self.one())
        if self.take("("):
            inner = self.either()
            self.demand(")")
            return inner
        for word in ("ANY", "ALL", "AT_LEAST"):
            if self.take(word):
                return self.group(word)
        return Label(self.label())

    def group(self, word: str) -> Expression:
        self.demand("(")
        count = 1
        if word == "AT_LEAST":
            number = self.label()
            if not number.isdecimal() or not 0 < int(number) <= MAX_TOKENS:
                self.at -= 1
                self.refuse("a number of labels, from 1")
            count = int(number)
            self.demand(";")
        names = [self.label()]
        while self.take(","):
            names.append(self.label())
        self.demand(")")
        different = tuple(dict.fromkeys(names))
        return AtLeast(len(different) if word == "ALL" else count, different)

    def label(self) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if token is None or (not token.quoted and (token.text in KEYWORDS or token.text in "(),;")):
            self.refuse("a label")
        self.at += 1
        return self.tokens[self.at - 1].text

    def take(self, text: str) -> bool:
        here = self.tokens[self.at] if self.at < len(self.tokens) else None
        found = here is not None and here.text == text and not here.quoted
        self.at += found
        return found

    def demand(self, text: str) -> None:
        if not self.take(text):
            self.refuse(repr(text))

    def refuse(self, right: str) -> NoReturn:
        place = self.tokens[self.at].place if self.at < len(self.tokens) else len(self.text)
        wrong = repr(self.tokens[self.at].text) if self.at < len(self.tokens) else "the end"
        raise UsageFault(f"--where: {wrong} at {place}; expected {right}")


def _or(parts: tuple[Expression, ...]) -> Expression:
    """One AtLeast where all parts are labels: it is evaluated in one pass."""
    names = [part.name for part in parts if isinstance(part, Label)]
    return AtLeast(1, tuple(dict.fromkeys(names))) if len(names) == len(parts) else Or(parts)
