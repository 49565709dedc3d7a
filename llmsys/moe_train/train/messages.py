"""What the supervisor and its workers say to each other: JSON over a pipe, one message a frame. Knows no transport."""

import msgspec

__all__ = [
    "Assign",
    "Beat",
    "End",
    "Failed",
    "FaultHit",
    "Finished",
    "Go",
    "Hello",
    "Interrupt",
    "Order",
    "Pause",
    "Paused",
    "Ready",
    "Report",
    "Saved",
    "Seal",
    "Sealed",
    "StepReport",
    "Stepped",
    "Stopped",
    "Trouble",
    "decode_order",
    "decode_report",
    "encode_message",
]


class StepReport(msgspec.Struct, frozen=True):
    """One decided step: the loss over all tokens, what was skipped, and the traffic of all ranks.

    `counts` [mixtures, experts] copies per expert; `moved` of them were computed on another rank than their own;
    `balance` Σ_l max / Σ_l mean copies per rank.
    """

    step: int
    loss: float
    balance_loss: float
    tokens: int
    workers: int
    skipped: bool
    moved: int
    balance: float
    counts: list[list[int]]


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker has loaded what it needs and waits."""


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A worker's process runs."""


class FaultHit(msgspec.Struct, frozen=True, tag=True):
    """A worker is about to do to itself what the fault list says."""

    step: int
    site: str
    kind: str


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """An operation of this epoch failed; the worker waits for orders."""

    epoch: int


class Paused(msgspec.Struct, frozen=True, tag=True):
    """The worker stands between two steps, as asked; so do all others, after the same step."""

    epoch: int


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """The answer to Interrupt: how far this worker is and which experts it holds, per mixture.

    `decided`: steps whose vote it knows, -1 without a model; `report` of the last of them.
    """

    epoch: int
    decided: int
    holdings: list[list[int]]
    report: StepReport | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Group built and state in place: seconds of each."""

    epoch: int
    group_s: float
    transfer_s: float


class Stepped(msgspec.Struct, frozen=True, tag=True):
    """A decided step, from the lowest rank."""

    report: StepReport


class Saved(msgspec.Struct, frozen=True, tag=True):
    """A worker's part of a checkpoint lies in the staging directory; `fault` says why not."""

    step: int
    epoch: int
    applied: int
    fault: str | None


class Sealed(msgspec.Struct, frozen=True, tag=True):
    """A checkpoint is in place; `fault` says why not."""

    step: int
    seconds: float
    fault: str | None


class Finished(msgspec.Struct, frozen=True, tag=True):
    """All steps are decided."""

    epoch: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot go on, and why. It ends by itself."""

    reason: str


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """Epoch `epoch` begins: leave everything of older ones and answer Stopped."""

    epoch: int


class Assign(msgspec.Struct, frozen=True, tag=True):
    """Build the group of `members`, bring the state to where it stands after `decided` steps, answer Ready.

    `columns` [mixtures][N][slots] experts of the N workers `holders` (members beyond them hold none); `splits`
    [mixtures][E][N] their shares. `moves`: (mixture, expert, source, target). `newcomers` get what all hold from
    `source`. `skipped`: the last decided step was not applied. `restore`: start from this checkpoint, "" from scratch.
    """

    epoch: int
    members: list[int]
    holders: list[int]
    columns: list[list[list[int]]]
    splits: list[list[list[float]]]
    moves: list[tuple[int, int, int, int]]
    decided: int
    skipped: bool
    source: int
    newcomers: list[int]
    restore: str | None


class Go(msgspec.Struct, frozen=True, tag=True):
    """Everyone is ready: drop what the plan gives to others, and train."""

    epoch: int


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Stop together with all others after the next vote that says so."""


class Seal(msgspec.Struct, frozen=True, tag=True):
    """All parts of a checkpoint are there: put it in place. `applied`: optimizer steps of its state."""

    step: int
    epoch: int
    applied: int


class End(msgspec.Struct, frozen=True, tag=True):
    """Leave."""


Report = Hello | Beat | FaultHit | Trouble | Paused | Stopped | Ready | Stepped | Saved | Sealed | Finished | Failed
Order = Interrupt | Assign | Go | Pause | Seal | End

_reports: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def encode_message(message: Report | Order) -> bytes:
    """A message as it travels."""
    return msgspec.json.encode(message)


def decode_report(frame: bytes) -> Report:
    """A worker's message."""
    return _reports.decode(frame)


def decode_order(frame: bytes) -> Order:
    """The supervisor's message."""
    return _orders.decode(frame)
