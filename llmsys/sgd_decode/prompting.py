"""The words that planner and writers are told, and the conversations that they are told them in.

Every job's conversation starts like the one before it, so that a prefix cache finds it. Forwarded text is delimited,
and stripped of tokens that steer a chat. Knows nothing of scheduling.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from llmsys.errors import BadInput
from llmsys.sgd_decode.backends import Message
from llmsys.sgd_decode.plan import Node

__all__ = ["Prompts", "said", "strip_control"]

CONTROL = re.compile(r"<\|[^|>\n]{0,40}\|>|</?s>|\[/?INST\]")
LANGUAGE = "en"
QUESTION_CHARS = 600


@dataclass(frozen=True, slots=True)
class Prompts:
    """Wording with places to fill in: {max_nodes}, {question}; {id}, {title}; {parents}; {text};
    {first}, {second}."""

    plan: str
    reminder: str
    part: str
    forwarded: str
    parent: str
    skeleton: str
    point: str
    unavailable: str
    whole: str
    router: str
    judge: str

    @classmethod
    def load(cls, path: Path | None = None) -> "Prompts":
        """The wording of a TOML file, or the package's own. Raises BadInput for a file that lacks an entry."""
        where = str(path) if path is not None else f"{LANGUAGE}.toml"
        try:
            text = (
                path.read_text(encoding="utf-8")
                if path is not None
                else (files("llmsys.sgd_decode") / "prompts" / f"{LANGUAGE}.toml").read_text(encoding="utf-8")
            )
            given = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadInput(where, str(error), "a TOML file of wordings") from error
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if not isinstance(given.get(name), str)]
        if missing:
            raise BadInput(where, f"no text {missing[0]!r}", f"the texts {', '.join(names)}")
        return cls(**{name: given[name] for name in names})

    def planning(self, conversation: Sequence[Message], *, max_nodes: int) -> list[Message]:
        """Ask for a plan of the answer, with the beginning of the question once more: small models forget it."""
        filled = _filled(self.plan, max_nodes=max_nodes, question=conversation[-1]["content"][:QUESTION_CHARS])
        return [*conversation, said("user", filled.strip())]

    def routing(self, conversation: Sequence[Message]) -> list[Message]:
        """Ask for the form of the answer: A, B or C."""
        return [*conversation, said("user", self.router)]

    def in_one_piece(self, planning: Sequence[Message], plan: str) -> list[Message]:
        """Ask for the whole answer after a plan that is not worth splitting."""
        return [*planning, said("assistant", plan), said("user", self.whole)]

    def writing(
        self, before: Sequence[Message], question: str, node: Node, parents: Sequence[tuple[Node, str]]
    ) -> list[Message]:
        """Ask for a part, after `before` (which ends with an assistant's turn), with the parents' texts it must see.

        question: said once more, as far as QUESTION_CHARS; "" where the turn before has just said it.
        """
        reminder = _filled(self.reminder, question=question[:QUESTION_CHARS]) if question else ""
        request = reminder + _filled(self.part, id=node.id, title=node.title)
        if parents:
            texts = "".join(
                _filled(self.parent, id=parent.id, title=parent.title, text=strip_control(text))
                for parent, text in parents
            )
            request += _filled(self.forwarded, parents=texts).rstrip()
        return [*before, said("user", request)]

    def outlining(self, conversation: Sequence[Message]) -> list[Message]:
        """Ask for a skeleton of points."""
        return [*conversation, said("user", self.skeleton)]

    def expanding(self, before: Sequence[Message], node: Node) -> list[Message]:
        """Ask for one point of a skeleton, blind to the others' texts."""
        return [*before, said("user", _filled(self.point, id=node.id, title=node.title))]

    def judging(self, question: str, first: str, second: str) -> list[Message]:
        """Ask which of two answers is better."""
        shown = {"first": strip_control(first), "second": strip_control(second)}
        return [said("user", _filled(self.judge, question=question, **shown))]

    def missing(self, node: Node) -> str:
        """What stands in the place of a part that could not be written."""
        return _filled(self.unavailable, id=node.id)


def said(role: str, content: str) -> Message:
    """One turn of a conversation."""
    return {"role": role, "content": content}


def strip_control(text: str) -> str:
    """Text without the tokens that chat templates end or open turns with.

    A space takes the place of each, so that what stood around it does not become another.
    """
    return CONTROL.sub(" ", text)


def _filled(wording: str, /, **values: object) -> str:
    filling: Mapping[str, str] = {name: str(value) for name, value in values.items()}
    return re.sub(r"\{(\w+)\}", lambda found: filling.get(found[1], found[0]), wording)
