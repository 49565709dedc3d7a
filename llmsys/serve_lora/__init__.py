"""Many LoRA adapters on one base model, in one batch: batches of requests, adapters, and what each tenant cost."""

from llmsys.serve_lora.adapter_check import AdapterReport, check_adapters, raise_first_fault
from llmsys.serve_lora.adapter_convert import convert_adapter
from llmsys.serve_lora.adapter_files import find_adapters
from llmsys.serve_lora.adapter_making import Lesson, make_adapter
from llmsys.serve_lora.adapter_merge import merge_adapter
from llmsys.serve_lora.adapter_training import ALL_TARGETS, TrainingPlan
from llmsys.serve_lora.answers import PromptAnswers, answers_by_prompt
from llmsys.serve_lora.batch_files import adapter_paths, finished_ids, pending_lines
from llmsys.serve_lora.batch_session import BatchSession, Records, RunSettings, open_session
from llmsys.serve_lora.cost_report import CostReport, read_ledger, report_cost
from llmsys.serve_lora.engine_bench import BenchPlan, BenchRow, EngineBench, bench_plan
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.prices import PriceList, read_prices
from llmsys.serve_lora.prompts import read_prompts
from llmsys.serve_lora.quality import QualityRow, measure_quality, taught_tasks
from llmsys.serve_lora.run_book import RunBook
from llmsys.serve_lora.step_cost import StepModel, StepRow, split_step
from llmsys.serve_lora.tasks import TASKS, Task

__all__ = [
    "ALL_TARGETS",
    "TASKS",
    "AdapterReport",
    "BatchSession",
    "BenchPlan",
    "BenchRow",
    "CostReport",
    "EngineBench",
    "Ledger",
    "Lesson",
    "PriceList",
    "PromptAnswers",
    "QualityRow",
    "Records",
    "RunBook",
    "RunSettings",
    "StepModel",
    "StepRow",
    "Task",
    "TrainingPlan",
    "adapter_paths",
    "answers_by_prompt",
    "bench_plan",
    "check_adapters",
    "convert_adapter",
    "find_adapters",
    "finished_ids",
    "make_adapter",
    "measure_quality",
    "merge_adapter",
    "open_session",
    "pending_lines",
    "raise_first_fault",
    "read_ledger",
    "read_prices",
    "read_prompts",
    "report_cost",
    "split_step",
    "taught_tasks",
]
