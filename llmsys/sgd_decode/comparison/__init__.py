"""The same questions in several modes: what each took, what can be said of the texts, and how sure one can be.

`trials` answers and saves, `intervals` says how sure, `speed` compares seconds per token, `structure` and `fit` measure
texts without judging them, `judging` asks a model which answer is better. Nothing here calls an answer good by itself.
"""

from llmsys.sgd_decode.comparison.fit import Fit, conditional_fit, whole_fit
from llmsys.sgd_decode.comparison.intervals import Interval, mean_interval, ratio_interval, wilson
from llmsys.sgd_decode.comparison.judging import CRITERIA, Verdict, Wins, judge, tally
from llmsys.sgd_decode.comparison.report import Comparison, Measures, Saved, compare, compare_saved, measures_of
from llmsys.sgd_decode.comparison.speed import ModeReport, mode_reports
from llmsys.sgd_decode.comparison.structure import Structure, StructureReport, structure_of, structure_reports
from llmsys.sgd_decode.comparison.trials import Trial, TrialPart, run_trials

__all__ = [
    "CRITERIA",
    "Comparison",
    "Fit",
    "Interval",
    "Measures",
    "ModeReport",
    "Saved",
    "Structure",
    "StructureReport",
    "Trial",
    "TrialPart",
    "Verdict",
    "Wins",
    "compare",
    "compare_saved",
    "conditional_fit",
    "judge",
    "mean_interval",
    "measures_of",
    "mode_reports",
    "ratio_interval",
    "run_trials",
    "structure_of",
    "structure_reports",
    "tally",
    "whole_fit",
    "wilson",
]
