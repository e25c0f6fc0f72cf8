"""What the runtime answers. Rewards are log-odds, as differences from the environment's reference."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.doubt import SetKind
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
class Replay:
    """An answer to be given again, by what it named."""

    model_version: int
    feedback_seen: int


@dataclass(frozen=True, slots=True)
class Pessimism:
    """How much a plan doubts the estimate: a kind of set, at a level."""

    set: SetKind
    confidence: float
    """At least 0 and less than 1; 0 trusts the estimate."""


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ItemsAnswer(Grounded):
    """Rewards of a catalogue's items, as arrays: what the hot calls are answered from."""

    numbers: Real
    """(m, 4): reward, standard error, lower and upper end."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankedItems(ItemsAnswer):
    """Best first."""

    ids: list[str]
    """(m,)"""
    index: Int | None
    """(m,) where each stood in the request; None where the catalogue was ranked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedAnswer(Grounded):
    """A plan's worth over the reference policy, in log-odds summed over the horizon."""

    set: SetKind
    """Of rewards, that the worst case is taken over."""
    confidence: float
    """Of the set; 0 trusts the estimate."""
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
    """Radius of the set: in standard errors; of a Frobenius ball, in log-odds a unit of the features."""
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
    """(H, S) the likeliest action; -1 in terminal states."""


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
class ShownSlate:
    items: tuple[str, ...]
    """Best first."""
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateAnswer(CertifiedAnswer):
    """Values are the mean reward of a slate's items, less that of the catalogue's."""

    slates: tuple[ShownSlate, ...]
    any_items: float
    """The probability with which the mixture shows any items at random, as the reference does."""
    best: tuple[str, ...]
    """The one slate that is worth most in its own worst case."""
    best_lower: float
    """What it is worth there; less than `lower` where mixing cancels uncertainty."""
    sampled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advantage:
    """What one course of action is worth over another, in log-odds summed over what is left of the horizon."""

    robust: float
    """In the plan's worst case: `estimate` less `caution`."""
    estimate: float
    """At the estimated rewards."""
    caution: float
    """What the worst case that the plan guards against takes away."""
    stderr: float
    """Standard error of the estimate."""


@dataclass(frozen=True, slots=True)
class Influence:
    """What an estimate would lose without one of the user's own comparisons."""

    preference: dict[str, Any]
    """As it is exported."""
    over_reference: float
    """Log-odds, of the estimated advantage over the reference."""
    over_next_best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionExplanation(CertifiedAnswer):
    """Why an action; the certificate is that of the plan it belongs to."""

    state: str
    step: int
    planned_from: Literal["start", "state"]
    action: str
    probability: float
    """That the plan takes this action here."""
    over_reference: Advantage
    next_best: str | None
    """The best other action in the plan's worst case; None where there is no other."""
    over_next_best: Advantage | None
    population: float
    """The part of the estimate over the reference that is the same for everybody."""
    own: float
    """The part that the user's own comparisons make."""
    comparisons: tuple[Influence, ...]
    """Those that weighed most, heaviest first."""


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
    pessimism: Pessimism
    mean: Real
    """Flat rewards that the plan takes as estimated."""
    worst: Real
    """What the worst case that it guards against adds to them."""
    greedy_nominal: float
    greedy_lower: float
    states: tuple[str, ...]
    actions: tuple[str, ...]
