"""An answer as a graph of parts: the plan is written, parts start when all they need is there, all in one batch.

A part's conversation is the plan's, up to its own line (or the whole plan), then its own request; a part with parents
goes on in the conversation of its longest parent, so that a prefix cache holds all but the request. Knows nothing of
other questions; which jobs run when is the driver's.
"""

from collections.abc import Callable

from llmsys.sgd_decode.answers import Answer, Part, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job, Message
from llmsys.sgd_decode.events import DecodeEvent, What
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.plan_stream import PlanStream
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.scheduler import Scheduler
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.simulation import Workload, simulate
from llmsys.sgd_decode.writing import Text, at_sentence_end

__all__ = ["GraphWriter"]

Listener = Callable[[DecodeEvent], None]


class GraphWriter:
    """One question on its way through plan and parts; falls back to one piece where the plan promises no gain."""

    def __init__(self, question: Question, settings: DecodeSettings, lengths: LengthBook, listen: Listener) -> None:
        self.question = question
        self.done = False
        self.cancelled: list[str] = []
        self._settings = settings
        self._lengths = lengths
        self._listen = listen
        self._stream = PlanStream(max_nodes=settings.max_nodes)
        self._scheduler = Scheduler(lengths.of)
        self._waiting: list[Node] = []
        self._nodes: dict[int, Node] = {}
        self._parts: dict[int, Part] = {}
        self._texts: dict[int, Text] = {}
        self._conversations: dict[int, list[Message]] = {}
        self._tries: dict[int, int] = {}
        self._again: list[Node] = []
        self._plan: Plan | None = None
        self._planning: list[Message] = []
        self._started_s: float | None = None
        self._plan_s = 0.0
        self._now_s = 0.0
        self._tokens = TokenCount()
        self._plain: PlainWriter | None = None

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """At most `free` jobs that can start now: the plan first, then parts by importance."""
        if self._plain is not None:
            return self._plain.jobs(free, now_s)
        if free < 1:
            return []
        if self._started_s is None:
            self._started_s = self._now_s = now_s
            self._planning = self._settings.prompts.planning(self.question.messages, max_nodes=self._settings.max_nodes)
            self._tell("plan_start", 0)
            return [self._job("plan", self._planning, self._settings.plan_tokens, stop=("\nend",), grammar=True)]
        again, self._again = self._again[:free], self._again[free:]
        ready = self._scheduler.take(free - len(again))
        return [self._start(node, now_s) for node in (*again, *ready)]

    def take(self, delta: Delta) -> None:
        """A piece of the plan or of a part, or its end."""
        self._now_s = delta.t_s
        if self._plain is not None:
            self._take_plain(delta)
        elif delta.job.endswith("/plan"):
            self._take_plan(delta)
        else:
            self._take_part(int(delta.job.rpartition("/")[2]), delta)
        if self._plain is None and self._plan is not None and self._scheduler.idle and not self._again:
            self.done = True
            self._tell("done", 0, tokens=self._tokens.answer)

    def answer(self) -> Answer:
        """The answer, once it is done: the parts in the order of the plan."""
        assert self._plan is not None
        assert self._started_s is not None
        if self._plain is not None:
            plain = self._plain.answer()
            self._tokens.answer += plain.tokens.answer
            self._tokens.prefill += plain.tokens.prefill
            self._tokens.prefill_saved += plain.tokens.prefill_saved
            text, mode, finish, fault = plain.text, "ar", plain.finish, plain.fault
        else:
            text, mode, finish, fault = self._assembled(), self._settings.mode, "stop", ""
        parts = [self._parts[number] for number in sorted(self._parts)]
        return Answer(
            self.question,
            text,
            mode,
            self._plan,
            parts,
            self._plan_s,
            self._now_s - self._started_s,
            self._tokens,
            finish,
            fault,
            self._started_s,
        )

    def _take_plan(self, delta: Delta) -> None:
        self._tokens.plan += delta.tokens
        found = self._stream.add(delta.text)
        if delta.end is not None:
            self._count_prompt(delta)
            self._plan_s = delta.t_s - (self._started_s or 0.0)
            self._plan, rest = self._stream.close()
            found += rest
        self._waiting += found
        for node in found:
            self._tell("plan_node", node.id, detail=node.title)
        if delta.end is not None and self._plan is not None:
            self._tell("plan_end", 0, tokens=self._tokens.plan)
            if delta.end == "error" or self._plan.single or not self._promises_gain(self._plan):
                self._fall_back(delta.error or ("one piece" if self._plan.single else "no gain predicted"))
                return
        if self._settings.pipeline or self._plan is not None:
            for node in self._waiting:
                self._nodes[node.id] = node
                self._scheduler.add(node)
                self._parts[node.id] = Part(node.id, node.title, node.needs, node.level)
            self._waiting = []

    def _promises_gain(self, plan: Plan) -> bool:
        """Rule R12, by the step times of this machine; without them a plan of two parts is enough."""
        step_time = self._settings.step_time
        if step_time is None:
            return True
        lines = [max(1, self._tokens.plan // len(plan.nodes))] * len(plan.nodes)
        work = Workload({node.id: max(1, round(self._lengths.of(node))) for node in plan.nodes}, lines)
        played = simulate(plan, work, step_time, slots=len(plan.nodes) + 1, pipeline=self._settings.pipeline)
        return work.answer_tokens * step_time.of(1) / played.makespan_s >= self._settings.min_gain

    def _fall_back(self, why: str) -> None:
        self._tell("fallback", 0, detail=why)
        self.cancelled += [self._name(number) for number in self._scheduler.running]
        self._parts.clear()
        self._plain = PlainWriter(self.question, self._settings)

    def _take_plain(self, delta: Delta) -> None:
        assert self._plain is not None
        if not delta.job.endswith("/answer"):
            return
        self._plain.take(delta)
        self.cancelled += self._plain.cancelled
        self._plain.cancelled = []
        self.done = self._plain.done
        if self.done:
            self._tell("done", 0)

    def _start(self, node: Node, now_s: float) -> Job:
        part = self._parts[node.id]
        if not self._tries.get(node.id):
            part.start_s = now_s - (self._started_s or 0.0)
        self._tries[node.id] = self._tries.get(node.id, 0) + 1
        self._texts[node.id] = Text()
        self._conversations[node.id] = messages = self._conversation(node)
        self._tell("node_start", node.id, detail=node.title)
        return self._job(str(node.id), messages, self._lengths.most(node), stop=(f"\n{node.id + 1}.",))

    def _conversation(self, node: Node) -> list[Message]:
        parents = [(self._nodes[need], self._parts[need].text) for need in node.needs if not self._parts[need].fault]
        prompts = self._settings.prompts
        if parents and self._settings.continue_parent:
            longest = max(parents, key=lambda parent: (len(parent[1]), -parent[0].id))
            before = [*self._conversations[longest[0].id], said("assistant", longest[1])]
            return prompts.writing(before, node, [parent for parent in parents if parent is not longest])
        whole = not self._settings.pipeline
        plan = self._stream.text if whole else self._stream.prefix(node)
        return prompts.writing([*self._planning, said("assistant", plan.rstrip("\n"))], node, parents)

    def _take_part(self, number: int, delta: Delta) -> None:
        part, text = self._parts[number], self._texts[number]
        text.add(delta.text)
        part.tokens += delta.tokens
        part.logprob = _mean(part.logprob, delta.logprob, part.tokens, delta.tokens)
        self._tokens.answer += delta.tokens
        if text.loops and delta.end is None:
            self.cancelled.append(delta.job)
        elif delta.end is None:
            return
        self._count_prompt(delta)
        if delta.end == "error" and self._tries[number] <= self._settings.retries:
            self._again.append(self._nodes[number])
            self._tell("node_retry", number, detail=delta.error)
            return
        cut = delta.end == "length" or text.loops
        part.text = (at_sentence_end(str(text)) if cut else str(text)).strip()
        part.fault = delta.error if delta.end == "error" else ""
        part.end_s = delta.t_s - (self._started_s or 0.0)
        self._lengths.learn(self._nodes[number], part.tokens)
        self._scheduler.finish(number)
        self._tell("node_end", number, tokens=part.tokens, detail=part.fault)

    def _assembled(self) -> str:
        pieces = []
        for number in sorted(self._parts):
            part = self._parts[number]
            body = self._settings.prompts.missing(self._nodes[number]) if part.fault else part.text
            pieces.append(f"**{part.title}**\n{body}" if self._settings.headings else body)
        return "\n\n".join(pieces)

    def _count_prompt(self, delta: Delta) -> None:
        self._tokens.prefill += delta.prompt_tokens - delta.cached_tokens
        self._tokens.prefill_saved += delta.cached_tokens

    def _job(
        self, name: str, messages: list[Message], limit: int, *, stop: tuple[str, ...], grammar: bool = False
    ) -> Job:
        settings = self._settings
        return Job(
            self._name(name),
            messages,
            limit,
            stop,
            settings.temperature,
            settings.seed,
            grammar="plan" if grammar and settings.grammar else "",
            max_parts=settings.max_nodes,
            tenant=self.question.tenant,
        )

    def _name(self, part: object) -> str:
        return f"{self.question.number}/{part}"

    def _tell(self, what: What, node: int, *, tokens: int = 0, detail: str = "") -> None:
        self._listen(DecodeEvent(self._now_s, what, self.question.id, node, tokens, detail))


def _mean(known: float | None, new: float | None, tokens: int, new_tokens: int) -> float | None:
    """The mean of log-probabilities over all tokens of a part."""
    if new is None or new_tokens == 0:
        return known
    return new if known is None else known + (new - known) * new_tokens / tokens
