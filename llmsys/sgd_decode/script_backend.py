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
    prompt: list[str]
    cached: int
    written: str = ""
    tokens: int = 0


class ScriptBackend:
    """Plays rules back; every step gives each running job one token and takes t(b) seconds of virtual time."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        step_time: StepTime = DEFAULT_STEP,
        slots: int = DEFAULT_SLOTS,
        prefill_s: float = 0.0,
    ) -> None:
        """prefill_s: seconds per word of a prompt that no earlier job began with, one job's prompt after the other."""
        self.slots = slots
        self._prefill_s = prefill_s
        self._prefill_free_s = 0.0
        self._prefixes: list[list[str]] = []
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
                    self._running[job.id] = self._begun(job, rule)
                return
        self._ended.append(Delta(job.id, "", 0, self._now_s, "error", "no rule of the script fits this job"))

    def cancel(self, job_id: str) -> None:
        """End a job at once."""
        self._running.pop(job_id, None)
        self._ended = [delta for delta in self._ended if delta.job != job_id]

    def step_time(self) -> StepTime | None:
        """The law that this backend plays by."""
        return self._step_time

    def next_s(self) -> float:
        """When the step that comes next ends."""
        writing = [job for job in self._running.values() if job.starts_s <= self._now_s]
        if self._ended or not self._running:
            return self._now_s
        if not writing:
            return min(job.starts_s for job in self._running.values())
        return self._now_s + self._step_time.of(len(writing))

    def sync(self, now_s: float) -> None:
        """Let an idle backend's clock catch up with another's."""
        if not self._running and not self._ended:
            self._now_s = max(self._now_s, now_s)

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
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
            self._prefixes.append([*running.prompt, *running.written.split()])
        return Delta(
            running.job.id,
            text,
            1,
            self._now_s,
            end,
            prompt_tokens=len(running.prompt) if end else 0,
            cached_tokens=running.cached if end else 0,
            logprob=running.rule.logprob,
        )

    def _begun(self, job: Job, rule: Rule) -> _Running:
        """A job whose prompt is read after those that came before, as far as no earlier one began alike."""
        prompt = [word for message in job.messages for word in (f"<{message['role']}>", *message["content"].split())]
        prompt.append("<assistant>")
        cached = 0
        if job.share_prefix:
            begun = [*self._prefixes, *([*other.prompt, *other.written.split()] for other in self._running.values())]
            cached = min(max((_common(prompt, other) for other in begun), default=0), len(prompt) - 1)
        ready_s = max(self._now_s, self._prefill_free_s) + self._prefill_s * (len(prompt) - cached)
        self._prefill_free_s = ready_s
        return _Running(job, rule, iter(rule.pieces()), ready_s + rule.ttft_s, prompt, cached)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Words that both begin with."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def read_script(path: Path) -> list[Rule]:
    """Rules of a JSON Lines file. Raises BadInput for a line that is none, or for a file without any."""
    rules = list(read_records(path, Rule))
    if not rules:
        raise BadInput(str(path), "no rules", 'lines like {"match": {"contains": "…"}, "text": "…"}')
    return rules
