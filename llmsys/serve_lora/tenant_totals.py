"""What each tenant got out of a run: requests, tokens, waiting, device seconds and their price.

Fed by counts and times; knows nothing of engines or tables.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmsys.serve_lora.prices import PriceList

__all__ = ["TenantTotals", "Totals", "quantile"]


@dataclass(slots=True)
class TenantTotals:
    """One tenant's sums; `ttft_s` holds each request's time from arrival to its first token."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    device_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list)


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least a share `q` of the values do not exceed; None of nothing.

    >>> quantile([3.0, 1.0, 2.0, 4.0], 0.5)
    2.0
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)), 1) - 1]


class Totals:
    """Sums per tenant, and rows of them for a table."""

    def __init__(self) -> None:
        self._of: dict[str, TenantTotals] = {}

    def of(self, tenant: str) -> TenantTotals:
        """The sums of a tenant, zero at first."""
        return self._of.setdefault(tenant, TenantTotals())

    def table(self, prices: PriceList) -> list[dict[str, str | int | float | None]]:
        """The rows with short headings: tokens in and out, seconds to the first token, share and cost."""
        return [
            {
                "tenant": row["tenant"],
                "requests": row["requests"],
                "failed": row["failed"],
                "prompt": row["prompt_tokens"],
                "output": row["output_tokens"],
                "ttft p50": row["ttft_p50_s"],
                "ttft p95": row["ttft_p95_s"],
                "share": row["share"],
                "cost": row["cost"],
            }
            for row in self.rows(prices)
        ]

    def rows(self, prices: PriceList) -> list[dict[str, str | int | float | None]]:
        """One row per tenant in order of name; `share` is of the device seconds charged, `cost` in the currency."""
        charged = math.fsum(sums.device_s for sums in self._of.values())
        return [
            {
                "tenant": tenant,
                "requests": sums.requests,
                "failed": sums.failed,
                "prompt_tokens": sums.prompt_tokens,
                "cached_tokens": sums.cached_tokens,
                "output_tokens": sums.output_tokens,
                "ttft_p50_s": quantile(sums.ttft_s, 0.5),
                "ttft_p95_s": quantile(sums.ttft_s, 0.95),
                "share": sums.device_s / charged if charged > 0 else 0.0,
                "cost": prices.of_device(sums.device_s),
            }
            for tenant, sums in sorted(self._of.items())
        ]
