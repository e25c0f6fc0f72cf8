"""Finite-horizon tabular MDPs and the certified robust planner; NumPy, SciPy and Numba only."""

from app.policy.factors import FullSpace
from app.policy.induction import Induction, backward_induction
from app.policy.mdp import FiniteHorizonMDP, InvalidMdpError
from app.policy.occupancy import occupancy, policy_of, reference_from_trajectories, sample_action
from app.policy.preparation import prepare
from app.policy.robust import RobustPolicy, robust_policy
from app.policy.search import PlanProgress
from app.policy.sets import LevelSet, logistic_level_set
from app.policy.slates import RobustSlate, robust_slate

__all__ = [
    "FiniteHorizonMDP",
    "FullSpace",
    "Induction",
    "InvalidMdpError",
    "LevelSet",
    "PlanProgress",
    "RobustPolicy",
    "RobustSlate",
    "backward_induction",
    "logistic_level_set",
    "occupancy",
    "policy_of",
    "prepare",
    "reference_from_trajectories",
    "robust_policy",
    "robust_slate",
    "sample_action",
]
