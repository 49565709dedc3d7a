"""Many LoRA adapters on one base model, in one batch: batches of requests, adapters, and what each tenant cost.

Exported here is what runs without torch: the ledger and its reports, prices, tasks, answers side by side. A batch runs
through `batch_session`; adapters are made, checked, merged and converted by the `adapter_*` modules, and measured by
`quality` and `engine_bench`.
"""

from llmsys.serve_lora.answers import PromptAnswers, answers_by_prompt
from llmsys.serve_lora.cost_report import CostReport, read_ledger, read_ledgers, report_cost
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.prices import PriceList, read_prices
from llmsys.serve_lora.step_cost import StepModel, StepRow, split_step
from llmsys.serve_lora.tasks import TASKS, Task

__all__ = [
    "TASKS",
    "CostReport",
    "Ledger",
    "PriceList",
    "PromptAnswers",
    "StepModel",
    "StepRow",
    "Task",
    "answers_by_prompt",
    "read_ledger",
    "read_ledgers",
    "read_prices",
    "report_cost",
    "split_step",
]
