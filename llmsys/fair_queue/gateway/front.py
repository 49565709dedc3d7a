"""What clients may ask of the gateway, and the first answer to each: queued, passed through, or refused.

Knows every part and decides nothing about order: that is the dispatcher's.
"""

import itertools
import uuid
from dataclasses import dataclass

from llmsys.fair_queue.gateway.accounts import Accounts
from llmsys.fair_queue.gateway.body import NotJson, RequestBody, read_body, with_usage
from llmsys.fair_queue.gateway.client import ClientConnection, ClientRequest
from llmsys.fair_queue.gateway.dispatch import Dispatcher
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.exchange import Exchange, Outbound, PassThrough
from llmsys.fair_queue.gateway.identity import Identity, Unidentified
from llmsys.fair_queue.gateway.queued import Queued
from llmsys.fair_queue.gateway.tenants import TenantTable
from llmsys.fair_queue.policy import Request

__all__ = ["Front", "FrontSettings"]

QUEUED_PATHS = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/v1/embeddings"))
WITH_USAGE_CHUNK = frozenset((b"/v1/chat/completions", b"/v1/completions"))
PASSED_PATHS = frozenset((b"/v1/models", b"/health", b"/tokenize"))
OPEN_PATHS = frozenset((b"/health",))


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """`default_max_tokens` is charged for requests without a limit; `backend_key` is sent to backends as a bearer."""

    identity: Identity
    default_max_tokens: int = 512
    backend_key: str = ""

    @property
    def credentials(self) -> bytes:
        """The header line that backends ask for, or nothing."""
        return f"authorization: Bearer {self.backend_key}\r\n".encode() if self.backend_key else b""


class Front:
    """The handler of client connections. `table` may be replaced while requests run."""

    def __init__(
        self,
        settings: FrontSettings,
        table: TenantTable,
        accounts: Accounts,
        dispatcher: Dispatcher,
        estimator: PromptEstimator,
    ) -> None:
        self.table = table
        self.draining = False
        self._settings = settings
        self._extra = settings.credentials
        self._accounts = accounts
        self._dispatcher = dispatcher
        self._estimator = estimator
        # ids of one life must not meet those of another in a store or a backend's log
        self._life = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)

    def handle(self, client: ClientConnection, request: ClientRequest) -> PassThrough | None:
        """Answer, or return the exchange that will."""
        path = request.path
        if self.draining:
            client.close_after_answer()
            client.respond_error(503, "the gateway is shutting down", "server_error", code="shutdown", retry_after_s=1)
        elif path in QUEUED_PATHS and request.method == b"POST":
            return self._queue(client, request, path)
        elif path in PASSED_PATHS and request.method in (b"GET", b"POST"):
            return self._pass(client, request, path)
        elif path in QUEUED_PATHS or path in PASSED_PATHS:
            client.respond_error(405, f"{_text(request.method)} is not allowed here", "invalid_request_error")
        else:
            client.respond_error(404, f"no such path: {_text(path)}", "invalid_request_error", code="not_found")
        return None

    def _pass(self, client: ClientConnection, request: ClientRequest, path: bytes) -> PassThrough | None:
        try:
            if path not in OPEN_PATHS:
                self._settings.identity.tenant_of(client, request, RequestBody(user="-"), self.table)
        except Unidentified as error:
            _unidentified(client, error)
            return None
        backend = self._dispatcher.best_up()
        if backend is None:
            client.respond_error(503, "no backend is up", "server_error", code="no_backend", retry_after_s=1)
            return None
        exchange = PassThrough(client, Outbound(request, request.body, self._extra))
        exchange.begin(backend)
        return exchange

    def _queue(self, client: ClientConnection, request: ClientRequest, path: bytes) -> Exchange | None:
        try:
            body = read_body(request.body)
            tenant = self._settings.identity.tenant_of(client, request, body, self.table)
        except NotJson as error:
            client.respond_error(400, f"the body is not a JSON object: {error}", "invalid_request_error")
            return None
        except Unidentified as error:
            _unidentified(client, error)
            return None
        queued = self._queued(tenant, request.body, body, path)
        ask = bool(body.stream) and path in WITH_USAGE_CHUNK and not body.asks_for_usage
        sent = with_usage(request.body, body) if ask else request.body
        outbound = Outbound(request, sent, self._extra + self._request_id(request, queued.request.id))
        exchange = Exchange(client, outbound, queued, self._dispatcher, strip=ask)
        refusal = self._dispatcher.submit(exchange)
        if refusal is None:
            return exchange
        kind = "rate_limit_error" if refusal.status == 429 else "invalid_request_error"
        client.respond_error(
            refusal.status, refusal.message, kind, code=refusal.reason, retry_after_s=refusal.retry_after_s
        )
        return None

    def _queued(self, tenant: str, raw: bytes, body: RequestBody, path: bytes) -> Queued:
        limits = self.table.of(tenant)
        units = self._estimator.units(raw)
        slo_ms = limits.ttft_slo_ms
        request = Request(
            id=f"{self._life}-{next(self._numbers)}",
            tenant=tenant,
            prompt_tokens=self._estimator.tokens(units, body.model),
            max_tokens=0 if path == b"/v1/embeddings" else body.most_output(self._settings.default_max_tokens),
            ttft_slo_s=None if slo_ms is None else slo_ms / 1000,
        )
        return Queued(request, self._accounts.of(tenant, limits), model=body.model, units=units)

    @staticmethod
    def _request_id(request: ClientRequest, own: str) -> bytes:
        """A header line that lets a backend's log be matched with ours, unless the client brought one."""
        return b"" if request.header(b"x-request-id") else f"x-request-id: {own}\r\n".encode()


def _unidentified(client: ClientConnection, error: Unidentified) -> None:
    kind = "authentication_error" if error.status == 401 else "invalid_request_error"
    client.respond_error(error.status, str(error), kind, code="invalid_api_key" if error.status == 401 else None)


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")[:200]
