"""Which points to label, with which weights, and the fit: active learning with a nearly orthogonal basis."""

from llmsys.al_sample.bases import MAX_COLUMNS, Basis, BasisSpec, resolve_basis
from llmsys.al_sample.bench import BenchResult, BenchRow, LabelsToTarget, compare_methods, labels_to_target, run_bench
from llmsys.al_sample.bss import BSS, Draws, gamma_of_budget, gamma_of_eps, run_bss
from llmsys.al_sample.certificate import Certificate, certify, certify_lines, sampled_eigenvalues
from llmsys.al_sample.design import Design, design_of
from llmsys.al_sample.errors import BudgetTooSmall, OracleDied, RankDeficient
from llmsys.al_sample.excess import Excess, estimate_excess, left_out_changes
from llmsys.al_sample.frames import (
    Frame,
    Scores,
    frame_from_factor,
    frame_of,
    leverage,
    near_frame,
    ridge_frame,
    score_points,
    triangular_factor,
)
from llmsys.al_sample.journal import Journal, RunKey
from llmsys.al_sample.lewis import lewis_residual, lewis_weights
from llmsys.al_sample.loop import ActiveLoop, Goal, Progress, parse_until
from llmsys.al_sample.model import Fit, Model, Prediction, fit_labels, open_model, predict, write_model
from llmsys.al_sample.nearness import NEARLY, Nearness, measure_nearness, nearness_of_gram
from llmsys.al_sample.oracle import Answer, Oracle
from llmsys.al_sample.pivotal import bernoulli, marginals, pivotal, settle, tree_order
from llmsys.al_sample.pools import Pool, open_pool, pool_of, read_column
from llmsys.al_sample.records import (
    LabelLine,
    Labels,
    SelectionLine,
    read_excluded,
    read_labels,
    read_selection,
    selection_lines,
)
from llmsys.al_sample.runs import FitSummary, SelectionSummary, run_fit, run_loop, run_selection, save_fit
from llmsys.al_sample.selection import METHODS, Method, Selection, parse_method, select
from llmsys.al_sample.session import (
    LEVERAGE_ENOUGH,
    BasisReport,
    budget_of_eps,
    choose_frame,
    column_names,
    open_design,
    report_basis,
)
from llmsys.al_sample.solving import Loss, Solution, parse_loss, solve, solve_logistic, solve_squares

__all__ = [
    "BSS",
    "LEVERAGE_ENOUGH",
    "MAX_COLUMNS",
    "METHODS",
    "NEARLY",
    "ActiveLoop",
    "Answer",
    "Basis",
    "BasisReport",
    "BasisSpec",
    "BenchResult",
    "BenchRow",
    "BudgetTooSmall",
    "Certificate",
    "Design",
    "Draws",
    "Excess",
    "Fit",
    "FitSummary",
    "Frame",
    "Goal",
    "Journal",
    "LabelLine",
    "Labels",
    "LabelsToTarget",
    "Loss",
    "Method",
    "Model",
    "Nearness",
    "Oracle",
    "OracleDied",
    "Pool",
    "Prediction",
    "Progress",
    "RankDeficient",
    "RunKey",
    "Scores",
    "Selection",
    "SelectionLine",
    "SelectionSummary",
    "Solution",
    "bernoulli",
    "budget_of_eps",
    "certify",
    "certify_lines",
    "choose_frame",
    "column_names",
    "compare_methods",
    "design_of",
    "estimate_excess",
    "fit_labels",
    "frame_from_factor",
    "frame_of",
    "gamma_of_budget",
    "gamma_of_eps",
    "labels_to_target",
    "left_out_changes",
    "leverage",
    "lewis_residual",
    "lewis_weights",
    "marginals",
    "measure_nearness",
    "near_frame",
    "nearness_of_gram",
    "open_design",
    "open_model",
    "open_pool",
    "parse_loss",
    "parse_method",
    "parse_until",
    "pivotal",
    "pool_of",
    "predict",
    "read_column",
    "read_excluded",
    "read_labels",
    "read_selection",
    "report_basis",
    "resolve_basis",
    "ridge_frame",
    "run_bench",
    "run_bss",
    "run_fit",
    "run_loop",
    "run_selection",
    "sampled_eigenvalues",
    "save_fit",
    "score_points",
    "select",
    "selection_lines",
    "settle",
    "solve",
    "solve_logistic",
    "solve_squares",
    "tree_order",
    "triangular_factor",
    "write_model",
]
