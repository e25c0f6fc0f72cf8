"""The quantities that the paper's theory names, for a fitted model."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from app.learning.arrays import Real
from app.learning.metrics import Gains

FAILURE_PROBABILITY = 0.05
"""delta of the log bracketing numbers."""


@dataclass(frozen=True, slots=True)
class LogBracketing:
    """Bounds on the log bracketing number of three model classes (Prop. 1); smaller generalises from fewer
    comparisons.
    """

    shared: float
    """k (d1 + N d2) log(N N_p / delta): a shared subspace."""
    unshared: float
    """N k (d1 + d2) log(N N_p / delta): a subspace for each user."""
    full: float
    """N d1 d2 log(N N_p / delta): free parameters for each user."""


@dataclass(frozen=True, slots=True)
class RankTrial:
    """A rank and a dependence, tried on held-out comparisons."""

    rank: int
    dependence: float
    log_loss: float
    """Nats a held-out comparison."""
    residual: bool = False
    """With a personal residual beside the shared directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalGain(Gains):
    """The best personal model beside the best one for everybody (items' own effects included), on comparisons held out
    while choosing.
    """

    rank: int
    """Of the personal model, whether or not it is served."""
    served: bool


@dataclass(frozen=True, slots=True)
class Diagnostics:
    n_users: int
    n_comparisons: int
    d1: int
    d2: int
    rank: int
    singular_values: tuple[float, ...]
    """sigma_1 >= sigma_2 >= ... of the aggregated difference matrix [B W_1 ... B W_N]."""
    nu: float
    """sigma_k^2 / N (Def. 4.1): large when users differ along few shared directions; 0 at rank 0."""
    tail_energy: float
    """Sigma_tail, what rank k cannot express, estimated by moments from the residual scores."""
    log_bracketing: LogBracketing
    ridge: tuple[float, ...]
    """Estimated prior precision of Theta_0's columns."""
    effective_weight: float
    """What one comparison counts in the fit, on average: 1 when comparisons are independent given the model, less
    where a user's options recur.
    """
    dependence: float
    """How much of what the model leaves unexplained recurs with an option, 0 to 1; chosen on held-out comparisons."""
    inflation: float
    """Factor on all standard errors, from the parametric bootstrap; 1 when not calibrated."""
    coverage: float | None = None
    """Share of simulated users' rewards inside their 95% intervals before the inflation, which makes it 95%."""
    joint_inflation: float = 1.0
    """Factor on the radius of confidence ellipsoids, likewise."""
    hidden_spread: float = 1.0
    """Users' prior variances over those that the fit finds, likewise: what the bound hides of how users differ."""
    permutation_rank: int | None = None
    """Directions that beat permuted user labels; 0 says that users do not differ."""
    distance_to_previous: float | None = None
    """Principal angle distance to the previous model's subspace (Def. A.1)."""
    trials: tuple[RankTrial, ...] = field(default_factory=tuple)
    """Held-out log-loss of every rank and effective weight that was tried."""
    residual: float = 0.0
    """s: root of the variance that users have along every direction of the features outside the subspace, in log-odds;
    0 where nothing is left over, or where it was not worth it.
    """
    rank_reason: str = ""
    """Why this rank, in a sentence."""
    personal_gain: PersonalGain | None = None
    """How many users gain by their own adapter, how many lose, and by how much; none where nothing was held out."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def singular_values(W: Real) -> Real:
    """(k,) singular values of [B W_1 ... B W_N] for orthonormal B and W (N, k, d2)."""
    return np.asarray(np.linalg.svd(np.swapaxes(W, 0, 1).reshape(W.shape[1], len(W) * W.shape[2]), compute_uv=False))


def log_bracketing(d1: int, d2: int, k: int, n_users: int, n_comparisons: int) -> LogBracketing:
    log = float(np.log(max(n_comparisons, 1) / FAILURE_PROBABILITY))
    return LogBracketing(
        shared=k * (d1 + n_users * d2) * log, unshared=n_users * k * (d1 + d2) * log, full=n_users * d1 * d2 * log
    )
