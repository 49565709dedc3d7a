"""Every setting of one server, checked when it is made.

Knows nothing of how they are used.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmsys.engine.config import EngineConfig
from llmsys.engine.policy import FirstComeFirstServed, Policy
from llmsys.errors import UsageFault
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.tenants import TenantTable

if TYPE_CHECKING:
    from llmsys.serve_lora.fleet.settings import FleetSettings

__all__ = ["Access", "Address", "EngineSettings", "Recording", "ServerSettings"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket, or else a host and a port (0 is any free one)."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine's part: where and how it computes, and how much at once; `max_queue` requests may wait.

    kv_memory_bytes: of keys and values, None is a quarter of the free memory. host_adapters_bytes: of checked adapters
    in memory beside the slots.
    """

    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    max_sequences: int = 64
    max_batch_tokens: int | None = None
    lora_slots: int = 32
    lora_rank_max: int = 64
    max_queue: int = 1024
    kv_memory_bytes: int | None = None
    host_adapters_bytes: int = 2 << 30
    policy: Policy = field(default_factory=FirstComeFirstServed)

    def config(self) -> EngineConfig:
        """The same in the engine's terms; a server never extends a request that has ended."""
        return EngineConfig(
            device=self.device,
            dtype=self.dtype,
            seed=self.seed,
            max_sequences=self.max_sequences,
            max_batch_tokens=self.max_batch_tokens,
            max_waiting=self.max_queue,
            max_finished=0,
            kv_memory_bytes=self.kv_memory_bytes,
            lora_slots=self.lora_slots,
            lora_rank_max=self.lora_rank_max,
            policy=self.policy,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask for what. runtime_adapters: requests load and unload; insecure: others need no key either."""

    tenants: TenantTable = field(default_factory=TenantTable)
    runtime_adapters: bool = False
    isolate_prefix: bool = False
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Recording:
    """What a server tells of itself. metrics_tenants: tenants with labels of their own, the rest being "other".

    cost_header: whether whole answers say what they cost.
    """

    ledger: Path | None = None
    prices: PriceList = field(default_factory=PriceList)
    metrics_prefix: str = "llmsys:"
    metrics_tenants: int = 200
    cost_header: bool = False


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """A server: its model and adapters, its limits, who may ask, and what it records.

    pins: adapters that keep their slots from the start. drain_s: seconds that running requests get after a stop
    signal. fleet: replicas, None for one engine in this process. max_body_bytes: largest request.
    """

    model: str = "smollm2"
    address: Address = field(default_factory=Address)
    adapters: Path | None = None
    named: Mapping[str, Path] = field(default_factory=dict)
    pins: Sequence[str] = ()
    engine: EngineSettings = field(default_factory=EngineSettings)
    access: Access = field(default_factory=Access)
    records: Recording = field(default_factory=Recording)
    drain_s: float = 30.0
    fleet: "FleetSettings | None" = None
    max_body_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if not (self.address.is_local or self.access.tenants.by_digest or self.access.insecure):
            raise UsageFault(
                f"--host {self.address.host} lets other machines in without a key; "
                "give --tenants FILE, set LLMSYS_API_KEY, or say --insecure"
            )
        if len(self.pins) >= self.engine.lora_slots:
            raise UsageFault(f"--pin is given {len(self.pins)} times; expected fewer than --lora-slots")
        if self.adapters is not None and not self.adapters.is_dir():
            raise UsageFault(f"--adapters {self.adapters} is no directory")
