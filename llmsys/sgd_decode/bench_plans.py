"""Recorded plans with known lengths, played in the step-time model: our schedule beside the optimum, the bound, AR,
Skeleton-of-Thought's and the first SGD's.

Everything is virtual time, so the figures are the same on every machine. Knows nothing of real models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import read_records
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.dependence import dependence
from llmsys.sgd_decode.driver import answer_all, writer_for
from llmsys.sgd_decode.optimum import MOST_NODES, optimum_s
from llmsys.sgd_decode.plan import Node, Plan, render
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.script_backend import Match, Rule, ScriptBackend
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.simulation import Workload, lower_bound_s, simulate
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["LINE_TOKENS", "PlanBench", "PlanRecord", "PlanRow", "bench_plans", "read_plans", "script_of"]

LINE_TOKENS = 14
WIDE = 4
LONG = 5


class _RecordNode(msgspec.Struct, frozen=True):
    id: int
    title: str
    needs: list[int]
    level: int
    tokens: int


class PlanRecord(msgspec.Struct, frozen=True):
    """A question, its plan, and how many tokens each part takes."""

    id: str
    question: str
    nodes: list[_RecordNode]

    @property
    def plan(self) -> Plan:
        """The plan as the decoder knows it."""
        return Plan(tuple(Node(node.id, node.title, tuple(node.needs), node.level) for node in self.nodes))

    @property
    def work(self) -> Workload:
        """Its lengths, LINE_TOKENS for every line."""
        return Workload({node.id: node.tokens for node in self.nodes}, [LINE_TOKENS] * len(self.nodes))


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One plan: makespans in the model without prefill, and whole answers with it; seconds.

    optimum_s: None beyond MOST_NODES parts. overhead: prompt words that parts compute, by layout.
    """

    plan: str
    parts: int
    width: int
    makespan_s: float
    optimum_s: float | None
    bound_s: float
    ar_s: float
    sot_s: float
    v1_s: float
    sgd_s: float
    auto_s: float
    overhead_forks: int
    overhead_prompts: int

    @property
    def of_optimum(self) -> float | None:
        """How many times the optimum the schedule takes."""
        return None if self.optimum_s is None else self.makespan_s / self.optimum_s


@dataclass(frozen=True, slots=True)
class PlanBench:
    """All plans, and what the targets of the specification are about. Speed-ups are ratios of seconds.

    dependence: share of parts with needs that see the facts they need, by mode.
    """

    rows: tuple[PlanRow, ...]
    worst_of_optimum: float
    mean_of_optimum: float
    wide_speed_up: float
    least_over_v1: float
    mean_over_v1: float
    least_auto: float
    prefill_below: float
    dependence: dict[str, float]


def read_plans(path: Path) -> list[PlanRecord]:
    """Plans of a JSON Lines file. Raises BadInput for a line that is none."""
    return list(read_records(path, PlanRecord))


def script_of(record: PlanRecord) -> list[Rule]:
    """Rules that make a backend write this plan, its parts in their lengths, and an answer as long as all of them."""
    outline = "\n".join(f"{node.id}. {node.title}" for node in record.nodes)
    rules = [Rule(Match("Write an outline"), render(record.plan)), Rule(Match("Give the skeleton"), outline)]
    for node in record.nodes:
        rules.append(Rule(Match(f"about part {node.id},"), tokens=node.tokens))
        rules.append(Rule(Match(f"point {node.id} of"), tokens=node.tokens))
    return [*rules, Rule(tokens=record.work.answer_tokens)]


def bench_plans(
    records: Sequence[PlanRecord], step_time: StepTime, *, prefill_s: float, slots: int = 8, node_tokens: int = 1000
) -> PlanBench:
    """Play every plan in every mode; `prefill_s` per word of a prompt that has to be computed."""
    rows = tuple(_row(record, step_time, prefill_s, slots, node_tokens) for record in records)
    ratios = [row.of_optimum for row in rows if row.of_optimum is not None]
    wide = [row.ar_s / row.sgd_s for row in rows if row.width >= WIDE]
    over_v1 = [row.v1_s / row.sgd_s for row in rows if row.parts >= LONG]
    forks, prompts = sum(row.overhead_forks for row in rows), sum(row.overhead_prompts for row in rows)
    return PlanBench(
        rows=rows,
        worst_of_optimum=max(ratios, default=1.0),
        mean_of_optimum=_mean(ratios),
        wide_speed_up=_mean(wide),
        least_over_v1=min(over_v1, default=1.0),
        mean_over_v1=_mean(over_v1),
        least_auto=min((row.ar_s / row.auto_s for row in rows), default=1.0),
        prefill_below=1 - forks / prompts if prompts else 0.0,
        dependence=dependence([record.plan for record in records], ("sgd", "sgd-v1", "sot")),
    )


def _row(record: PlanRecord, step_time: StepTime, prefill_s: float, slots: int, node_tokens: int) -> PlanRow:
    plan, work = record.plan, record.work
    found: dict[str, Answer] = {}
    asked = Question(0, record.id, [said("user", record.question)])
    for mode in ("ar", "sot", "sgd-v1", "sgd", "auto"):
        backend = ScriptBackend(script_of(record), step_time=step_time, slots=slots, prefill_s=prefill_s)
        settings = DecodeSettings(
            mode=mode,
            node_tokens=node_tokens,
            answer_tokens=work.answer_tokens,
            step_time=step_time,
            min_gain=1.10 if mode == "auto" else 0.0,
        )
        (found[mode],) = answer_all([asked], backend, writer_for(settings))
    short = len(plan.nodes) <= MOST_NODES
    return PlanRow(
        plan=record.id,
        parts=len(plan.nodes),
        width=plan.width,
        makespan_s=simulate(plan, work, step_time, slots=slots).makespan_s,
        optimum_s=optimum_s(plan, work, step_time, slots=slots) if short else None,
        bound_s=lower_bound_s(plan, work, step_time, slots=slots),
        ar_s=found["ar"].total_s,
        sot_s=found["sot"].total_s,
        v1_s=found["sgd-v1"].total_s,
        sgd_s=found["sgd"].total_s,
        auto_s=found["auto"].total_s,
        overhead_forks=_overhead(found["sgd"]),
        overhead_prompts=_overhead(found["sgd-v1"]),
    )


def _overhead(answer: Answer) -> int:
    """Words of prompts that were computed beyond the planner's own prompt, which every layout pays."""
    return answer.tokens.prefill - answer.tokens.planning


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0
