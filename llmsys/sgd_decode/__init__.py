"""An answer as a graph of parts, decoded in parallel (Skeleton Graph Decoding, arXiv 2402.12280).

The model writes a plan: parts, what each needs, how hard it is. Any text becomes a graph (`parse_plan`); parts start
when what they need is written, all in one batch of the engine, and read their parents' texts (`GraphWriter`). Modes to
compare with: one piece (`ar`), Skeleton-of-Thought (`sot`), and graphs without pipelining (`sgd-v1`).
"""

from llmsys.sgd_decode.answers import Answer, Forecast, Part, Question, TokenCount
from llmsys.sgd_decode.auto_writer import AutoWriter, Router
from llmsys.sgd_decode.backends import Backend, Delta, Job
from llmsys.sgd_decode.bench import EngineBench, bench_engine, bench_routers
from llmsys.sgd_decode.bench_plans import PlanBench, PlanRow, bench_plans, read_plans
from llmsys.sgd_decode.calibration import known_step_time, measure_step_time
from llmsys.sgd_decode.confidence import ConfidenceBook
from llmsys.sgd_decode.driver import Decoder, Stuck, Writer, answer_all, writer_for
from llmsys.sgd_decode.engine_backend import EngineBackend
from llmsys.sgd_decode.events import DecodeEvent
from llmsys.sgd_decode.forwarding import Forwarding
from llmsys.sgd_decode.glimpses import AsTheyCome, Glimpse, InOrder, News
from llmsys.sgd_decode.graph_writer import GraphWriter
from llmsys.sgd_decode.http_backend import HttpBackend
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.opening import open_backend, with_step_time
from llmsys.sgd_decode.optimum import optimum_s
from llmsys.sgd_decode.paced_backend import PacedBackend
from llmsys.sgd_decode.pair_backend import PairBackend
from llmsys.sgd_decode.part_desk import PartDesk
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.plan import Node, Plan, clean_title, render
from llmsys.sgd_decode.plan_items import Item, Reading, read_items
from llmsys.sgd_decode.plan_views import VIEWS, view
from llmsys.sgd_decode.prompting import Prompts, strip_control
from llmsys.sgd_decode.records import answer_line, read_questions, write_timeline
from llmsys.sgd_decode.repair import MAX_NODES, parse_plan, repair
from llmsys.sgd_decode.routers import ByLabels, ByModel, ByPlan, Label, Quality, WordModel, cross_validate, open_router
from llmsys.sgd_decode.scheduler import Scheduler
from llmsys.sgd_decode.script_backend import Match, Rule, ScriptBackend, read_script
from llmsys.sgd_decode.session import (
    answer_with_log,
    plan_texts,
    read_text,
    summary_row,
)
from llmsys.sgd_decode.settings import MODES, DecodeSettings, Routing
from llmsys.sgd_decode.simulation import Schedule, Workload, critical_path_tokens, lower_bound_s, simulate
from llmsys.sgd_decode.skeleton_writer import SkeletonWriter
from llmsys.sgd_decode.step_time import StepTime

__all__ = [
    "MAX_NODES",
    "MODES",
    "VIEWS",
    "Answer",
    "AsTheyCome",
    "AutoWriter",
    "Backend",
    "ByLabels",
    "ByModel",
    "ByPlan",
    "ConfidenceBook",
    "DecodeEvent",
    "DecodeSettings",
    "Decoder",
    "Delta",
    "EngineBackend",
    "EngineBench",
    "Forecast",
    "Forwarding",
    "Glimpse",
    "GraphWriter",
    "HttpBackend",
    "InOrder",
    "Item",
    "Job",
    "Label",
    "LengthBook",
    "Match",
    "News",
    "Node",
    "PacedBackend",
    "PairBackend",
    "Part",
    "PartDesk",
    "PlainWriter",
    "Plan",
    "PlanBench",
    "PlanRow",
    "Prompts",
    "Quality",
    "Question",
    "Reading",
    "Router",
    "Routing",
    "Rule",
    "Schedule",
    "Scheduler",
    "ScriptBackend",
    "SkeletonWriter",
    "StepTime",
    "Stuck",
    "TokenCount",
    "WordModel",
    "Workload",
    "Writer",
    "answer_all",
    "answer_line",
    "answer_with_log",
    "bench_engine",
    "bench_plans",
    "bench_routers",
    "clean_title",
    "critical_path_tokens",
    "cross_validate",
    "known_step_time",
    "lower_bound_s",
    "measure_step_time",
    "open_backend",
    "open_router",
    "optimum_s",
    "parse_plan",
    "plan_texts",
    "read_items",
    "read_plans",
    "read_questions",
    "read_script",
    "read_text",
    "render",
    "repair",
    "simulate",
    "strip_control",
    "summary_row",
    "view",
    "with_step_time",
    "write_timeline",
    "writer_for",
]
