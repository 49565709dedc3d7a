"""Training that goes on in the same processes when workers die or join: the run side of `llmsys moe-train`."""

from llmsys.moe_train.train.board import Board
from llmsys.moe_train.train.calibration import bench_calibrate, fit_cost
from llmsys.moe_train.train.checkpoint import Checkpoint, newest_checkpoint, writers
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.config import RunConfig, RunIdentity
from llmsys.moe_train.train.corpus import Corpus, evaluation_text, read_corpus, share, step_windows
from llmsys.moe_train.train.dropout import SampleDropout
from llmsys.moe_train.train.evaluation import Evaluation, evaluate, open_run, whole_state
from llmsys.moe_train.train.experts import ExpertBank, expert_products
from llmsys.moe_train.train.export import export_model, is_mixtral
from llmsys.moe_train.train.faults import SITES, Fault, FaultPoint, faults_text, parse_faults
from llmsys.moe_train.train.gradients import sum_segments
from llmsys.moe_train.train.mixture import MoELayer, StepContext
from llmsys.moe_train.train.model import MoEModel, expert_name, fresh_expert
from llmsys.moe_train.train.nursery import Child, Nursery, serve
from llmsys.moe_train.train.planner import Planner, Transfer, find_transfer
from llmsys.moe_train.train.recover_bench import bench_recover
from llmsys.moe_train.train.request import run_config
from llmsys.moe_train.train.routing import Route, cut_route, exchange, plan_route
from llmsys.moe_train.train.shape import PRESETS, ModelShape, read_shape
from llmsys.moe_train.train.state import OPTIMIZERS, Gradients, TrainingState, expert_numbers, fresh_expert_state
from llmsys.moe_train.train.step import Assignment, Stepper
from llmsys.moe_train.train.supervisor import Event, Supervisor
from llmsys.moe_train.train.timeline import run_spans
from llmsys.moe_train.train.trace_faults import follow_ticks, trace_faults
from llmsys.moe_train.train.train_bench import bench_train
from llmsys.moe_train.train.trainer import Trainer

__all__ = [
    "OPTIMIZERS",
    "PRESETS",
    "SITES",
    "Assignment",
    "Board",
    "Checkpoint",
    "Child",
    "Communicator",
    "Corpus",
    "Evaluation",
    "Event",
    "ExpertBank",
    "Fault",
    "FaultPoint",
    "Gradients",
    "MoELayer",
    "MoEModel",
    "ModelShape",
    "Nursery",
    "Planner",
    "Route",
    "RunConfig",
    "RunIdentity",
    "SampleDropout",
    "StepContext",
    "Stepper",
    "Supervisor",
    "Trainer",
    "TrainingState",
    "Transfer",
    "bench_calibrate",
    "bench_recover",
    "bench_train",
    "cut_route",
    "evaluate",
    "evaluation_text",
    "exchange",
    "expert_name",
    "expert_numbers",
    "expert_products",
    "export_model",
    "faults_text",
    "find_transfer",
    "fit_cost",
    "follow_ticks",
    "fresh_expert",
    "fresh_expert_state",
    "is_mixtral",
    "newest_checkpoint",
    "open_run",
    "parse_faults",
    "plan_route",
    "read_corpus",
    "read_shape",
    "run_config",
    "run_spans",
    "serve",
    "share",
    "step_windows",
    "sum_segments",
    "trace_faults",
    "whole_state",
    "writers",
]
