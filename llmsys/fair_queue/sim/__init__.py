"""Discrete-event simulation of a server that batches requests of many tenants."""

from llmsys.fair_queue.sim.hardware import HARDWARE, Hardware, load_hardware
from llmsys.fair_queue.sim.machine import RESERVES, Machine, peak_tokens
from llmsys.fair_queue.sim.reference import simulate_stepwise
from llmsys.fair_queue.sim.result import Result, Workload, workload_of

__all__ = [
    "HARDWARE",
    "RESERVES",
    "Hardware",
    "Machine",
    "Result",
    "Workload",
    "load_hardware",
    "peak_tokens",
    "simulate_stepwise",
    "workload_of",
]
