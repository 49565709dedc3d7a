"""Our simulator, filter and step model beside what they replace, in one run."""

from llmsys.fair_queue.bench.order import OrderBench, OrderRow, bench_order
from llmsys.fair_queue.bench.real import RealBench, bench_real
from llmsys.fair_queue.bench.simulate import SimulateRow, bench_simulate, repeated

__all__ = [
    "OrderBench",
    "OrderRow",
    "RealBench",
    "SimulateRow",
    "bench_order",
    "bench_real",
    "bench_simulate",
    "repeated",
]
