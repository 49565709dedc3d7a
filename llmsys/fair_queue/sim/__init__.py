"""Discrete-event simulation of a server that batches requests of many tenants."""

from llmsys.fair_queue.sim.calibrate import fit_hardware
from llmsys.fair_queue.sim.fairness import ServiceDifference, accumulated_gap, service_difference
from llmsys.fair_queue.sim.hardware import HARDWARE, Hardware, load_hardware
from llmsys.fair_queue.sim.machine import RESERVES, ROUTES, Machine, peak_tokens
from llmsys.fair_queue.sim.measured import Errors, MeasuredRun, compare_run, read_run
from llmsys.fair_queue.sim.reference import simulate_stepwise
from llmsys.fair_queue.sim.result import Result, Workload, workload_of
from llmsys.fair_queue.sim.run import meta_event, run
from llmsys.fair_queue.sim.summary import Summary, summarize_result, summary_of

__all__ = [
    "HARDWARE",
    "RESERVES",
    "ROUTES",
    "Errors",
    "Hardware",
    "Machine",
    "MeasuredRun",
    "Result",
    "ServiceDifference",
    "Summary",
    "Workload",
    "accumulated_gap",
    "compare_run",
    "fit_hardware",
    "load_hardware",
    "meta_event",
    "peak_tokens",
    "read_run",
    "run",
    "service_difference",
    "simulate_stepwise",
    "summarize_result",
    "summary_of",
    "workload_of",
]
