"""Jobs on any OpenAI-compatible server: one streamed request per job, their common beginnings sent byte for byte alike.

The same beginning lets the server's prefix cache hit; `prompt_cache_key` names the question it belongs to. Busy servers
(429, 5xx) are asked again with growing waits, or after as long as they say. Fields that a server refuses are left out
from then on. Knows nothing of plans beyond their grammar.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import httpx2
import orjson

from llmsys.errors import LlmsysError, Unavailable
from llmsys.sgd_decode.backends import Delta, End, Job
from llmsys.sgd_decode.plan_grammar import plan_regex
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["HttpBackend", "ServerFault", "is_url"]

KEY_VARIABLE = "OPENAI_API_KEY"
REFUSALS = frozenset({400, 404, 413, 422})
EXTRAS_REFUSED = frozenset({400, 422})
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 600.0
FAULT_CHARS = 300


class ServerFault(LlmsysError):
    """What a server said in place of an answer; `status` 0 where it said nothing, wait_s what it asked for."""

    def __init__(self, why: str, *, status: int = 0, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.wait_s = wait_s


@dataclass(slots=True)
class _Stream:
    """A job on its way, as one thread sees it."""

    job: Job
    stopped: Event = field(default_factory=Event)
    tokens: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    end: End | None = None


def is_url(model: str) -> bool:
    """Whether a model's name is a server's address."""
    return model.startswith(("http://", "https://"))


class HttpBackend:
    """A server and the requests that are under way at it, each in a thread of its own; at most `slots` at once."""

    def __init__(self, address: str, *, slots: int, grammar: bool = True, retries: int = 2) -> None:
        """address: URL#model, URL up to and with /v1; without a model, the first that the server lists.

        retries: how often a busy server is asked again before a job fails. Raises Unavailable for a server that is not
        there, where its list is needed.
        """
        url, _, model = address.partition("#")
        self.slots = slots
        self._retries = retries
        self._grammar = grammar
        self._extras = True
        self._started_s = time.monotonic()
        key = os.environ.get(KEY_VARIABLE)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=TIMEOUT_S, limits=limits)
        self._model = model or self._first_model(url)
        self._running: dict[str, _Stream] = {}
        self._out: SimpleQueue[tuple[_Stream, Delta]] = SimpleQueue()

    def now_s(self) -> float:
        """Wall seconds since the backend was made."""
        return time.monotonic() - self._started_s

    def start(self, job: Job) -> None:
        """Send a job."""
        stream = self._running[job.id] = _Stream(job)
        Thread(target=self._run, args=(stream,), name=f"sgd {job.id}", daemon=True).start()

    def cancel(self, job_id: str) -> None:
        """Leave a job's stream, which lets the server stop."""
        stream = self._running.pop(job_id, None)
        if stream is not None:
            stream.stopped.set()

    def step_time(self) -> StepTime | None:
        """None: a server does not tell."""
        return None

    def next_s(self) -> float:
        """Now: only waiting shows."""
        return 0.0

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
        """What came since the last call; blocks for the first piece."""
        deltas: list[Delta] = []
        while self._running and not deltas:
            try:
                first = self._out.get(timeout=timeout_s)
            except Empty:
                break
            arrived = [first, *self._drained()]
            deltas = [delta for stream, delta in arrived if self._running.get(delta.job) is stream]
            for delta in deltas:
                if delta.end is not None:
                    self._running.pop(delta.job, None)
        return deltas

    def close(self) -> None:
        """Leave all streams."""
        for job_id in list(self._running):
            self.cancel(job_id)
        self._client.close()

    def _drained(self) -> Iterator[tuple[_Stream, Delta]]:
        while not self._out.empty():
            yield self._out.get()

    def _run(self, stream: _Stream) -> None:
        """A thread: send until the server takes it, pass its text on, end with how it ended."""
        tries = 0
        while not stream.stopped.is_set():
            try:
                self._read(stream)
                self._put(stream, "", end=stream.end or "stop")
                return
            except (ServerFault, httpx2.HTTPError, OSError, RuntimeError) as error:
                fault = error if isinstance(error, ServerFault) else ServerFault(f"{type(error).__name__}: {error}")
                if fault.status in EXTRAS_REFUSED and self._extras and not stream.tokens:
                    self._extras = False
                    continue
                waiting = stream.tokens or tries >= self._retries or fault.status not in (*BUSY, 0)
                if waiting:
                    self._put(stream, "", end="error", fault=fault)
                    return
                wait_s = fault.wait_s if fault.wait_s is not None else FIRST_WAIT_S * 2**tries
                tries += 1
                stream.stopped.wait(min(wait_s, LONGEST_WAIT_S))

    def _read(self, stream: _Stream) -> None:
        """One request, its text put out as it comes. Raises ServerFault for what is no whole answer."""
        with self._client.stream("POST", "chat/completions", content=orjson.dumps(self._body(stream.job))) as response:
            if response.status_code != httpx2.codes.OK:
                response.read()
                raise _fault(response)
            for line in response.iter_lines():
                if stream.stopped.is_set():
                    return
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    break
                self._take(stream, data)
        if stream.end is None:
            raise ServerFault("the stream broke off before its end")

    def _take(self, stream: _Stream, data: str) -> None:
        try:
            chunk = orjson.loads(data)
            stream.usage = chunk.get("usage") or stream.usage
            for choice in chunk.get("choices", [])[:1]:
                text = (choice.get("delta") or {}).get("content") or ""
                reason = choice.get("finish_reason")
                stream.end = stream.end if reason is None else "length" if reason == "length" else "stop"
                if text:
                    self._put(stream, text, logprob=_logprob(choice))
        except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
            raise ServerFault(f"a line that is no chunk of an answer: {data[:80]!r}") from error

    def _put(
        self,
        stream: _Stream,
        text: str,
        *,
        end: End | None = None,
        fault: ServerFault | None = None,
        logprob: float | None = None,
    ) -> None:
        usage = stream.usage if end is not None else {}
        tokens = int(bool(text))
        if end is not None:
            tokens = max(0, int(usage.get("completion_tokens") or 0) - stream.tokens)
        stream.tokens += tokens
        details = usage.get("prompt_tokens_details") or {}
        delta = Delta(
            stream.job.id,
            text,
            tokens,
            self.now_s(),
            end,
            str(fault) if fault is not None else "",
            int(usage.get("prompt_tokens") or 0),
            int(details.get("cached_tokens") or 0),
            logprob,
            refused=fault is not None and fault.status in REFUSALS,
        )
        self._out.put((stream, delta))

    def _body(self, job: Job) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self._model,
            "messages": list(job.messages),
            "max_tokens": job.max_tokens,
            "temperature": job.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if job.stop:
            body["stop"] = list(job.stop)
        if job.seed is not None:
            body["seed"] = job.seed
        if self._extras:
            body |= {"prompt_cache_key": f"sgd-{job.id.partition('/')[0]}", "logprobs": True}
            if job.min_tokens:
                body["min_tokens"] = job.min_tokens
            if job.grammar and self._grammar:
                body["structured_outputs"] = {"regex": plan_regex(job.max_parts)}
        return body

    def _first_model(self, url: str) -> str:
        try:
            listed = self._client.get("models").raise_for_status().json()["data"]
            return str(listed[0]["id"])
        except (httpx2.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"{url} lists no models ({error})", "name one: URL#model") from error


def _fault(response: httpx2.Response) -> ServerFault:
    """What a refusal says, in one line, with the wait that it asks for."""
    said = " ".join(response.text[:FAULT_CHARS].split())
    try:
        wait_s: float | None = float(response.headers.get("retry-after", ""))
    except ValueError:
        wait_s = None
    return ServerFault(f"status {response.status_code}: {said}", status=response.status_code, wait_s=wait_s)


def _logprob(choice: dict[str, Any]) -> float | None:
    """The mean log-probability of a chunk's tokens, where the server tells."""
    content = (choice.get("logprobs") or {}).get("content") or []
    values = [float(token["logprob"]) for token in content if token.get("logprob") is not None]
    return sum(values) / len(values) if values else None
