"""The gateway's numbers for Prometheus: read when scraped, written by prometheus-client.

A tenant is a label value only for the 1000 with most requests; the others are summed as `other`.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmsys.fair_queue.gateway.accounts import OTHER, Account, Accounts, Histogram
from llmsys.fair_queue.gateway.dispatch import Dispatcher
from llmsys.fair_queue.gateway.ledger import Ledger

__all__ = ["MOST_LABELS", "Exposition"]

MOST_LABELS = 1000


class Exposition(Collector):
    """Renders the metrics page."""

    def __init__(self, accounts: Accounts, dispatcher: Dispatcher, ledger: Ledger) -> None:
        self._accounts = accounts
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric, as prometheus-client asks for them."""
        named = _labelled(self._accounts)
        yield from self._per_tenant(named)
        yield _gauge("fair_queue_depth", "Requests that wait.", self._dispatcher.waiting)
        yield _gauge("fair_inflight", "Requests at backends.", self._dispatcher.running)
        yield _gauge("fair_gap", "Greatest less least counter among tenants that wait.", self._ledger.gap())
        yield _gauge("fair_bound", "U_log as far as it has come true, in cost units per weight.", self._ledger.bound)
        yield _histogram("fair_wait_seconds", "Time in the queue.", self._dispatcher.waited)
        yield _histogram("fair_ttft_seconds", "Arrival to the answer's first bytes.", self._dispatcher.ttft)
        refused = CounterMetricFamily("fair_rejected", "Requests refused or dropped.", labels=["reason"])
        for reason, count in self._dispatcher.refused.items():
            refused.add_metric([reason], count)
        yield refused
        window = GaugeMetricFamily("fair_window", "Requests or tokens that may be at a backend.", labels=["backend"])
        up = GaugeMetricFamily("fair_backend_up", "1 if the backend answers.", labels=["backend"])
        for backend in self._dispatcher.backends:
            window.add_metric([backend.address.url], backend.window.limit)
            up.add_metric([backend.address.url], float(backend.up))
        yield window
        yield up

    def _per_tenant(self, named: list[tuple[str, list[Account]]]) -> Iterator[Metric]:
        counters = self._ledger.counters()
        counter = GaugeMetricFamily("fair_counter", "Cost units per weight served.", labels=["tenant"])
        requests = CounterMetricFamily("fair_requests", "Requests queued.", labels=["tenant"])
        service = CounterMetricFamily("fair_service_tokens", "Tokens served.", labels=["tenant", "kind"])
        estimated = CounterMetricFamily("fair_estimated", "Answers without usage: charged by estimate.")
        for name, accounts in named:
            if name in counters:
                counter.add_metric([name], counters[name])
            requests.add_metric([name], sum(one.requests for one in accounts))
            service.add_metric([name, "prompt"], sum(one.prompt_tokens for one in accounts))
            service.add_metric([name, "output"], sum(one.output_tokens for one in accounts))
        estimated.add_metric([], sum(one.estimated for _, accounts in named for one in accounts))
        yield from (counter, requests, service, estimated)


def _labelled(accounts: Accounts) -> list[tuple[str, list[Account]]]:
    """Accounts by label value, those with most requests first."""
    ranked = sorted(accounts, key=lambda one: -one.requests)
    named = [(one.name, [one]) for one in ranked[:MOST_LABELS]]
    rest = [*ranked[MOST_LABELS:], accounts.other]
    if any(one.requests for one in rest):
        named.append((OTHER, rest))
    return named


def _gauge(name: str, help_text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, help_text)
    family.add_metric([], value)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, help_text)
    family.add_metric([], buckets=[(bound, float(n)) for bound, n in histogram.buckets()], sum_value=histogram.total_s)
    return family
