"""The gateway as a process: settings in, every part put together, served until a signal, drained.

SIGHUP, or a changed tenants file, reloads it; SIGTERM and Ctrl-C stop accepting, let running requests finish and answer
503 to those that wait. Knows each part's interface and nothing of its inside.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from llmsys.errors import BadInput, LlmsysError, UsageFault
from llmsys.fair_queue.gateway.accounts import Accounts
from llmsys.fair_queue.gateway.admin import Admin, Changes
from llmsys.fair_queue.gateway.backend import Backend
from llmsys.fair_queue.gateway.client import ClientConnection, Handler, Limits
from llmsys.fair_queue.gateway.dispatch import Dispatcher, QueueLimits
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.front import Front, FrontSettings
from llmsys.fair_queue.gateway.journal import Journal, NoJournal, meta_event
from llmsys.fair_queue.gateway.ledger import Ledger
from llmsys.fair_queue.gateway.scheduler import Scheduler
from llmsys.fair_queue.gateway.store import Saved, Store
from llmsys.fair_queue.gateway.tenants import TenantLimits, TenantTable, limits_from, read_tenants
from llmsys.fair_queue.gateway.window import WindowSpec

__all__ = ["Endpoint", "Gateway", "Settings", "parse_endpoint"]

BACKLOG = 4096
FILE_CHECK_S = 1.0
KEEP_ALIVE_S = 300.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on; port 0 takes a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def parse_endpoint(text: str) -> Endpoint:
    """Read HOST:PORT or :PORT, every interface. Raises UsageFault.

    >>> parse_endpoint("127.0.0.1:8080")
    Endpoint(host='127.0.0.1', port=8080)
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageFault(f"{text!r} is not HOST:PORT, as in 127.0.0.1:8080")
    return Endpoint(host.strip("[]") or "0.0.0.0", int(port))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a gateway is told; times are seconds. Without `insecure` only keys open it to other machines."""

    backends: tuple[str, ...]
    front: FrontSettings
    listen: Endpoint = Endpoint("127.0.0.1", 8080)
    admin: Endpoint = Endpoint("127.0.0.1", 9090)
    policy: str = "vtc"
    window: WindowSpec = field(default_factory=lambda: WindowSpec("auto", auto=True))
    tenants: Path | None = None
    queue: QueueLimits = field(default_factory=QueueLimits)
    sync_s: float = 0.1
    drain_s: float = 30.0
    max_body: int = 32 << 20
    insecure: bool = False


class Gateway:
    """One gateway process. `say` gets lines for people: warnings, reloads, backends that go and come."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        journal: Journal | NoJournal,
        estimator: PromptEstimator,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._journal = journal
        self._say = say
        self._table = read_tenants(settings.tenants) if settings.tenants is not None else TenantTable()
        self._overrides: dict[str, TenantLimits] = {}
        self._file_state = self._file_version()
        for warning in self._table.warnings:
            say(f"warning: {warning}")
        self._accounts = Accounts()
        self._scheduler = Scheduler(settings.policy, self._table.weights())
        self._ledger = Ledger(self._scheduler, self._accounts)
        extra = settings.front.credentials
        self._backends = [Backend(url, settings.window, self._pump, extra) for url in settings.backends]
        self._dispatcher = Dispatcher(self._scheduler, self._backends, self._ledger, journal, estimator, settings.queue)
        self._front = Front(settings.front, self._table, self._accounts, self._dispatcher, estimator)
        changes = Changes(reload=self.reload, limit=self._limit, switch=self._switch)
        self._admin = Admin(self._front, self._accounts, self._dispatcher, self._ledger, changes)
        self._connections: set[ClientConnection] = set()
        self._stop = asyncio.Event()
        self._ended = False
        self._faults: dict[str, str | None] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._check_exposure()

    async def serve(self, ready: Callable[[int, int], None]) -> None:
        """Serve until a signal; `ready` gets the ports once both listen. Raises LlmsysError if an address is taken."""
        loop = asyncio.get_running_loop()
        self._resume(await self._store.load())
        self._write_meta()
        server = await self._listen(self._settings.listen, self._front.handle, share=self._store.shared)
        admin = await self._listen(self._settings.admin, self._admin.handle, share=False)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        for stop in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(stop, self._stop.set)
        syncing = loop.create_task(self._sync_always())
        tasks = [loop.create_task(backend.watch()) for backend in self._backends]
        ready(_port(server), _port(admin))
        try:
            await self._stop.wait()
            await self._drain(server)
        finally:
            self._ended = True  # a sync is not cut off: its answer would be lost, and with it what it was told
            for task in tasks:
                task.cancel()
            await asyncio.gather(syncing, *tasks, return_exceptions=True)
            admin.close()
            await self._sync()
            await self._store.close()

    def reload(self) -> str | None:
        """Read the tenants file again; a bad one changes nothing, and what is wrong with it is said and returned."""
        path = self._settings.tenants
        self._file_state = self._file_version()
        if path is None:
            return "there is no tenants file"
        try:
            table = read_tenants(path)
        except BadInput as error:
            self._say(f"warning: kept the tenants as they were: {error}")
            return str(error)
        for warning in table.warnings:
            self._say(f"warning: {warning}")
        for tenant, limits in self._overrides.items():
            table = table.changed(tenant, limits)
        self._use(table)
        self._say(f"reloaded {path}: {len(table.limits)} tenants, {len(table.keys)} keys")
        return None

    def _use(self, table: TenantTable) -> None:
        self._table = self._front.table = table
        self._scheduler.reweigh(table.weights())
        for account in self._accounts:
            account.cached_limits = table.of(account.name)
        self._write_meta()

    def _limit(self, tenant: str, limits: TenantLimits) -> None:
        self._overrides[tenant] = limits
        self._use(self._table.changed(tenant, limits))
        task = asyncio.get_running_loop().create_task(
            self._store.keep_limits(tenant, orjson.dumps(asdict(limits)).decode())
        )
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    def _switch(self, spec: str) -> None:
        self._scheduler.switch(spec, time.monotonic())
        self._ledger.reset()
        self._write_meta()
        self._pump()

    def _resume(self, saved: Saved) -> None:
        for tenant, json in saved.limits.items():
            self._overrides[tenant] = limits_from(orjson.loads(json), TenantLimits(), f"state of tenant {tenant!r}")
            self._table = self._table.changed(tenant, self._overrides[tenant])
        if saved.limits:
            self._use(self._table)
        self._ledger.resume(saved.counters, saved.floor)
        for tenant, (requests, prompt_tokens, output_tokens) in saved.totals.items():
            account = self._accounts.of(tenant, self._table.of(tenant))
            account.requests, account.prompt_tokens, account.output_tokens = requests, prompt_tokens, output_tokens
        if saved.running:
            self._say(f"{len(saved.running)} requests ran when the last gateway ended: settled as they were charged")

    def _write_meta(self) -> None:
        self._journal.record(
            meta_event(
                self._scheduler.spec, self._table.weights(), every=self._journal.every, t_s=self._dispatcher.now_s()
            )
        )

    def _pump(self) -> None:
        self._dispatcher.pump()

    async def _sync_always(self) -> None:
        since_check_s = 0.0
        while not self._ended:
            await asyncio.sleep(self._settings.sync_s)
            await self._sync()
            self._dispatcher.expire()
            self._pump()
            since_check_s += self._settings.sync_s
            if since_check_s >= FILE_CHECK_S:
                since_check_s = 0.0
                self._check_file()
                self._close_stalled()
                self._accounts.prune(time.monotonic())

    async def _sync(self) -> None:
        self._dispatcher.charge()
        batch = self._ledger.take()
        if not batch.empty or self._store.shared:
            remote = await self._store.push(batch)
            if remote is not None:
                self._ledger.apply(remote)
        self._journal.flush()
        self._warn("state", self._store.fault)
        self._warn("events", self._journal.fault)
        for backend in self._backends:
            self._warn(backend.address.url, None if backend.up else f"backend {backend.address.url}: {backend.reason}")

    def _warn(self, about: str, fault: str | None) -> None:
        """Say a fault once, and once that it has passed."""
        before = self._faults.get(about)
        if (fault is None) != (before is None):
            self._say(f"warning: {fault}" if fault is not None else f"recovered: {before}")
        self._faults[about] = fault

    def _file_version(self) -> tuple[int, int] | None:
        path = self._settings.tenants
        with contextlib.suppress(OSError):
            if path is not None:
                found = path.stat()
                return found.st_mtime_ns, found.st_ino
        return None

    def _check_file(self) -> None:
        if self._file_version() != self._file_state:
            self.reload()

    def _close_stalled(self) -> None:
        """Close connections that send a request too slowly, or have been idle for long."""
        now_s = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            connection.close_if_stalled(now_s, idle_s=KEEP_ALIVE_S)

    async def _drain(self, server: asyncio.Server) -> None:
        server.close()
        self._front.draining = True
        self._dispatcher.clear()
        for connection in list(self._connections):
            connection.close_after_answer()
        end_s = asyncio.get_running_loop().time() + self._settings.drain_s
        while self._dispatcher.running and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.02)
        if self._dispatcher.running:
            self._say(f"warning: {self._dispatcher.running} requests were cut off after {self._settings.drain_s:g} s")
        for connection in list(self._connections):
            connection.cut_off()

    async def _listen(self, endpoint: Endpoint, handler: Handler, *, share: bool) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        limits = Limits(max_body=self._settings.max_body)
        try:
            return await loop.create_server(
                lambda: ClientConnection(handler, limits, self._connections, loop.time()),
                endpoint.host,
                endpoint.port,
                backlog=BACKLOG,
                reuse_port=share,
            )
        except OSError as error:
            raise LlmsysError(f"cannot listen on {endpoint.host}:{endpoint.port}: {error.strerror}") from error

    def _check_exposure(self) -> None:
        identity = self._settings.front.identity
        if identity.kind == "key" and not self._table.keys and not identity.allow_anonymous:
            raise UsageFault(
                "nobody has a key: give --tenants FILE with keys, --allow-anonymous, or another --tenant-from"
            )
        keyed = identity.kind == "key" and not identity.allow_anonymous
        for endpoint, guarded in ((self._settings.listen, keyed), (self._settings.admin, False)):
            if not (endpoint.loopback or guarded or self._settings.insecure):
                raise UsageFault(
                    f"{endpoint.host}:{endpoint.port} can be reached from other machines and no key guards it; "
                    "listen on 127.0.0.1, or give --insecure"
                )


def _port(server: asyncio.Server) -> int:
    listening: socket.socket = server.sockets[0]
    return int(listening.getsockname()[1])
