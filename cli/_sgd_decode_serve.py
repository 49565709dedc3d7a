"""`llmsys sgd-decode serve`: options in, a server until a signal."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import Device, DType, Quiet, Seed
from llmsys.cli._sgd_decode_options import (
    AnswerTokens,
    Clock,
    Deterministic,
    Escalate,
    EscalateBelow,
    Forward,
    FullPlan,
    Grammar,
    Headings,
    MaxNodes,
    MinGain,
    Mode,
    Model,
    NodeTokens,
    OnFlat,
    Pipeline,
    Planner,
    PromptsFile,
    RouterName,
    Slots,
    SmallModel,
    Temperature,
    Threshold,
    make_settings,
)  # fmt: skip
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.sgd_decode import Backend, DecodeSettings
    from llmsys.sgd_decode.server import Address, ServerSettings

__all__ = ["serve"]


def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without a key.")] = False,
    max_queue: Annotated[int, typer.Option("--max-queue", min=1, help="Open questions; more get 429.")] = 256,
    drain_s: Annotated[float, typer.Option("--drain-s", min=0.0, help="Seconds for open questions at SIGTERM.")] = 30.0,
    mode: Mode = "sgd",
    large: Model = "embedded",
    small: SmallModel = None,
    threshold: Threshold = 2,
    planner: Planner = "large",
    escalate: Escalate = False,
    escalate_below: EscalateBelow = None,
    router: RouterName = "plan",
    max_batch: Slots = 8,
    max_nodes: MaxNodes = 10,
    node_tokens: NodeTokens = None,
    answer_tokens: AnswerTokens = 1024,
    pipeline: Pipeline = True,
    full_plan: FullPlan = "auto",
    forward: Forward = "full",
    min_gain: MinGain = 1.10,
    on_flat: OnFlat = "hint",
    grammar: Grammar = True,
    headings: Headings = False,
    prompts: PromptsFile = None,
    temperature: Temperature = 0.0,
    clock: Clock = "real",
    deterministic: Deterministic = False,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Serve OpenAI chat completions until SIGTERM or Ctrl-C; X-LLMSYS-Mode or body.llmsys.mode chooses the mode.

    Prints a line with its address when ready. Parts stream in order; body.llmsys.stream "parts" sends them as they
    come. A key in LLMSYS_API_KEY is asked of clients. Example: llmsys sgd-decode serve --port 8000 --mode auto
    """
    from llmsys.sgd_decode import open_backend
    from llmsys.sgd_decode.server import Address, check_exposure

    check_exposure(host, os.environ.get("LLMSYS_API_KEY"), insecure=insecure)
    settings = make_settings(
        mode=mode, small=small, threshold=threshold, planner=planner, escalate=escalate,
        escalate_below=escalate_below, forward=forward, prompts=prompts, pipeline=pipeline, full_plan=full_plan,
        grammar=grammar, max_nodes=max_nodes, node_tokens=node_tokens, answer_tokens=answer_tokens, min_gain=min_gain,
        on_flat=on_flat, temperature=temperature, seed=seed, headings=headings,
    )  # fmt: skip
    opened = partial(
        open_backend, large, small=small, slots=max_batch, grammar=grammar, device=device, dtype=dtype, seed=seed,
        deterministic=deterministic, clock=clock,
    )  # fmt: skip
    _launch(opened, settings, large, router, Address(host, port), max_queue=max_queue, drain_s=drain_s)


def _launch(
    opened: "Callable[[], Backend]",
    settings: "DecodeSettings",
    model: str,
    router: str,
    address: "Address",
    *,
    max_queue: int,
    drain_s: float,
) -> None:
    """Serve; the model is loaded once the address is bound."""
    from llmsys.sgd_decode import open_router, with_step_time
    from llmsys.sgd_decode.server import ServerSettings, serve

    deciding, key = open_router(router, settings.prompts), os.environ.get("LLMSYS_API_KEY") or None

    def settled(backend: "Backend") -> "ServerSettings":
        known = with_step_time(settings, backend)
        return ServerSettings(model, known, deciding, key, max_queue=max_queue, drain_s=drain_s)

    with records_out(flush_each=True) as out:
        serve(opened, settled, address, ready=out.write)
