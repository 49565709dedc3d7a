"""Jobs on the toolkit's own engine: one batch for plan and parts, their common beginnings computed once.

Every job is a request with its whole conversation; the engine's prefix cache gives it the keys and values of the plan,
or of the parent's conversation, so only what is new is computed. Knows nothing of plans' graphs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from llmsys.engine import Engine, EngineConfig, EngineError, Request, SamplingParams
from llmsys.engine.tokens import Tokenizer
from llmsys.sgd_decode.backends import Delta, Job, Message
from llmsys.sgd_decode.calibration import known_step_time, machine_key, measure_step_time
from llmsys.sgd_decode.plan_grammar import PlanGrammar
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["EngineBackend"]

BATCH_TOKENS = 1024
PLAN_PENALTY = 1.2
"""Repetition penalty of a plan under grammar: a model of 135M writes one title ten times without it."""


@dataclass(slots=True)
class _Running:
    job: Job
    number: int


class EngineBackend:
    """An engine and the jobs in it. `slots` bounds what runs at once."""

    def __init__(self, engine: Engine, *, slots: int, grammar: bool = True, name: str = "") -> None:
        """name: tells this model on this device from others, for step times that are kept; "" keeps none."""
        self.slots = slots
        self._engine = engine
        self._key = machine_key(name) if name else ""
        tokenizer = engine.tokenizer
        self._grammar: PlanGrammar | None = None
        if grammar and isinstance(tokenizer, Tokenizer):
            self._grammar = PlanGrammar(tokenizer.as_json(), tokenizer.eos_ids)
        self._jobs: dict[int, _Running] = {}
        self._refused: list[Delta] = []
        self._started_s = time.monotonic()

    @classmethod
    def load(
        cls,
        model: str,
        *,
        slots: int,
        grammar: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        deterministic: bool = False,
    ) -> "EngineBackend":
        """Load a model directory, a GGUF file or "smollm2". Raises as `Engine.load` does.

        deterministic: a text has the same tokens whatever is written beside it and whatever a cache held; slower.
        """
        config = EngineConfig(
            device=device,
            dtype=dtype,
            max_sequences=slots,
            max_batch_tokens=BATCH_TOKENS,
            seed=seed,
            spare_rows=64,
            batch_invariant=deterministic,
        )
        name = f"{model} {device} {dtype} {deterministic}"
        return cls(Engine.load(model, config=config), slots=slots, grammar=grammar, name=name)

    @property
    def engine(self) -> Engine:
        """The engine, for what reads its state."""
        return self._engine

    def now_s(self) -> float:
        """Wall seconds since the backend was made."""
        return time.monotonic() - self._started_s

    def start(self, job: Job) -> None:
        """Queue a job; one that the engine refuses ends with the reason."""
        try:
            number = self._engine.add(self._request(job))
        except EngineError as error:
            self._refused.append(Delta(job.id, "", 0, self.now_s(), "error", str(error), refused=True))
        else:
            self._jobs[number] = _Running(job, number)

    def cancel(self, job_id: str) -> None:
        """End a job at the next step, at once where it is the last: no step would come to free its pages."""
        for number, running in list(self._jobs.items()):
            if running.job.id == job_id:
                self._engine.cancel(number)
                del self._jobs[number]
        if not self._jobs:
            self._engine.take_cancellations()

    def step_time(self) -> StepTime | None:
        """Measured once per machine, between jobs; takes about two seconds."""
        if self._jobs:
            return None
        return known_step_time(self._key, lambda: measure_step_time(self._engine))

    def next_s(self) -> float:
        """Now: a step can always be taken."""
        return 0.0

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
        """One step of the engine, or those that brought nothing until one brings something; steps are not cut short."""
        deltas, self._refused = self._refused, []
        while not deltas and self._jobs:
            for event in self._engine.step():
                running = self._jobs.get(event.request_id)
                if running is None:
                    continue
                if event.finish is not None:
                    del self._jobs[event.request_id]
                deltas.append(
                    Delta(
                        running.job.id,
                        event.text,
                        int(event.token_id >= 0),
                        self.now_s(),
                        event.finish,
                        event.error or "",
                        event.prompt_tokens,
                        event.cached_tokens,
                        event.logprob,
                    )
                )
        return deltas

    def score(self, messages: Sequence[Message], text: str) -> tuple[float, int]:
        """Negative log-likelihood of a text as the answer to a conversation, in nats, and its tokens; no job may run.

        Raises RequestError for what the model's window does not hold.
        """
        prompt = self._engine.tokenizer.apply_chat(messages)
        answer = self._engine.tokenizer.encode(text)
        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        (done,) = self._engine.generate([Request([*prompt, *answer], sampling)])
        scores = done.prompt_logprobs[len(prompt) - 1 :]
        return -sum(own for own, _ in scores), len(scores)

    def close(self) -> None:
        """End what runs."""
        for number in self._jobs:
            self._engine.cancel(number)
        self._jobs.clear()
        self._engine.take_cancellations()

    def _request(self, job: Job) -> Request:
        prompt = self._engine.tokenizer.apply_chat(job.messages)
        limit = min(job.max_tokens, max(1, self._engine.max_len - len(prompt)))
        processor = None
        if job.grammar and self._grammar is not None:
            processor = self._grammar.mask(len(prompt), max_parts=job.max_parts)
        sampling = SamplingParams(
            max_tokens=limit,
            temperature=job.temperature,
            seed=job.seed,
            stop=job.stop,
            logits_processor=processor,
            min_tokens=min(job.min_tokens, limit),
            repetition_penalty=PLAN_PENALTY if processor is not None else 1.0,
            logprobs=0,
        )
        salt = "" if job.share_prefix else job.id
        return Request(prompt, sampling, tenant=job.tenant, id=job.id, cache_salt=salt)
