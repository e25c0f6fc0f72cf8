"""Studies without a server: data set folders, held-out evaluation, simulation with a known truth."""

from app.evaluation.baselines import GlobalModel, PerUserModel, fit_global, fit_per_user
from app.evaluation.coverage import Coverage, catalogue_coverage, mdp_coverage
from app.evaluation.dataset import FEW_SHOT_SIZES, Dataset, InvalidDatasetError, Part, choice_tasks, derive_split
from app.evaluation.figure import draw_simulation
from app.evaluation.folders import read_dataset
from app.evaluation.policies import PolicyStudy, study_policies
from app.evaluation.report import MethodReport, Score, StudyReport, score
from app.evaluation.simulation import Simulation, simulate
from app.evaluation.study import ALL_METHODS, METHODS, PAPER_METHODS, evaluate_dataset

__all__ = [
    "ALL_METHODS",
    "FEW_SHOT_SIZES",
    "METHODS",
    "PAPER_METHODS",
    "Coverage",
    "Dataset",
    "GlobalModel",
    "InvalidDatasetError",
    "MethodReport",
    "Part",
    "PerUserModel",
    "PolicyStudy",
    "Score",
    "Simulation",
    "StudyReport",
    "catalogue_coverage",
    "choice_tasks",
    "derive_split",
    "draw_simulation",
    "evaluate_dataset",
    "fit_global",
    "fit_per_user",
    "mdp_coverage",
    "read_dataset",
    "score",
    "simulate",
    "study_policies",
]
