"""`llmsys fair-queue gateway`: options in, a server until a signal; and `gateway hash-key`."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llmsys.cli._options import Quiet
from llmsys.cli._render import note
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmsys.fair_queue.gateway import Store

__all__ = ["app"]


class _ServingIsTheDefault(TyperGroup):
    """`gateway --backend URL` is `gateway run --backend URL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Put the verb in front where the first word is an option."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_ServingIsTheDefault,
    help="Share OpenAI-compatible servers fairly: gateway --backend URL, or gateway hash-key.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Backends = Annotated[list[str], typer.Option("--backend", metavar="URL", help="A server to send to; may repeat.")]
Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients connect.")]
AdminAt = Annotated[str, typer.Option("--admin", metavar="HOST:PORT", help="Where operators connect: /metrics, /fair.")]
PolicySpec = Annotated[str, typer.Option("--policy", help="NAME[:key=value,...]: whose request is next.")]
WindowAt = Annotated[str, typer.Option("--window", help="What runs at one backend: auto, N requests or Ntok tokens.")]
Tenants = Annotated[
    Path | None, typer.Option("--tenants", metavar="FILE", help="TOML of tenants: keys, weights, limits.")
]
TenantFrom = Annotated[str, typer.Option("--tenant-from", help="Who a request is: key, header:NAME, user or ip.")]
MaxQueue = Annotated[int, typer.Option("--max-queue", min=0, help="Requests of one tenant that may wait.")]
MaxQueueTotal = Annotated[int, typer.Option("--max-queue-total", min=1, help="Requests that may wait in all.")]
QueueTimeout = Annotated[float, typer.Option("--queue-timeout", min=0.0, help="Seconds a request may wait.")]
DefaultMaxTokens = Annotated[
    int, typer.Option("--default-max-tokens", min=0, help="Output tokens assumed of a request without a limit.")
]
StateAt = Annotated[
    str | None,
    typer.Option("--state", help="Counters: sqlite:PATH, memory or redis://; default: a file in the state directory."),
]
StateReset = Annotated[bool, typer.Option("--state-reset", help="Move a state file that is there aside first.")]
SyncMs = Annotated[int, typer.Option("--sync-ms", min=1, help="Milliseconds between writes of state and events.")]
TokenizerAt = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="DIR", help="Count prompts with DIR/tokenizer.json.")
]
EventsFile = Annotated[
    Path | None, typer.Option("--events", metavar="FILE", help="Write what happened, for `fair-queue audit`.")
]
LogEvery = Annotated[int, typer.Option("--log-every", min=1, help="Output tokens that one record may cover.")]
DrainTimeout = Annotated[
    float, typer.Option("--drain-timeout", min=0.0, help="Seconds for running requests after a stop signal.")
]
MaxBody = Annotated[str, typer.Option("--max-body", help="Largest request body: bytes, or with K, M or G.")]
AllowAnonymous = Annotated[
    bool, typer.Option("--allow-anonymous", help="Requests that name no tenant are tenant `anonymous`.")
]
TrustHeader = Annotated[
    bool, typer.Option("--trust-header", help="Believe --tenant-from header:NAME without an API key.")
]
BackendKey = Annotated[
    str | None,
    typer.Option("--backend-key-env", metavar="NAME", help="Environment variable with the backends' API key."),
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Processes on one address that share counters; admin ports count up.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without keys.")]


@app.command()
def run(
    backend: Backends,
    *,
    listen: Listen = "127.0.0.1:8080",
    admin: AdminAt = "127.0.0.1:9090",
    policy: PolicySpec = "vtc",
    window: WindowAt = "auto",
    tenants: Tenants = None,
    tenant_from: TenantFrom = "key",
    max_queue: MaxQueue = 1000,
    max_queue_total: MaxQueueTotal = 10_000,
    queue_timeout: QueueTimeout = 300.0,
    default_max_tokens: DefaultMaxTokens = 512,
    state: StateAt = None,
    state_reset: StateReset = False,
    sync_ms: SyncMs = 100,
    tokenizer: TokenizerAt = None,
    events: EventsFile = None,
    log_every: LogEvery = 16,
    drain_timeout: DrainTimeout = 30.0,
    max_body: MaxBody = "32M",
    allow_anonymous: AllowAnonymous = False,
    trust_header: TrustHeader = False,
    backend_key_env: BackendKey = None,
    workers: Workers = 1,
    insecure: Insecure = False,
    quiet: Quiet = False,
) -> None:
    """Proxy OpenAI requests to servers, the tenant served least first, until SIGTERM or Ctrl-C.

    Prints one line with its addresses when it listens. Example: llmsys fair-queue gateway --backend
    http://127.0.0.1:8000 --tenants tenants.toml --listen :8080
    """
    from llmsys.fair_queue import gateway as proxy

    identity = proxy.parse_identity(tenant_from, allow_anonymous=allow_anonymous, trust_header=trust_header)
    settings = proxy.Settings(
        backends=tuple(backend),
        front=proxy.FrontSettings(identity, default_max_tokens, proxy.secret_from(backend_key_env)),
        listen=proxy.parse_endpoint(listen),
        admin=proxy.parse_endpoint(admin),
        policy=policy,
        window=proxy.parse_window(window),
        tenants=tenants,
        queue=proxy.QueueLimits(max_queue, max_queue_total, queue_timeout),
        sync_s=sync_ms / 1000,
        drain_s=drain_timeout,
        max_body=proxy.parse_size(max_body),
        insecure=insecure,
    )
    proxy.check_workers(workers, settings.listen.port)

    def work(number: int, counters: proxy.Store) -> None:
        own, log = proxy.of_worker(settings, number), proxy.file_of_worker(events, number)
        estimator = proxy.PromptEstimator(tokenizer)
        with records_out(flush_each=True) as out:
            proxy.serve(own, counters, estimator, events=log, log_every=log_every, ready=out.write, say=note)

    _run_workers(workers, work, partial(proxy.open_store, state, reset=state_reset), apart=proxy.is_redis(state))


def _run_workers(count: int, work: "Callable[[int, Store], None]", kept: "Callable[[], Store]", *, apart: bool) -> None:
    """Give each worker its way to the counters: the store itself where it is alone or they are apart, else an owner."""
    from llmsys.fair_queue import gateway as proxy

    if count == 1 or apart:
        proxy.run_workers(count, lambda number: work(number, kept()), note)
        return
    with proxy.OwnerSocket() as socket:
        proxy.run_workers(
            count,
            lambda number: work(number, proxy.OwnerStore(socket.path)),
            note,
            owner=lambda: proxy.serve_counters(socket.listening, kept),
        )


@app.command()
def hash_key() -> None:
    """Print what the tenants file holds in place of an API key; the key is one line on stdin.

    Example: printf %s "$KEY" | llmsys fair-queue gateway hash-key
    """
    from llmsys.errors import BadInput
    from llmsys.fair_queue.gateway import hash_key as hashed

    key = sys.stdin.readline().rstrip("\r\n")
    if not key:
        raise BadInput("<stdin>:1", "an empty key", "the API key on one line")
    typer.echo(hashed(key))
