"""Mode `auto`: the answer in one piece and the plan are begun together; the plan decides which of them is finished.

An answer in one piece is then late only by what a wider step costs while the plan is written. The same for one question
whose form a router already knows: it starts the one or the other. Knows nothing of other questions.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol

from llmsys.sgd_decode.answers import Answer, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job
from llmsys.sgd_decode.glimpses import Glimpse
from llmsys.sgd_decode.graph_writer import GraphWriter
from llmsys.sgd_decode.plain_writer import PlainWriter

__all__ = ["AutoWriter", "Router", "Verdict"]

Verdict = Literal["graph", "plain", "both"]


class Router(Protocol):
    """Says how a question is answered, at once or after a job of its own."""

    def job(self, question: Question) -> Job | None:
        """What the model is asked first; None where it need not be."""
        ...

    def verdict(self, question: Question, said: str) -> Verdict:
        """The form, given what the model said ("" where it was not asked)."""
        ...


class AutoWriter:
    """One question: routed, then written as a graph, in one piece, or as both until the plan decides."""

    def __init__(self, question: Question, graph: GraphWriter, plain: PlainWriter, router: Router) -> None:
        self.question = question
        self.done = False
        self.cancelled: list[str] = []
        self._graph = graph
        self._plain = plain
        self._router = router
        self._asked = ""
        self._ask = router.job(question)
        self._verdict: Verdict | None = None if self._ask is not None else router.verdict(question, "")
        self._first_s: float | None = None

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """The router's question, then the plan and the answer in one piece, then parts."""
        if free < 1:
            return []
        if self._first_s is None:
            self._first_s = now_s
        if self._verdict is None:
            ask, self._ask = self._ask, None
            return [] if ask is None else [ask]
        started: list[Job] = []
        if self._verdict != "plain":
            started += self._graph.jobs(free, now_s)
        if self._verdict != "graph":
            started += self._plain.jobs(free - len(started), now_s)
        return started

    def take(self, delta: Delta) -> None:
        """What one of the jobs wrote."""
        if delta.job.endswith("/route"):
            self._asked += delta.text
            if delta.end is not None:
                self._verdict = self._router.verdict(self.question, self._asked)
        elif delta.job.endswith("/answer"):
            self._plain.take(delta)
            self._pass_on(self._plain.cancelled)
        else:
            self._graph.take(delta)
            self._pass_on(self._graph.cancelled)
        self._decide()

    def answer(self) -> Answer:
        """The answer of the form that was finished; its times start when the question did."""
        graph = self._verdict == "graph"
        found = self._graph.answer() if graph else self._plain.answer()
        found.tokens.add(self._waste(graph=graph))
        waited_s = found.start_s - (self._first_s or 0.0)
        for part in found.parts:
            part.start_s, part.end_s = part.start_s + waited_s, part.end_s + waited_s
        plan_s = found.plan_s + waited_s if found.parts else 0.0
        start_s, total_s = self._first_s or 0.0, found.total_s + waited_s
        return replace(found, plan_s=plan_s, total_s=total_s, start_s=start_s)

    def glimpses(self) -> Iterator[Glimpse]:
        """What is certain of the answer; nothing before its form is decided."""
        if self._verdict == "graph":
            yield from self._graph.glimpses()
        elif self._verdict == "plain":
            yield from self._plain.glimpses()

    def _decide(self) -> None:
        """Give up the form that the other one has beaten."""
        if self._verdict == "both" and self._graph.accepted:
            self._verdict = "graph"
            self.cancelled.append(f"{self.question.number}/answer")
        elif self._verdict is not None and self._graph.flat:
            self._verdict = "plain"
        elif self._verdict == "both" and self._plain.done:
            self._verdict = "plain"
            self.cancelled.append(f"{self.question.number}/plan")
            self.cancelled += self._graph.give_up()
        self.done = self._verdict is not None and ((self._graph.accepted and self._graph.done) or self._plain.done)

    def _pass_on(self, names: list[str]) -> None:
        self.cancelled += names
        names.clear()

    def _waste(self, *, graph: bool) -> TokenCount:
        """What the other form wrote before it was given up."""
        other = self._plain.tokens if graph else self._graph.tokens
        return TokenCount(0, 0, other.prefill, other.prefill_saved, other.plan + other.answer + other.dropped)
