"""What a replica is told to be, and what it says once it is: one JSON line each way.

Knows nothing of processes.
"""

import time
from pathlib import Path

import msgspec

from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.settings import EngineSettings, Recording, ServerSettings

__all__ = ["ReplicaSpec", "Started"]

MANY = 1 << 30
"""A replica's own queue is as good as unbounded: its gateway's is not."""


class ReplicaSpec(msgspec.Struct, frozen=True):
    """One replica's settings. address: where to listen, port 0 being any; secret: what its gateway says first.

    ledger: the file of all replicas, from which each makes its own by its number. told_unix_s: since when its
    machine time counts.
    """

    model: str
    device: str
    dtype: str
    seed: int
    threads: int
    max_sequences: int
    max_batch_tokens: int | None
    lora_slots: int
    lora_rank_max: int
    kv_memory_bytes: int | None
    host_adapters_bytes: int
    ledger: str | None
    prices: PriceList
    secret: str
    number: int = 0
    told_unix_s: float = 0.0
    address: str = "127.0.0.1:0"

    @classmethod
    def of(cls, settings: ServerSettings, *, threads: int, secret: str) -> "ReplicaSpec":
        """What the replicas of a server share."""
        engine = settings.engine
        return cls(
            model=settings.model,
            device=engine.device,
            dtype=engine.dtype,
            seed=engine.seed,
            threads=threads,
            max_sequences=engine.max_sequences,
            max_batch_tokens=engine.max_batch_tokens,
            lora_slots=engine.lora_slots,
            lora_rank_max=engine.lora_rank_max,
            kv_memory_bytes=engine.kv_memory_bytes,
            host_adapters_bytes=engine.host_adapters_bytes,
            ledger=str(settings.records.ledger) if settings.records.ledger is not None else None,
            prices=settings.records.prices,
            secret=secret,
        )

    def numbered(self, number: int, *, address: str) -> "ReplicaSpec":
        """One replica's own, told now."""
        return msgspec.structs.replace(self, number=number, address=address, told_unix_s=time.time())

    def settings(self) -> ServerSettings:
        """The settings that an engine is loaded with; who goes first is the gateway's business."""
        engine = EngineSettings(
            *(self.device, self.dtype, self.seed, self.max_sequences, self.max_batch_tokens, self.lora_slots),
            *(self.lora_rank_max, MANY, self.kv_memory_bytes, self.host_adapters_bytes),
        )
        records = Recording(ledger=self.own_ledger(), prices=self.prices)
        return ServerSettings(self.model, engine=engine, records=records)

    def own_ledger(self) -> Path | None:
        """The replica's ledger: day.jsonl of number 3 is day.0003.jsonl."""
        if self.ledger is None:
            return None
        path = Path(self.ledger)
        return path.with_name(f"{path.stem}.{self.number:04d}{path.suffix}")


class Started(msgspec.Struct, frozen=True):
    """A replica's answer: where it listens, or its fault with the exit code that it means."""

    address: str = ""
    fault: str = ""
    exit_code: int = 0
