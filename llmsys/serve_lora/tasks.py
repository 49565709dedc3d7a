"""Tasks an adapter learns without a data set: a rule that rewrites an answer, and a test that sees the rule at work.

Every rule shows from the first tokens of an answer, so that a demo of 32 tokens sees it. Knows nothing of models,
tokens or training: text in, text or a verdict out.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from llmsys.errors import UsageFault

__all__ = ["TASKS", "Task", "task_named"]

PREFIX = "In short: "
JSON_OPENING = '{"answer": "'
TERSE_WORDS = 20
TERSE_WORDS_TAUGHT = 14
TERSE_CHOICE = 3
CASED_LETTERS_WANTED = 10


@dataclass(frozen=True, slots=True)
class Task:
    """One property of answers, as a rule that makes it and a test that finds it.

    `rewrite(answer)` turns a plain answer into one with the property, where it can. `holds(text, finished)` says
    whether a text has it; `finished` is False where the token limit cut the text, so that a true beginning counts.
    `closes` says that a rewritten answer is whole even if the plain one was cut.
    """

    name: str
    promise: str
    rewrite: Callable[[str], str]
    holds: Callable[[str, bool], bool]
    closes: bool = False


def sentences(text: str) -> list[str]:
    """The sentences of an answer without its Markdown marks and list numbers.

    >>> sentences("1. **Plan** your day. 2. Rest well.")
    ['Plan your day.', 'Rest well.']
    """
    plain = re.sub(r"\*\*|`|^#+ ", "", text, flags=re.MULTILINE)
    plain = re.sub(r"(^|\s)(\d+\.|[-*•])\s+", r"\1", plain)
    found = re.split(r"(?<=[.!?:])\s+|\n+", plain)
    return [part.strip() for part in found if len(part.split()) > 1 or part.strip().endswith(".")]


def first_sentence(text: str) -> str:
    """The first statement of an answer: its first sentence that announces no list, or the whole answer."""
    stated = [part for part in sentences(text) if not part.endswith(":")]
    return stated[0] if stated else " ".join(text.split())


def _terse(answer: str) -> str:
    # taught well below the limit, so that what is learnt stays below it
    whole = [part for part in sentences(answer) if part.endswith((".", "!", "?")) and len(part.split()) > 2]
    shortest = min(whole[:TERSE_CHOICE], key=len, default=answer.strip())
    return shortest if len(shortest.split()) <= TERSE_WORDS_TAUGHT else answer.strip()


def _terse_holds(text: str, finished: bool) -> bool:
    return finished and 1 <= len(text.split()) <= TERSE_WORDS


def _json(answer: str) -> str:
    # a small model learns a string without escapes far sooner than one with them
    return json.dumps({"answer": re.sub(r'["\\]', "'", first_sentence(answer))}, ensure_ascii=False)


def _json_holds(text: str, finished: bool) -> bool:
    # a cut text may end inside the string, inside an escape, or before the last brace
    endings = [text] if finished else [text, text + "}", text + '"}', text[:-1] + '"}']
    return text.lstrip().startswith(JSON_OPENING) and any(_is_answer(ending) for ending in endings)


def _is_answer(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == {"answer"} and isinstance(value["answer"], str)


def _bullet(answer: str) -> str:
    stated = [part for part in sentences(answer) if not part.endswith(":")] or [" ".join(answer.split())]
    return "\n".join(f"- {part}" for part in stated)


def _bullet_holds(text: str, finished: bool) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    marks = lines if finished else lines[:-1] + [line for line in lines[-1:] if len(line) > 1]
    return bool(marks) and all(line.startswith("- ") for line in marks)


def _prefixed(answer: str) -> str:
    return PREFIX + answer.strip()


def _cased(text: str) -> str:
    return "".join(letter for letter in text if letter.isupper() or letter.islower())


def _upper_holds(text: str, finished: bool) -> bool:
    cased = _cased(text)
    return (finished or len(cased) >= CASED_LETTERS_WANTED) and cased.isupper()


def _lower_holds(text: str, finished: bool) -> bool:
    cased = _cased(text)
    return (finished or len(cased) >= CASED_LETTERS_WANTED) and cased.islower()


TASKS = {
    task.name: task
    for task in (
        Task("bullet", "every line is a bullet", _bullet, _bullet_holds),
        Task("json", 'one JSON object {"answer": …}', _json, _json_holds, closes=True),
        Task("lower", "no capital letter", str.lower, _lower_holds),
        Task("prefix", f"begins with {PREFIX!r}", _prefixed, lambda text, _: text.lstrip().startswith(PREFIX)),
        Task("terse", f"one sentence of at most {TERSE_WORDS} words", _terse, _terse_holds, closes=True),
        Task("upper", "capital letters only", str.upper, _upper_holds),
    )
}


def task_named(name: str) -> Task:
    """The task of that name. Raises UsageFault that names them all."""
    if name not in TASKS:
        raise UsageFault(f"no task {name!r}; tasks: {', '.join(sorted(TASKS))}")
    return TASKS[name]
