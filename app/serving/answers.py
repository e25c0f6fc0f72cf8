"""What the runtime answers. Rewards are log-odds, as differences from the environment's reference."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.policy import RobustPolicy

Real = NDArray[np.float64]
Int = NDArray[np.int64]

By = Literal["mean", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded:
    """What an answer rests on."""

    model_version: int
    feedback_seen: int
    """How many of the user's own preferences."""


@dataclass(frozen=True, slots=True)
class RewardAnswer:
    reward: float
    """0 is no better than the reference, 1 is chosen 73% of the time over it."""
    stderr: float
    lower: float
    upper: float
    """An interval for this reward alone, at the environment's confidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardsAnswer(Grounded):
    rewards: tuple[RewardAnswer, ...]
    """One an option, in their order."""


@dataclass(frozen=True, slots=True)
class RankedOption:
    index: int | None
    """Where the option stood in the request; None for an item of the ranked catalogue."""
    item: str | None
    """The id of a catalogue's item."""
    reward: RewardAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAnswer(Grounded):
    by: By
    ranking: tuple[RankedOption, ...]
    """Best first; of equals, the one that was given first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedAnswer(Grounded):
    """A plan's worth over the reference policy, in log-odds summed over the horizon."""

    confidence: float
    """Of the set of rewards that the worst case is taken over; 0 trusts the estimate."""
    lower: float
    """Certified: what the plan is worth against the worst reward of the set."""
    upper: float
    """No plan is worth more against the worst reward of the set."""
    nominal: float
    """What the plan is worth at the estimated rewards."""
    greedy_nominal: float
    """The most that any plan is worth at the estimated rewards."""
    greedy_lower: float
    """What the plan that reaches it is worth against its own worst reward of the set."""
    beta: float
    """Radius of the set, in standard errors."""
    converged: bool
    reason: str

    @property
    def gap(self) -> float:
        return self.upper - self.lower


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PolicyAnswer(CertifiedAnswer):
    states: tuple[str, ...]
    actions: tuple[str, ...]
    """For a catalogue, its items' ids."""
    policy: Real
    """(H, S, A) probabilities."""
    greedy: Int
    """(H, S) the likeliest action."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ActionAnswer(CertifiedAnswer):
    state: str
    step: int
    planned_from: Literal["start", "state"]
    """`state`: the plan from the start never comes here at this step, so what remains was planned from here; the bounds
    are those of what remains."""
    actions: tuple[str, ...]
    distribution: Real
    """(A,)"""
    greedy: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Query:
    first: dict[str, Any]
    """An option, as preferences take it."""
    second: dict[str, Any]
    information: float
    """What the answer is expected to tell about this user's rewards, in nats."""
    probability: float
    """That `first` is preferred, as believed now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueriesAnswer(Grounded):
    queries: tuple[Query, ...]
    """Most informative first; fewer than asked for when fewer are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSummary(Grounded):
    rank: int
    """Directions that users may differ along."""
    converged: bool
    iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A robust policy beside the policy that is best at the estimated rewards."""

    robust: RobustPolicy
    confidence: float
    greedy_nominal: float
    greedy_lower: float
    states: tuple[str, ...]
    actions: tuple[str, ...]
