"""A backend of recorded texts under a batch law t(b): deterministic, in virtual time, for tests and for scheduling.

A rule answers a job whose last message contains its `match`; the first that fits counts. Knows nothing of plans.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import read_records
from llmsys.errors import BadInput
from llmsys.sgd_decode.backends import Delta, End, Job
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["Rule", "ScriptBackend", "read_script"]

DEFAULT_STEP = StepTime(0.020, 0.0015)
DEFAULT_SLOTS = 8


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job's messages must contain: `contains` in the last one, `anywhere` in any, `lacks` in none."""

    contains: str = ""
    anywhere: str = ""
    lacks: str | None = None

    def fits(self, job: Job) -> bool:
        """Whether a job's messages are such."""
        whole = "\n".join(message["content"] for message in job.messages)
        lacking = self.lacks is None or self.lacks not in whole
        return self.contains in job.messages[-1]["content"] and self.anywhere in whole and lacking


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recorded answer: a text, or so many tokens of filler; or the error a job ends with, `times` times over.

    ttft_s: seconds before the first token. logprob: what every token is worth.
    """

    match: Match = Match()
    text: str = ""
    tokens: int = 0
    ttft_s: float = 0.0
    error: str = ""
    times: int | None = None
    logprob: float | None = None

    def pieces(self) -> list[str]:
        """The text in tokens: words with the space behind them."""
        if not self.text:
            return [f"w{number} " for number in range(self.tokens)]
        words = self.text.replace("\n", "\n\0").replace(" ", " \0").split("\0")
        return [word for word in words if word]


@dataclass(slots=True)
class _Running:
    job: Job
    rule: Rule
    pieces: Iterator[str]
    starts_s: float
    written: str = ""
    tokens: int = 0


class ScriptBackend:
    """Plays rules back; every step gives each running job one token and takes t(b) seconds of virtual time."""

    def __init__(
        self, rules: Sequence[Rule], *, step_time: StepTime = DEFAULT_STEP, slots: int = DEFAULT_SLOTS
    ) -> None:
        self.slots = slots
        self.jobs: list[Job] = []
        self._rules = rules
        self._uses = [0] * len(rules)
        self._step_time = step_time
        self._now_s = 0.0
        self._running: dict[str, _Running] = {}
        self._ended: list[Delta] = []

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def start(self, job: Job) -> None:
        """Begin a job by the first rule that fits; without one it ends with an error."""
        self.jobs.append(job)
        for number, rule in enumerate(self._rules):
            if rule.match.fits(job) and (rule.times is None or self._uses[number] < rule.times):
                self._uses[number] += 1
                if rule.error:
                    self._ended.append(Delta(job.id, "", 0, self._now_s, "error", rule.error))
                else:
                    self._running[job.id] = _Running(job, rule, iter(rule.pieces()), self._now_s + rule.ttft_s)
                return
        self._ended.append(Delta(job.id, "", 0, self._now_s, "error", "no rule of the script fits this job"))

    def cancel(self, job_id: str) -> None:
        """End a job at once."""
        self._running.pop(job_id, None)

    def wait(self) -> list[Delta]:
        """Play one step."""
        ended, self._ended = self._ended, []
        if ended or not self._running:
            return ended
        writing = [job for job in self._running.values() if job.starts_s <= self._now_s]
        if not writing:
            self._now_s = min(job.starts_s for job in self._running.values())
            return self.wait()
        self._now_s += self._step_time.of(len(writing))
        return [self._advance(running) for running in writing]

    def close(self) -> None:
        """Forget what runs."""
        self._running.clear()

    def _advance(self, running: _Running) -> Delta:
        piece = next(running.pieces, None)
        text = piece or ""
        end: End | None = None if piece is not None else "stop"
        running.tokens += 1
        before, running.written = running.written, running.written + text
        cut = min((at for at in map(running.written.find, running.job.stop) if at >= 0), default=-1)
        if cut >= 0:
            text, end = running.written[len(before) : cut], "stop"
        elif end is None and running.tokens >= running.job.max_tokens:
            end = "length"
        if end is not None:
            del self._running[running.job.id]
        prompt = sum(len(message["content"].split()) for message in running.job.messages) if end else 0
        return Delta(
            running.job.id,
            text,
            1,
            self._now_s,
            end,
            prompt_tokens=prompt,
            logprob=running.rule.logprob,
        )


def read_script(path: Path) -> list[Rule]:
    """Rules of a JSON Lines file. Raises BadInput for a line that is none, or for a file without any."""
    rules = list(read_records(path, Rule))
    if not rules:
        raise BadInput(str(path), "no rules", 'lines like {"match": {"contains": "…"}, "text": "…"}')
    return rules
