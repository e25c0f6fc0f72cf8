"""What a plan doubts: the set of rewards that its worst case is taken over, at a level of confidence.

Sets of the user's parameters (Liu et al. 2025, (3.4); radii as this project decides them):

- `ellipsoid`: the posterior's, with the root of the chi-square quantile as radius; holds the whole reward function.
- `credible`: the same shape with the normal quantile as radius. Given what was said, the policy that is served is fixed
  and its value is one normal number: it exceeds the lower bound with that probability.
- `frobenius`: a ball of the adapter, (3.4) in the subspace; `frobenius_full`: a ball of all parameters, (3.4) as
  printed. Their radius is the posterior's quantile of the distance.
- `likelihood_ratio`: adapters whose penalised likelihood is not much worse than the best one's, as much as an ellipsoid
  at that level allows where the likelihood is quadratic.

The balls and the last take the shared parameters as known.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from app.domain import Context, MdpEnvironment
from app.learning import Comparisons, RewardBelief, user_likelihood
from app.policy import FullSpace, LevelSet, logistic_level_set
from app.serving.answers import Pessimism
from app.serving.scoring import context_features
from app.serving.snapshot import Ground

Real = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """Rewards r = mean + L u, u in a set about 0."""

    mean: Real
    """Flat, like the belief's."""
    factor: Real | FullSpace
    """L"""
    beta: float | None
    """Radius of the ball of u; None where the set is `within`."""
    within: LevelSet | None = None

    def change(self, u: Real) -> Real:
        """L u, flat."""
        if isinstance(self.factor, FullSpace):
            return self.factor.rewards(u).ravel()
        return np.asarray(self.factor @ u)

    def worst(self, visits: Real) -> float:
        """The least that <L u, visits> can be."""
        if isinstance(self.factor, FullSpace):
            gradient = self.factor.gradient(visits.reshape(self.factor.steps, -1))
        else:
            gradient = visits @ self.factor
        if self.within is not None:
            return self.within.worst(gradient)
        return -float(self.beta or 0.0) * float(np.linalg.norm(gradient))

    def since(self, rewards: int) -> "Doubt":
        """The same of the last so many rewards: of what is left of a horizon, where they depend on the step."""
        if rewards == len(self.mean):
            return self
        factor = self.factor.since(rewards) if isinstance(self.factor, FullSpace) else self.factor[-rewards:]
        return replace(self, mean=self.mean[-rewards:], factor=factor)


def doubt_of(
    ground: Ground,
    belief: RewardBelief,
    pessimism: Pessimism,
    *,
    context: Context | None = None,
    said: Comparisons | None = None,
) -> Doubt:
    """The set that is asked for.

    Parameters
    ----------
    belief
        About the rewards that are decided about, of an MDP's whole horizon.
    said
        The user's own comparisons, for `likelihood_ratio`; none for a user without any.
    """
    level, inflation = pessimism.confidence, ground.model.inflation
    if level == 0 or (not ground.model.rank and pessimism.set in {"frobenius", "likelihood_ratio"}):
        # Nobody's adapter is in doubt where there are none.
        return Doubt(belief.mean, belief.factor, 0.0)
    match pessimism.set:
        case "credible":
            return Doubt(belief.mean, belief.factor, belief.credible_beta(level))
        case "ellipsoid":
            return Doubt(belief.mean, belief.factor, belief.beta(level))
        case "frobenius":
            covariance = inflation**2 * ground.adapter.covariance
            return Doubt(belief.mean, adapter_rows(ground, context), distance_quantile(covariance, level))
        case "frobenius_full":
            parameters = ground.model.reward_table(ground.adapter)
            radius = distance_quantile(parameters.factor.T @ parameters.factor, level, parameters.own)
            return Doubt(belief.mean, _full_space(ground, len(belief.mean), context), radius)
        case "likelihood_ratio":
            return _likelihood_ratio(ground, belief, 0.5 * (inflation * belief.beta(level)) ** 2, context, said)


def adapter_rows(ground: Ground, context: Context | None) -> Real:
    """(m, p) what the adapter's entries multiply in the rewards that are decided about."""
    if isinstance(ground.environment, MdpEnvironment):
        tables = ground.snapshot.tables
        return ground.model.table_rows(tables.states, tables.actions)
    raw = context_features(ground.environment, context)
    return ground.model.projected_rewards(ground.adapter, ground.catalogue.features, raw)[1]


def distance_quantile(covariance: Real, level: float, apart: Real | None = None) -> float:
    """How far x ~ N(0, covariance) is from 0, at most, with this probability.

    ||x||^2 is approximated by a scaled chi-square with the same mean and variance (Satterthwaite 1946). `apart` are
    variances of further, independent dimensions.
    """
    own = np.zeros(0) if apart is None else apart
    mean, spread = float(np.trace(covariance) + own.sum()), float((covariance**2).sum() + (own**2).sum())
    if mean <= 0:
        return 0.0
    return float(np.sqrt(spread / mean * chi2.ppf(level, mean**2 / spread)))


def _full_space(ground: Ground, rewards: int, context: Context | None) -> FullSpace:
    if isinstance(ground.environment, MdpEnvironment):
        shape = (len(ground.environment.states), len(ground.environment.actions))
        return FullSpace(shape, ground.snapshot.tables.states, ground.snapshot.tables.actions)
    features = ground.model.features
    column = features.context(context_features(ground.environment, context))
    return FullSpace((1, rewards), column[None], features.items(ground.catalogue.features))


def _likelihood_ratio(
    ground: Ground, belief: RewardBelief, excess: float, context: Context | None, said: Comparisons | None
) -> Doubt:
    rows = adapter_rows(ground, context)
    known = np.zeros(len(ground.model.T))
    if said is None:
        design, weights, estimate = np.zeros((0, len(known) + 1)), np.zeros(0), known
        precision = np.asarray(np.linalg.inv(ground.model.T), dtype=np.float64)
    else:
        own = user_likelihood(ground.model, said)
        design, weights, estimate, precision = own.design, own.weights, own.estimate, own.precision
    mean = belief.mean + rows @ (estimate - ground.adapter.mean.ravel())
    within = logistic_level_set(design, estimate=estimate, prior_precision=precision, excess=excess, weights=weights)
    return Doubt(mean, rows, None, within)
