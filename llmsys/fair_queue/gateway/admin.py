"""The operator's interface, on an address of its own: metrics, tenants, reload, and changes while running.

GET /metrics, /health, /fair/tenants; POST /fair/reload; PUT /fair/tenants/NAME with limits; PUT /fair/policy with
{"policy": SPEC}. Every answer but /metrics is JSON.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from urllib.parse import unquote

import msgspec
import orjson

from llmsys.errors import LlmsysError
from llmsys.fair_queue.gateway.accounts import Accounts
from llmsys.fair_queue.gateway.client import ClientConnection, ClientRequest
from llmsys.fair_queue.gateway.dispatch import Dispatcher
from llmsys.fair_queue.gateway.front import Front
from llmsys.fair_queue.gateway.ledger import Ledger
from llmsys.fair_queue.gateway.metrics import Exposition
from llmsys.fair_queue.gateway.tenants import TenantLimits, limits_from

__all__ = ["Admin", "Changes"]

METRICS_KIND = b"text/plain; version=0.0.4; charset=utf-8"
TENANTS = b"/fair/tenants"


@dataclass(frozen=True, slots=True)
class Changes:
    """What an operator may set off: read the tenants file again (returns a warning or None), change a tenant's limits,
    switch the policy."""

    reload: Callable[[], str | None]
    limit: Callable[[str, TenantLimits], None]
    switch: Callable[[str], None]


class Admin:
    """The handler of admin connections; it answers everything at once."""

    def __init__(
        self, front: Front, accounts: Accounts, dispatcher: Dispatcher, ledger: Ledger, changes: Changes
    ) -> None:
        self._front = front
        self._accounts = accounts
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._changes = changes
        self._exposition = Exposition(accounts, dispatcher, ledger)

    def handle(self, client: ClientConnection, request: ClientRequest) -> None:
        """Answer one request."""
        try:
            self._answer(client, request)
        except (LlmsysError, ValueError) as error:
            client.respond_error(400, str(error), "invalid_request_error")

    def _answer(self, client: ClientConnection, request: ClientRequest) -> None:
        match request.method, request.path:
            case b"GET", b"/metrics":
                client.respond(200, self._exposition.render(), kind=METRICS_KIND)
            case b"GET", b"/health":
                self._health(client)
            case b"GET", path if path == TENANTS:
                client.respond(200, orjson.dumps(self._tenants()))
            case b"POST", b"/fair/reload":
                warning = self._changes.reload()
                status = 200 if warning is None else 400
                client.respond(status, orjson.dumps({"reloaded": warning is None, "warning": warning}))
            case b"PUT", b"/fair/policy":
                spec = msgspec.json.decode(request.body, type=_PolicyChange).policy
                self._changes.switch(spec)
                client.respond(200, orjson.dumps({"policy": spec}))
            case b"PUT", path if path.startswith(TENANTS + b"/"):
                self._limit(client, unquote(path[len(TENANTS) + 1 :].decode("latin-1")), request.body)
            case _:
                client.respond_error(404, "no such path or method", "invalid_request_error", code="not_found")

    def _health(self, client: ClientConnection) -> None:
        backends = {one.address.url: {"up": one.up, "reason": one.reason} for one in self._dispatcher.backends}
        up = any(one.up for one in self._dispatcher.backends) and not self._front.draining
        client.respond(200 if up else 503, orjson.dumps({"up": up, "backends": backends}))

    def _limit(self, client: ClientConnection, tenant: str, body: bytes) -> None:
        if not tenant:
            raise ValueError("a tenant's name follows /fair/tenants/")
        values = msgspec.json.decode(body)
        limits = limits_from(values, self._front.table.of(tenant), f"tenant {tenant!r}")
        self._changes.limit(tenant, limits)
        client.respond(200, orjson.dumps({"tenant": tenant, **asdict(limits)}))

    def _tenants(self) -> dict[str, dict[str, object]]:
        counters = self._ledger.counters()
        return {
            one.name: {
                "weight": one.cached_limits.weight,
                "counter": counters.get(one.name),
                "queued": one.queued,
                "running": one.running,
                "requests": one.requests,
                "prompt_tokens": one.prompt_tokens,
                "output_tokens": one.output_tokens,
                "estimated": one.estimated,
            }
            for one in self._accounts
        }


class _PolicyChange(msgspec.Struct):
    policy: str
