"""Skeleton-of-Thought (arXiv 2307.15337): a list of points, then every point at once, blind to the others.

The baseline that graphs are compared with; our wording of its structure. Knows nothing of needs or levels.
"""

from collections.abc import Callable, Iterator

from llmsys.sgd_decode.answers import Answer, Part, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job, Message
from llmsys.sgd_decode.events import DecodeEvent, What
from llmsys.sgd_decode.glimpses import Glimpse, whole_sentences
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.repair import parse_plan
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.writing import Text, at_sentence_end

__all__ = ["SkeletonWriter"]


class SkeletonWriter:
    """One question through skeleton and points; a skeleton without two points becomes an answer in one piece."""

    def __init__(
        self, question: Question, settings: DecodeSettings, lengths: LengthBook, listen: Callable[[DecodeEvent], None]
    ) -> None:
        self.question = question
        self.done = False
        self.cancelled: list[str] = []
        self._settings = settings
        self._lengths = lengths
        self._listen = listen
        self._skeleton = ""
        self._plan: Plan | None = None
        self._outline: list[Message] = []
        self._to_start: list[Node] = []
        self._parts: dict[int, Part] = {}
        self._texts: dict[int, Text] = {}
        self._open: set[int] = set()
        self._tokens = TokenCount()
        self._started_s: float | None = None
        self._plan_s = 0.0
        self._now_s = 0.0
        self._plain: PlainWriter | None = None

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """The skeleton, then its points in order."""
        if self._plain is not None:
            return self._plain.jobs(free, now_s)
        if free < 1:
            return []
        if self._started_s is None:
            self._started_s = self._now_s = now_s
            self._outline = self._settings.prompts.outlining(self.question.messages)
            return [self._job("plan", self._outline, self._settings.plan_tokens)]
        starting, self._to_start = self._to_start[:free], self._to_start[free:]
        return [self._start(node, now_s) for node in starting]

    def take(self, delta: Delta) -> None:
        """A piece of the skeleton or of a point, or its end."""
        self._now_s = delta.t_s
        if self._plain is not None:
            self._plain.take(delta)
            self.done = self._plain.done
            return
        if delta.end is not None:
            self._tokens.add_prompt(delta)
        if delta.job.endswith("/plan"):
            self._take_skeleton(delta)
        else:
            self._take_point(int(delta.job.rpartition("/")[2]), delta)

    def answer(self) -> Answer:
        """The answer, once it is done: the points in order."""
        assert self._plan is not None
        assert self._started_s is not None
        if self._plain is not None:
            plain = self._plain.answer()
            self._tokens.add(plain.tokens)
            text, mode, finish, fault = plain.text, "ar", plain.finish, plain.fault
        else:
            text = "\n\n".join(self._body(node.id) for node in self._plan.nodes)
            mode, finish, fault = "sot", "stop", ""
        total_s = self._now_s - self._started_s
        parts = list(self._parts.values())
        return Answer(
            self.question,
            text,
            mode,
            self._plan,
            parts,
            self._plan_s,
            total_s,
            self._tokens,
            finish,
            fault,
            self._started_s,
        )

    def _take_skeleton(self, delta: Delta) -> None:
        self._skeleton += delta.text
        self._tokens.plan += delta.tokens
        if delta.end is None:
            return
        self._plan = parse_plan(self._skeleton, max_nodes=self._settings.max_nodes)
        self._plan_s = delta.t_s - (self._started_s or 0.0)
        if self._plan.single or delta.end == "error":
            self._plain = PlainWriter(self.question, self._settings, listen=self._listen)
            return
        self._to_start = list(self._plan.nodes)
        self._open = {node.id for node in self._plan.nodes}
        for node in self._plan.nodes:
            self._tell("plan_node", node.id, detail=node.title)
        self._tell("plan_end", 0, tokens=self._tokens.plan)

    def _start(self, node: Node, now_s: float) -> Job:
        start_s = now_s - (self._started_s or 0.0)
        self._parts[node.id] = Part(node.id, node.title, (), node.level, start_s=start_s)
        self._texts[node.id] = Text()
        before = [*self._outline, said("assistant", self._skeleton.rstrip("\n"))]
        return self._job(str(node.id), self._settings.prompts.expanding(before, node), self._lengths.most(node))

    def _take_point(self, number: int, delta: Delta) -> None:
        part, text = self._parts[number], self._texts[number]
        text.add(delta.text)
        part.tokens += delta.tokens
        self._tokens.answer += delta.tokens
        self._tell("node_token", number, tokens=delta.tokens, detail=delta.text)
        if text.loops and delta.end is None:
            self.cancelled.append(delta.job)
        elif delta.end is None:
            return
        cut = delta.end == "length" or text.loops
        part.text = (at_sentence_end(str(text)) if cut else str(text)).strip()
        part.fault = delta.error
        part.end_s = delta.t_s - (self._started_s or 0.0)
        self._tell("node_end", number, tokens=part.tokens, detail=part.fault)
        self._open.discard(number)
        self.done = not self._open

    def _job(self, name: str, messages: list[Message], limit: int) -> Job:
        settings = self._settings
        return Job(
            f"{self.question.number}/{name}",
            messages,
            limit,
            temperature=settings.temperature,
            seed=settings.seed,
            tenant=self.question.tenant,
        )

    def glimpses(self) -> Iterator[Glimpse]:
        """What is certain of the answer."""
        if self._plain is not None:
            yield from self._plain.glimpses()
            return
        for number, part in sorted(self._parts.items()):
            ended = number not in self._open
            text = self._body(number) if ended else whole_sentences(str(self._texts[number]))
            yield Glimpse(number, part.title, text, ended)

    def _body(self, number: int) -> str:
        """A written point as it stands in the answer."""
        part = self._parts[number]
        node = Node(part.id, part.title)
        return self._settings.prompts.missing(node) if part.fault else part.text

    def _tell(self, what: What, node: int, *, tokens: int = 0, detail: str = "") -> None:
        self._listen(DecodeEvent(self._now_s, what, self.question.id, node, tokens, detail))
