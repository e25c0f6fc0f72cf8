"""Finite-horizon tabular MDPs and the certified robust planner; NumPy and SciPy only."""

from app.policy.induction import Induction, backward_induction
from app.policy.mdp import FiniteHorizonMDP, InvalidMdpError
from app.policy.occupancy import occupancy, policy_of, reference_from_trajectories, sample_action
from app.policy.robust import RobustPolicy, robust_policy
from app.policy.search import PlanProgress

__all__ = [
    "FiniteHorizonMDP",
    "Induction",
    "InvalidMdpError",
    "PlanProgress",
    "RobustPolicy",
    "backward_induction",
    "occupancy",
    "policy_of",
    "reference_from_trajectories",
    "robust_policy",
    "sample_action",
]
