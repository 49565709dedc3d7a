"""What the routes stand on: who asks, the engine when it is there, and the events of a job from admission to end.

Knows nothing of responses.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from llmsys.engine.errors import AdapterError, EngineError
from llmsys.engine.sequence import Request
from llmsys.serve_lora.server.backend import Backend
from llmsys.serve_lora.server.bodies import AnswerBody
from llmsys.serve_lora.server.faults import ApiFault, api_fault
from llmsys.serve_lora.server.jobs import Job, adapter_of, check_offered, make_job
from llmsys.serve_lora.server.metrics import Metrics
from llmsys.serve_lora.server.settings import ServerSettings
from llmsys.serve_lora.server.streaming import Tagged
from llmsys.serve_lora.server.tenants import ANYONE, RateLimiter, Tenant

__all__ = ["Service"]

T = TypeVar("T")
STARTING_S = 5.0


class Service:
    """One server's state; `open` gives it its engine."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics(
            settings.records.metrics_prefix,
            tenants_max=settings.records.metrics_tenants,
            prices=settings.records.prices,
        )
        self.draining = False
        self._backend: Backend | None = None
        self._limiter = RateLimiter(time.monotonic)
        # one thread, so that a long prompt delays other prompts and never the engine's steps
        self._texts = ThreadPoolExecutor(1, "llmsys-tokenize")
        self._request_s = 1.0

    def open(self, backend: Backend) -> None:
        """Answer from now on."""
        self._backend = backend
        self.metrics.watch(backend)

    @property
    def backend(self) -> Backend:
        """The engine. Raises ApiFault 503 while it loads, when it has failed, and when the server stops."""
        if self._backend is None:
            raise _unavailable("the model is loading", "starting", STARTING_S)
        if self.draining:
            raise _unavailable("the server is stopping", "draining", self.settings.drain_s)
        if self._backend.door.failure is not None:
            raise _unavailable(self._backend.door.failure, "engine_stopped", STARTING_S)
        return self._backend

    def tenant(self, authorization: str | None) -> Tenant:
        """Whose key it is. Raises ApiFault 401."""
        scheme, _, key = (authorization or "").partition(" ")
        found = self.settings.access.tenants.of_key(key.strip() if scheme.lower() == "bearer" else None)
        if found is None:
            wrong = "no API key" if authorization is None else "this API key is not known"
            raise ApiFault(
                401,
                f"{wrong}; expected Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )
        return found

    def admit(self, tenant: Tenant) -> None:
        """Count one request of a tenant. Raises ApiFault 429 over its rate."""
        if (wait_s := self._limiter.take(tenant)) > 0:
            raise ApiFault(
                429,
                f"tenant {tenant.name} is over {tenant.rpm} requests a minute",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
            )

    def visible(self, tenant: Tenant) -> list[str]:
        """Adapters that a tenant may see, sorted."""
        return [name for name in self.backend.registry.names() if tenant.may_use(name)]

    async def job(self, body: AnswerBody, tenant: Tenant, *, chat: bool) -> Job:
        """The engine's requests for a body, its adapter checked and known. Raises ApiFault."""
        backend = self.backend
        check_offered(body, chat=chat)
        adapter = self._adapter(body.model, tenant)
        if adapter is not None:
            try:
                await backend.registry.prepare(adapter)
            except AdapterError as error:
                raise api_fault(error, retry_after_s=self.retry_after_s) from error
        name = tenant.name if tenant is not ANYONE else body.user or ANYONE.name
        making = partial(
            make_job,
            body,
            chat=chat,
            tenant=name,
            adapter=adapter,
            tokenizer=backend.tokenizer,
            max_len=backend.max_len,
            cache_salt=name if self.settings.access.isolate_prefix else "",
            masks=backend.masks,
        )
        return await self.in_texts(making)

    async def in_texts(self, action: Callable[[], T]) -> T:
        """Run an action on texts in the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._texts, action)

    async def events(self, job: Job) -> AsyncGenerator[Tagged, None]:
        """The job's events as they come, measured; leaving cancels it. Raises what the engine does."""
        started_s = time.monotonic()
        last_s: dict[tuple[int, int], float] = {}
        finished = False
        try:
            async with aclosing(self._merged(job.requests)) as events:
                async for prompt, event in events:
                    now_s = time.monotonic()
                    key = (prompt, event.index)
                    if key in last_s:
                        self.metrics.between_tokens.observe(now_s - last_s[key])
                    else:
                        self.metrics.first_token.observe(now_s - started_s)
                    last_s[key] = now_s
                    yield prompt, event
            finished = True
        finally:
            if finished:
                whole_s = time.monotonic() - started_s
                self.metrics.whole.observe(whole_s)
                self._request_s += 0.1 * (whole_s - self._request_s)

    @property
    def retry_after_s(self) -> float:
        """Seconds until the queue has moved: those that wait, by how long a request takes and how many run at once."""
        if self._backend is None:
            return STARTING_S
        waiting = self._backend.door.stats().waiting
        return min(max(waiting * self._request_s / self.settings.engine.max_sequences, 1.0), 60.0)

    def close(self) -> None:
        """Let go of the tokenizer's thread."""
        self._texts.shutdown(wait=False, cancel_futures=True)

    def _adapter(self, model: str, tenant: Tenant) -> str | None:
        """The adapter of a name, found without listing all of them if it is there."""
        backend = self.backend
        if model not in backend.names and tenant.may_use(model) and backend.registry.knows(model):
            return model
        return adapter_of(model, backend.names, self.visible(tenant) if model not in backend.names else ())

    async def _merged(self, requests: tuple[Request, ...]) -> AsyncGenerator[Tagged, None]:
        """The events of several requests in the order in which they come."""
        door = self.backend.door
        if len(requests) == 1:
            async with aclosing(door.stream(requests[0])) as events:
                async for event in events:
                    yield 0, event
            return
        inbox: asyncio.Queue[Tagged | EngineError | None] = asyncio.Queue()

        async def read(at: int, request: Request) -> None:
            try:
                async with aclosing(door.stream(request)) as events:
                    async for event in events:
                        inbox.put_nowait((at, event))
                inbox.put_nowait(None)
            except EngineError as error:
                inbox.put_nowait(error)

        readers = [asyncio.create_task(read(at, request)) for at, request in enumerate(requests)]
        try:
            unfinished = len(readers)
            while unfinished:
                item = await inbox.get()
                if isinstance(item, EngineError):
                    raise item
                if item is None:
                    unfinished -= 1
                else:
                    yield item
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


def _unavailable(message: str, code: str, retry_after_s: float) -> ApiFault:
    return ApiFault(503, message, kind="server_error", code=code, retry_after_s=retry_after_s)
