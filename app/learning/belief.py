"""What is believed about several rewards at once: a mean and a factor of their covariance."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from app.learning.arrays import Real


@dataclass(frozen=True, slots=True, eq=False)
class RewardBelief:
    """Rewards of m options in log-odds; only their differences are identified."""

    mean: Real
    """(m,)"""
    factor: Real
    """(m, q): the covariance is factor @ factor.T."""
    dimension: int
    """Dimensions of the user's own ellipsoid: p, or the shared error's where the model has no adapters."""

    def minus(self, reference: Real) -> "RewardBelief":
        """The rewards less their weighted mean; `reference` (m,) holds weights that sum to 1."""
        return RewardBelief(self.mean - reference @ self.mean, self.factor - reference @ self.factor, self.dimension)

    def minus_belief(self, baseline: "RewardBelief") -> "RewardBelief":
        """The rewards less one other reward (m = 1) of the same user."""
        return RewardBelief(self.mean - baseline.mean[0], self.factor - baseline.factor[0], self.dimension)

    @property
    def stderr(self) -> Real:
        """(m,) standard errors in log-odds."""
        return np.asarray(np.sqrt(np.einsum("mq,mq->m", self.factor, self.factor)))

    def interval(self, level: float) -> tuple[Real, Real]:
        """(m,) lower and upper bounds that each hold with probability `level`."""
        reach = float(norm.ppf(0.5 * (1.0 + level))) * self.stderr
        return self.mean - reach, self.mean + reach

    def beta(self, level: float) -> float:
        """Radius of the joint ellipsoid at `level`, in standard errors: the root of the chi-square quantile."""
        return float(np.sqrt(chi2.ppf(level, max(self.dimension, 1))))
