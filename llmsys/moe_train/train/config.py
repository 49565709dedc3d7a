"""Everything that a run is given, as one value that its processes pass around. Knows no option's name."""

import msgspec

from llmsys.moe_train.train.shape import ModelShape

__all__ = ["RunConfig", "RunIdentity"]


class RunIdentity(msgspec.Struct, frozen=True):
    """What decides the trajectory: runs of one identity go through the same states, whoever computes them."""

    model: ModelShape
    corpus: str
    seed: int
    dtype: str
    seq: int
    batch: int
    lr: float
    balance_weight: float
    optimizer: str = "adamw"
    grad_codec: str = "none"


class RunConfig(msgspec.Struct, frozen=True):
    """A run. `text`: files and directories, none for the corpus that comes with Python; `out`: where checkpoints go."""

    model: ModelShape = ModelShape()
    text: tuple[str, ...] = ()
    steps: int = 100
    seq: int = 256
    batch: int = 32
    lr: float = 1e-3
    optimizer: str = "adamw"
    grad_codec: str = "none"
    transfer_codec: str = "none"
    balance_weight: float = 0.01
    seed: int = 0
    dtype: str = "float32"
    workers: int = 4
    spares: int = 0
    slots: int = 4
    min_replicas: int = 2
    placement: str = "best"
    split: str = "lp"
    mapping: str = "optimal"
    load_window: int = 200
    rebalance_every: int = 200
    rebalance_at: float = 1.25
    join_wait_s: float = 0.0
    heartbeat_s: float = 1.0
    comm_timeout_s: float = 20.0
    audit_every: int = 100
    on_nan: str = "skip"
    ckpt_every: int = 250
    out: str | None = None
    resume: str | None = None
    faults: str = ""
    loads_out: str | None = None
    threads: int = 1

    def identity(self, corpus: str) -> RunIdentity:
        """What of this run decides its trajectory; `corpus` is the text's digest."""
        return RunIdentity(
            self.model,
            corpus,
            self.seed,
            self.dtype,
            self.seq,
            self.batch,
            self.lr,
            self.balance_weight,
            self.optimizer,
            self.grad_codec,
        )
