"""What is believed about several rewards at once: a mean and a factor of their covariance."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
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
    own: Real | None = None
    """(m,) variances of the options' own effects, independent of each other and of the factor; or none."""
    joint: float = 1.0
    """Calibrated factor on the radius of ellipsoids."""

    def minus(self, reference: Real) -> "RewardBelief":
        """The rewards less their weighted mean; `reference` (m,) holds weights that sum to 1."""
        own = self.own
        if own is not None:
            own = own * (1.0 - reference) ** 2 + float(reference**2 @ own) - reference**2 * own
        factor = self.factor - reference @ self.factor
        return replace(self, mean=self.mean - reference @ self.mean, factor=factor, own=own)

    def take(self, index: NDArray[np.int64]) -> "RewardBelief":
        """Some of the options."""
        own = None if self.own is None else self.own[index]
        return replace(self, mean=self.mean[index], factor=self.factor[index], own=own)

    def in_one_factor(self, at_most: int) -> "RewardBelief":
        """The same belief with the options' own effects as columns of the factor, unless m > at_most."""
        own = self.own
        if own is None or len(own) > at_most or not own.any():
            return self
        return replace(self, factor=np.hstack([self.factor, np.diag(np.sqrt(own))]), own=None)

    @property
    def stderr(self) -> Real:
        """(m,) standard errors in log-odds."""
        variance = np.einsum("mq,mq->m", self.factor, self.factor)
        return np.asarray(np.sqrt(variance if self.own is None else variance + self.own))

    def interval(self, level: float) -> tuple[Real, Real]:
        """(m,) lower and upper bounds that each hold with probability `level`."""
        reach = float(norm.ppf(0.5 * (1.0 + level))) * self.stderr
        return self.mean - reach, self.mean + reach

    def beta(self, level: float) -> float:
        """Radius of the joint ellipsoid at `level`, in standard errors: the chi-square quantile's root, calibrated."""
        return self.joint * float(np.sqrt(chi2.ppf(level, max(self.dimension, 1))))

    def credible_beta(self, level: float) -> float:
        """Radius at which one difference of rewards, chosen by what is known, is above its worst case at `level`.

        Given the comparisons, what a chosen policy is worth is a single normal number: its one-sided bound is the
        normal quantile, whatever the dimension; below one half there is no doubt to speak of.
        """
        return max(0.0, float(norm.ppf(level)))
