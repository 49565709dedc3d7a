"""Many LoRA adapters on one base model, in one batch: batches of requests, adapters, and what each tenant cost."""

from llmsys.serve_lora.adapter_check import AdapterReport, check_adapters
from llmsys.serve_lora.adapter_convert import gguf_to_peft, peft_to_gguf
from llmsys.serve_lora.adapter_making import Lesson, make_adapter
from llmsys.serve_lora.adapter_merge import merge_adapter
from llmsys.serve_lora.adapter_training import ALL_TARGETS, TrainingPlan
from llmsys.serve_lora.batch_files import adapter_paths, finished_ids
from llmsys.serve_lora.batch_run import in_order
from llmsys.serve_lora.batch_session import BatchSession, Records, RunSettings, open_session
from llmsys.serve_lora.cost_report import CostReport, read_ledger, report_cost
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.prices import PriceList, read_prices
from llmsys.serve_lora.step_cost import StepModel, StepRow, split_step
from llmsys.serve_lora.tasks import TASKS, Task

__all__ = [
    "ALL_TARGETS",
    "TASKS",
    "AdapterReport",
    "BatchSession",
    "CostReport",
    "Ledger",
    "Lesson",
    "PriceList",
    "Records",
    "RunSettings",
    "StepModel",
    "StepRow",
    "Task",
    "TrainingPlan",
    "adapter_paths",
    "check_adapters",
    "finished_ids",
    "gguf_to_peft",
    "in_order",
    "make_adapter",
    "merge_adapter",
    "open_session",
    "peft_to_gguf",
    "read_ledger",
    "read_prices",
    "report_cost",
    "split_step",
]
