"""The gateway's CPU time beside that of other proxies, in one run."""

from llmsys.fair_queue.gateway.bench.rounds import GatewayBench, ProxyCost, run_gateway_bench

__all__ = ["GatewayBench", "ProxyCost", "run_gateway_bench"]
