"""What a server measures, in Prometheus' names; vLLM's names where the meaning is the same.

Counters and histograms are fed by the requests, gauges are read from the engine when somebody looks. The number of
tenants and adapters with labels of their own is bounded. Knows nothing of HTTP.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from llmsys.serve_lora.fleet.facts import FleetFacts
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.backend import Backend

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
FIRST_TOKEN_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
BETWEEN_TOKENS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0)
WHOLE_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """One server's metrics; `label` gives a tenant's label, "other" past the bound."""

    def __init__(self, prefix: str, *, tenants_max: int, prices: PriceList) -> None:
        self.registry = CollectorRegistry()
        self.prefix = prefix
        self.prices = prices
        self._tenants_max = tenants_max
        self._tenants: set[str] = set()
        registry = self.registry
        self.requests = Counter(
            f"{prefix}requests", "Requests by tenant and HTTP status.", ["tenant", "status"], registry=registry
        )
        self.left = Counter(f"{prefix}clients_left", "Requests whose client left before the end.", registry=registry)
        self.first_token = Histogram(
            f"{prefix}time_to_first_token_seconds", "Arrival to first token.", buckets=FIRST_TOKEN_S, registry=registry
        )
        self.between_tokens = Histogram(
            f"{prefix}inter_token_latency_seconds", "Token to token.", buckets=BETWEEN_TOKENS_S, registry=registry
        )
        self.whole = Histogram(
            f"{prefix}e2e_request_latency_seconds", "Arrival to last token.", buckets=WHOLE_S, registry=registry
        )

    def label(self, tenant: str) -> str:
        """The tenant's label."""
        if tenant not in self._tenants and len(self._tenants) < self._tenants_max:
            self._tenants.add(tenant)
        return tenant if tenant in self._tenants else OTHER

    def watch(self, backend: Backend) -> None:
        """From now on report the engine's gauges too."""
        self.registry.register(_EngineGauges(self, backend))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _of_fleet(prefix: str, facts: FleetFacts) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """How many replicas there are, what became of others, and how long the last start took by stage."""
    yield GaugeMetricFamily(f"{prefix}replicas", "Replicas that answer.", value=len(facts.replicas))
    yield CounterMetricFamily(f"{prefix}replica_starts", "Replicas started.", value=facts.starts)
    yield CounterMetricFamily(f"{prefix}replica_losses", "Replicas lost.", value=facts.losses)
    yield CounterMetricFamily(f"{prefix}request_moves", "Requests moved by consolidation.", value=facts.moves)
    stages = GaugeMetricFamily(f"{prefix}replica_start_seconds", "The last start by stage.", labels=["stage"])
    for stage, seconds in facts.stages_s.items():
        stages.add_metric([stage], seconds)
    yield stages


class _EngineGauges(Collector):
    """Reads the engine at every scrape; it takes no lock."""

    def __init__(self, metrics: Metrics, backend: Backend) -> None:
        self._metrics = metrics
        self._backend = backend

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing beforehand: names appear with their values."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The engine's state now."""
        prefix, stats = self._metrics.prefix, self._backend.door.stats()
        gauges = {
            "num_requests_running": ("Sequences in the batch.", stats.running),
            "num_requests_waiting": ("Requests that wait to be admitted.", stats.waiting),
            "kv_cache_usage_perc": ("Share of key-value blocks held.", stats.blocks.referenced / stats.blocks.total),
            "kv_blocks_referenced": ("Key-value blocks held by running sequences.", stats.blocks.referenced),
            "adapter_references": ("Slots held, counted per sequence.", self._backend.pool.references()),
        }
        counters = {
            "prompt_tokens": ("Prompt tokens admitted.", stats.prompt_tokens),
            "prefix_cache_hits": ("Prompt tokens that were not computed again.", stats.cached_tokens),
            "generation_tokens": ("Tokens generated.", stats.output_tokens),
            "num_preemptions": ("Sequences computed again for want of memory.", stats.preemptions),
            "engine_steps": ("Steps of the engine.", stats.steps),
            "adapter_reads": ("Adapters read from disk.", self._backend.shelf.reads),
            "adapter_late_reads": (
                "Adapters for which a step had to wait for the disk.",
                self._backend.shelf.late_reads,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(prefix + name, text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(prefix + name, text, value=value)
        yield from self._by_adapter()
        yield self._cost()
        if self._backend.fleet is not None:
            yield from _of_fleet(prefix, self._backend.fleet.facts())

    def _by_adapter(self) -> Iterator[GaugeMetricFamily]:
        prefix = self._metrics.prefix
        running = GaugeMetricFamily(
            f"{prefix}num_lora_requests_running", "Sequences in the batch by adapter.", labels=["adapter"]
        )
        for name, count in self._backend.door.stats().adapters.items():
            running.add_metric([name], count)
        yield running
        residency = GaugeMetricFamily(
            f"{prefix}adapter_residency", "1 for every adapter that holds a slot.", labels=["adapter", "tier"]
        )
        for name in self._backend.pool.resident():
            residency.add_metric([name, "resident"], 1)
        yield residency

    def _cost(self) -> CounterMetricFamily:
        spent: dict[str, float] = {}
        for tenant, seconds in dict(self._backend.meter.device_s).items():
            label = self._metrics.label(tenant)
            spent[label] = spent.get(label, 0.0) + self._metrics.prices.of_device(seconds)
        currency = self._metrics.prices.currency
        family = CounterMetricFamily(
            f"{self._metrics.prefix}tenant_cost", f"Device time charged, in {currency}.", labels=["tenant"]
        )
        for label, cost in sorted(spent.items()):
            family.add_metric([label], cost)
        return family
