"""An answer as a graph of parts: the plan is written, parts start when all they need is there, all in one batch.

Falls back to an answer in one piece where the plan has no two parts or promises no gain. Knows nothing of other
questions; which jobs run when is the driver's, what a part is told the desk's.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from llmsys.sgd_decode.answers import Answer, Forecast, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job, Message
from llmsys.sgd_decode.confidence import ConfidenceBook
from llmsys.sgd_decode.events import DecodeEvent, What
from llmsys.sgd_decode.glimpses import Glimpse
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.part_desk import PartDesk
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.plan_stream import PlanStream
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.simulation import Workload, critical_path_tokens, lower_bound_s, simulate

__all__ = ["GraphWriter", "Listener"]

Listener = Callable[[DecodeEvent], None]
USUAL_PARTS = 5
"""Parts that a plan is expected to have while it is written."""
SHORT_WAIT = 0.10
"""A part waits for the plan's end if the rest of the plan is shorter than this share of it."""


class GraphWriter:
    """One question on its way through plan and parts.

    cautious: no part starts before the lines so far promise a gain, and a plan without one ends with `flat`, the
    reason, and no answer; else such a plan is followed by an answer in one piece.
    """

    def __init__(
        self,
        question: Question,
        settings: DecodeSettings,
        lengths: LengthBook,
        confidence: ConfidenceBook,
        listen: Listener,
        *,
        cautious: bool = False,
    ) -> None:
        self.question = question
        self.done = False
        self.flat = ""
        self.cancelled: list[str] = []
        self.tokens = TokenCount()
        self._settings = settings
        self._lengths = lengths
        self._listen = listen
        self._cautious = cautious
        self._stream = PlanStream(max_nodes=settings.max_nodes)
        self._desk = PartDesk(question, settings, lengths, confidence, self._tell)
        self._lines: list[Node] = []
        self._pending: list[tuple[Node, bool]] = []
        self._plan: Plan | None = None
        self._planning: list[Message] = []
        self._started_s: float | None = None
        self._plan_s = 0.0
        self._now_s = 0.0
        self._plain: PlainWriter | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan, once it is written."""
        return self._plan

    @property
    def accepted(self) -> bool:
        """Whether the plan is written and its parts are the answer."""
        return self._plan is not None and not self.flat

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """At most `free` jobs that can start now: the plan first, then parts by importance."""
        if self._plain is not None:
            return self._plain.jobs(free, now_s)
        if free < 1 or self.done:
            return []
        if self._started_s is None:
            return [self._start_plan(now_s)]
        return self._desk.jobs(free, now_s - self._started_s)

    def take(self, delta: Delta) -> None:
        """A piece of the plan or of a part, or its end."""
        self._now_s = delta.t_s
        since_s = delta.t_s - (self._started_s or 0.0)
        if self._plain is not None:
            self._take_plain(delta)
            return
        if delta.job.endswith("/plan"):
            self._take_plan(delta, since_s)
        elif not self.flat:
            self._desk.take(int(delta.job.rpartition("/")[2]), delta, since_s)
            self.cancelled += self._desk.cancelled
            self._desk.cancelled.clear()
        if self.accepted and self._desk.idle:
            self.done = True
            self._tell("done", 0, tokens=self._desk.tokens.answer)

    def answer(self) -> Answer:
        """The answer, once it is done: the parts in the order of the plan."""
        assert self._plan is not None
        assert self._started_s is not None
        tokens = replace(self.tokens)
        tokens.add(self._desk.tokens)
        repaired = replace(self._plan, repairs=(*self._plan.repairs, *self._desk.notes))
        if self._plain is not None:
            plain = self._plain.answer()
            tokens.add(plain.tokens)
            text, mode, finish, fault = plain.text, "ar", plain.finish, plain.fault
        else:
            written = "sgd" if self._settings.mode == "auto" else self._settings.mode
            text, mode, finish, fault = self._desk.assembled(), written, "stop", ""
        parts = [self._desk.parts[number] for number in sorted(self._desk.parts)]
        total_s = self._now_s - self._started_s
        return Answer(
            self.question, text, mode, repaired, parts, self._plan_s, total_s, tokens, finish, fault, self._started_s,
            self._forecast(),
        )  # fmt: skip

    def give_up(self) -> list[str]:
        """Forget all parts; return the names of the jobs that run."""
        return self._desk.give_up()

    def glimpses(self) -> Iterator[Glimpse]:
        """What is certain of the answer; nothing while the plan may still be given up."""
        if self._plain is not None:
            yield from self._plain.glimpses()
        elif self.accepted:
            yield from self._desk.glimpses()

    def _start_plan(self, now_s: float) -> Job:
        settings = self._settings
        self._started_s = self._now_s = now_s
        self._planning = settings.prompts.planning(self.question.messages, max_nodes=settings.max_nodes)
        self._tell("plan_start", 0)
        return Job(
            self._name("plan"),
            self._planning,
            settings.plan_tokens,
            ("\nend",),
            settings.temperature,
            settings.seed,
            grammar="plan" if settings.grammar else "",
            max_parts=settings.max_nodes,
            tenant=self.question.tenant,
            model=settings.routing.planner if settings.routing.pair else "large",
            share_prefix=settings.share_prefix,
        )

    def _take_plan(self, delta: Delta, since_s: float) -> None:
        self.tokens.plan += delta.tokens
        found = self._stream.add(delta.text)
        if delta.end is not None:
            self.tokens.add_prompt(delta)
            self.tokens.planning = self.tokens.prefill
            self._plan_s = since_s
            self._plan, rest = self._stream.close()
            found += rest
        self._lines += found
        for node in found:
            self._tell("plan_node", node.id, detail=node.title)
        if self._plan is not None and self._ends_flat(self._plan, delta):
            return
        self._pending += [(node, self._waits(node)) for node in found]
        if self._plan is not None or not self._cautious or self._promises_gain(self._lines):
            for node, whole in self._pending:
                self._desk.add(node, partial(self._beginning, node, whole=whole), held=whole)
            self._pending.clear()
        if self._plan is not None:
            self._desk.release()

    def _ends_flat(self, plan: Plan, delta: Delta) -> bool:
        """Whether the finished plan is not worth splitting; if so, what comes instead is begun."""
        self._tell("plan_end", 0, tokens=self.tokens.plan)
        if delta.end != "error" and not plan.single and self._promises_gain(plan.nodes):
            return False
        self.flat = delta.error or ("one piece" if plan.single else "no gain predicted")
        self._tell("fallback", 0, detail=self.flat)
        self.cancelled += self._desk.give_up()
        if self._cautious:
            self.done = True
            return True
        hinted = self._settings.on_flat == "hint" and not plan.single and delta.end != "error"
        messages = self._settings.prompts.in_one_piece(self._planning, self._stream.text.rstrip("\n"))
        self._plain = PlainWriter(self.question, self._settings, messages if hinted else None, self._listen)
        return True

    def _waits(self, node: Node) -> bool:
        """Whether a part waits for the plan's end, to see all of it: decided by the plan alone, not by the clock."""
        settings = self._settings
        if not settings.pipeline or settings.full_plan == "always":
            return True
        if settings.full_plan == "never":
            return False
        line_tokens = self.tokens.plan / len(self._lines)
        rest = line_tokens * max(1, USUAL_PARTS - len(self._lines))
        return rest < SHORT_WAIT * self._lengths.first_guess(node)

    def _promises_gain(self, nodes: list[Node] | tuple[Node, ...]) -> bool:
        """Rule R12, by the step times of this machine; without them a plan of two parts is enough."""
        step_time = self._settings.step_time
        if step_time is None or not nodes:
            return step_time is None
        work = self._workload({node.id: self._lengths.first_guess(node) for node in nodes})
        slots = len(nodes) + 1
        played = simulate(Plan(tuple(nodes)), work, step_time, slots=slots, pipeline=self._settings.pipeline)
        return work.answer_tokens * step_time.of(1) / played.makespan_s >= self._settings.min_gain

    def _workload(self, parts: dict[int, int]) -> Workload:
        return Workload(parts, [max(1, self.tokens.plan // len(parts))] * len(parts))

    def _forecast(self) -> Forecast | None:
        step_time, parts = self._settings.step_time, self._desk.parts
        if step_time is None or self._plan is None or not parts:
            return None
        work = self._workload({number: max(1, part.tokens) for number, part in parts.items()})
        bound = lower_bound_s(self._plan, work, step_time, slots=len(parts) + 1)
        return Forecast(work.answer_tokens * step_time.of(1), bound, critical_path_tokens(self._plan, work))

    def _beginning(self, node: Node, *, whole: bool) -> list[Message]:
        """The conversation up to the plan: as far as the part's own line, or all of it."""
        text = self._stream.text if whole else self._stream.prefix(node)
        return [*self._planning, said("assistant", text.rstrip("\n"))]

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

    def _name(self, part: object) -> str:
        return f"{self.question.number}/{part}"

    def _tell(self, what: What, node: int, *, tokens: int = 0, detail: str = "") -> None:
        self._listen(DecodeEvent(self._now_s, what, self.question.id, node, tokens, detail))
