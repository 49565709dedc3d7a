"""What a model wrote as a plan, read into loose items: canonical lines, JSON in its forms, or markdown lists.

Takes any text, in time linear in its length; decides nothing about which items or needs are valid. Knows nothing of
graphs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jiter

__all__ = ["Item", "Reading", "read_items"]

LINE_CHARS = 2000
ID_DIGITS = 18
NUMBER = re.compile(r"\d{1,18}")
NUMBERED = re.compile(r"\s{0,40}(?:[#>*_]{1,6}\s{0,4})?(\d{1,18})\s{0,4}[.):]\s{0,8}(?=\S)")
BULLET = re.compile(r"\s{0,40}[-*•+]\s{1,8}(?=\S)")
NEED_WORDS = r"(?:depend(?:s|ent)?\s+(?:up)?on|needs|requires|builds\s+on)"
NEEDS = re.compile(NEED_WORDS + r"\s*:?\s*((?:\d{1,18}|and|[,&\s])+)", re.I)
LEVEL = re.compile(r"(?:difficulty|level)\s*:?\s*([\w/★]+(?:\s+hard|\s+easy)?)", re.I)
FRACTION = re.compile(r"\b(\d{1,3}/\d{1,3})\b|(★+)")
WORDS = re.compile(r"\b(very easy|trivial|easy|medium|moderate|very hard|hard|difficult)\b", re.I)
ANNOTATION = re.compile(r"\s*[(\[]|\s+[-–—;]\s+(?=depend|needs|requires|builds|difficulty|level)", re.I)
FENCE = re.compile(r"```\w*")

TITLE_KEYS = ("title", "name", "description", "task", "text", "point", "part")
ID_KEYS = ("id", "index", "number", "no")
NEEDS_KEYS = ("needs", "dependencies", "depends_on", "requires", "deps")
LEVEL_KEYS = ("level", "difficulty", "score")


@dataclass(frozen=True, slots=True)
class Item:
    """One item as written: `id` None where it has no number; `level` the words or number given, None for none."""

    id: int | None
    title: str
    needs: tuple[int, ...] = ()
    level: str | int | float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The items of a text, and how many of its lines, blank ones and the closing `end` aside, are none."""

    items: list[Item]
    loose: int = 0


def read_items(text: str) -> Reading:
    """The items of the first form that the text holds; none for prose, for `single` and for nothing at all."""
    lines = [line[:LINE_CHARS] for line in text.replace("\0", " ").splitlines()]
    for form in (_canonical(lines), _json_lines(lines), _json_value(text), _numbered(lines), _bulleted(lines)):
        found = list(form)
        items = [item for item in found if item is not None]
        if items:
            return Reading(items, len(found) - len(items))
    return Reading([])


def _says_something(line: str) -> bool:
    """Whether a line that is no item is more than a blank, a fence or the end of a plan."""
    return FENCE.sub("", line).strip(" .").lower() not in ("", "end")


def _canonical(lines: list[str]) -> Iterator[Item | None]:
    for line in lines:
        title, *fields = (part.strip() for part in line.split("|"))
        found = NUMBERED.match(title)
        if found is None or not any(part.lower().startswith("needs") for part in fields):
            if _says_something(line):
                yield None
            continue
        item = Item(int(found[1]), title[found.end() :])
        for part in fields:
            word, _, rest = part.partition(" ")
            if word.lower() == "needs":
                item = Item(item.id, item.title, _numbers(rest), item.level)
            elif word.lower() == "level":
                item = Item(item.id, item.title, item.needs, rest.strip() or None)
        yield item


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in NUMBER.findall(text))


def _json_lines(lines: list[str]) -> Iterator[Item | None]:
    for line in lines:
        if line.lstrip().startswith("{") and line.rstrip(" ,").endswith("}"):
            yield from _from_objects([_parse(line.strip().rstrip(","))])
        elif line.strip(" []") and _says_something(line):
            yield None


def _json_value(text: str) -> Iterator[Item | None]:
    body = FENCE.sub("", text)
    start = min((at for at in (body.find("["), body.find("{")) if at >= 0), default=-1)
    if start < 0:
        return
    after = max(body.rfind("]"), body.rfind("}")) + 1
    around = [*body[:start].splitlines(), *(body[after:].splitlines() if after > start else [])]
    yield from (None for line in around if _says_something(line))
    encoded = body[start:].encode("utf-8", "replace")
    value, cut = _parse(encoded), False
    if value is None:
        value, cut = _parse(encoded, partial=True), True
    objects = _list_of_objects(value)
    yield from _from_objects(objects[:-1] if cut and not _closed(encoded) else objects)


def _closed(encoded: bytes) -> bool:
    """Whether the last item of a list that does not parse as a whole was still finished: prose follows its bracket."""
    return encoded.rfind(b"]") > encoded.rfind(b"}") >= 0


def _parse(text: str | bytes, *, partial: bool = False) -> Any:  # noqa: ANN401
    try:
        encoded = text.encode("utf-8", "replace") if isinstance(text, str) else text
        return jiter.from_json(encoded, partial_mode=partial)
    except ValueError:
        return None


def _list_of_objects(value: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(value, dict):
        lists = (inner for inner in value.values() if isinstance(inner, list))
        return next((inner for inner in lists if any(isinstance(x, dict) for x in inner)), [value])
    return value if isinstance(value, list) else []


def _from_objects(values: list[Any]) -> Iterator[Item]:
    for value in values:
        if not isinstance(value, dict):
            continue
        title = _first(value, TITLE_KEYS)
        needs = _first(value, NEEDS_KEYS)
        if title is None and needs is None:
            continue
        given = needs if isinstance(needs, list) else [needs]
        wanted = [number for need in given for number in _as_numbers(need)]
        level = _first(value, LEVEL_KEYS)
        number = next(iter(_as_numbers(_first(value, ID_KEYS))), None)
        known = isinstance(level, str | int | float) and not isinstance(level, bool)
        yield Item(number, str(title or ""), tuple(wanted), level if known else None)


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> Any:  # noqa: ANN401
    return next((value[key] for key in keys if key in value), None)


def _as_numbers(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    if isinstance(value, bool):
        return ()
    if isinstance(value, int):
        return (value,) if abs(value) < 10**ID_DIGITS else ()
    return _numbers(value) if isinstance(value, str) else ()


def _numbered(lines: list[str]) -> Iterator[Item | None]:
    for line in lines:
        found = NUMBERED.match(line)
        if found is not None:
            yield _annotated(int(found[1]), line[found.end() :])
        elif _says_something(line):
            yield None


def _bulleted(lines: list[str]) -> Iterator[Item | None]:
    for line in lines:
        found = BULLET.match(line)
        if found is not None:
            yield _annotated(None, line[found.end() :])
        elif _says_something(line):
            yield None


def _annotated(number: int | None, text: str) -> Item:
    """A title with what stands behind it in brackets or after a dash: needs and level in words."""
    cut = ANNOTATION.search(text)
    title, notes = (text[: cut.start()], text[cut.start() :]) if cut is not None else (text, "")
    needs = NEEDS.search(notes)
    level = LEVEL.search(notes) or FRACTION.search(notes) or WORDS.search(notes)
    stated = next((group for group in level.groups() if group), None) if level is not None else None
    return Item(number, title, _numbers(needs[1]) if needs is not None else (), stated)
