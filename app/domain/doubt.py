"""What a plan doubts: the set of rewards that its worst case is taken over, at a level of confidence.

Sets of the user's parameters (Liu et al. 2025, (3.4); radii as this project decides them):

- `ellipsoid`: the posterior's, with the root of the chi-square quantile as radius; holds the whole reward function.
- `credible`: the same shape with the normal quantile as radius. Given what was said, the policy that is served is fixed
  and its value is one normal number: as the model believes, it exceeds the lower bound with that probability.
- `frobenius`: a ball of the adapter, (3.4) in the subspace, and the shared parameters' errors as in the ellipsoid;
  `frobenius_full`: a ball of all parameters, (3.4) as printed. Their radius is the posterior's quantile of the
  distance.
- `likelihood_ratio`: adapters whose penalised likelihood, with the shared parameters' errors of normal density beside
  it, is not much worse than the best one's: as much as an ellipsoid at that level allows where all is quadratic.

The paper's sets leave out that the shared parameters are not known: taken literally, a plan moves to where only they
matter, and with 5 comparisons each a third of the users was worse off than by the reference at 95%. Which levels are
kept where the truth is known, benchmarks/pessimism.py measures.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from app.learning import Adapter, Comparisons, Model, RewardBelief, user_likelihood
from app.policy import FullSpace, LevelSet, logistic_level_set

Real = NDArray[np.float64]

SMALLEST = 1e-12
"""Radius of a ball below which it is a point."""

SetKind = Literal["credible", "ellipsoid", "frobenius", "frobenius_full", "likelihood_ratio"]


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
    own: Real | None = None
    """Flat: what every reward may err by itself; as many columns more of L, after the factor's."""

    def change(self, u: Real) -> Real:
        """L u, flat."""
        if isinstance(self.factor, FullSpace):
            return self.factor.rewards(u).ravel()
        q = self.factor.shape[1]
        return np.asarray(self.factor @ u[:q] + (0.0 if self.own is None else self.own * u[q:]))

    def worst(self, visits: Real) -> float:
        """The least that <L u, visits> can be."""
        if isinstance(self.factor, FullSpace):
            gradient = self.factor.gradient(visits.reshape(self.factor.steps, -1))
        else:
            gradient = visits @ self.factor
            gradient = gradient if self.own is None else np.concatenate([gradient, visits * self.own])
        if self.within is not None:
            return self.within.worst(gradient)
        return -float(self.beta or 0.0) * float(np.linalg.norm(gradient))

    def since(self, rewards: int) -> "Doubt":
        """The same of the last so many rewards: of what is left of a horizon, where they depend on the step."""
        if rewards == len(self.mean):
            return self
        factor = self.factor.since(rewards) if isinstance(self.factor, FullSpace) else self.factor[-rewards:]
        own = None if self.own is None else self.own[-rewards:]
        return replace(self, mean=self.mean[-rewards:], factor=factor, own=own)


@dataclass(frozen=True, slots=True, eq=False)
class Believed:
    """What a set is made of."""

    model: Model
    adapter: Adapter
    belief: RewardBelief
    """About the rewards that are decided about, of an MDP's whole horizon."""
    rows: Callable[[], Real]
    """(m, p) what the adapter's entries multiply in them."""
    full: Callable[[], FullSpace]
    """How they depend on all parameters."""
    said: Comparisons | None = None
    """The user's own comparisons, for `likelihood_ratio`; none for a user without any."""

    @property
    def shared_errors(self) -> Real:
        """(m, r) the belief's factor but for the adapter's columns, which are its first."""
        return self.belief.factor[:, len(self.model.T) :]

    @property
    def own(self) -> Real | None:
        """(m,) standard errors of what the rewards err by themselves."""
        own = self.belief.own
        return None if own is None or not own.any() else np.sqrt(own)


def doubt_of(about: Believed, kind: SetKind, level: float) -> Doubt:
    """The set of a kind at a level, at least 0 and less than 1; at 0 nothing is doubted."""
    model, belief = about.model, about.belief
    if level == 0:
        return Doubt(belief.mean, belief.factor, 0.0)
    if not model.rank and kind in {"frobenius", "likelihood_ratio"}:
        # Nobody's adapter is in doubt where there are none.
        return Doubt(belief.mean, belief.factor, belief.beta(level), own=about.own)
    match kind:
        case "credible":
            return Doubt(belief.mean, belief.factor, belief.credible_beta(level), own=about.own)
        case "ellipsoid":
            return Doubt(belief.mean, belief.factor, belief.beta(level), own=about.own)
        case "frobenius":
            radius = distance_quantile(model.inflation**2 * about.adapter.covariance, level)
            share = belief.beta(level) / max(radius, SMALLEST)
            own = None if about.own is None else share * about.own
            return Doubt(belief.mean, np.hstack([about.rows(), share * about.shared_errors]), radius, own=own)
        case "frobenius_full":
            parameters = model.reward_table(about.adapter)
            radius = distance_quantile(parameters.factor.T @ parameters.factor, level, parameters.own)
            return Doubt(belief.mean, about.full(), radius)
        case "likelihood_ratio":
            return _likelihood_ratio(about, 0.5 * (model.inflation * belief.beta(level)) ** 2)


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


def _likelihood_ratio(about: Believed, excess: float) -> Doubt:
    model, rows = about.model, about.rows()
    known = np.zeros(len(model.T))
    if about.said is None:
        design, weights, estimate = np.zeros((0, len(known) + 1)), np.zeros(0), known
        precision = np.asarray(np.linalg.inv(model.T), dtype=np.float64)
    else:
        own = user_likelihood(model, about.said)
        design, weights, estimate, precision = own.design, own.weights, own.estimate, own.precision
    mean = about.belief.mean + rows @ (estimate - about.adapter.mean.ravel())
    within = logistic_level_set(design, estimate=estimate, prior_precision=precision, excess=excess, weights=weights)
    apart = None if about.own is None else about.own / model.inflation
    return Doubt(mean, np.hstack([rows, about.shared_errors / model.inflation]), None, within, apart)
