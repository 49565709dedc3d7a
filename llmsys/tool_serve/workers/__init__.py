"""Processes that work for one call and are then thrown away."""

from llmsys.tool_serve.workers.pool import WorkerPool
from llmsys.tool_serve.workers.worker import PYTHON, SHELL, Worker

__all__ = ["PYTHON", "SHELL", "Worker", "WorkerPool"]
