"""How good predicted choice probabilities are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from app.learning.arrays import Real, real

SMALLEST_PROBABILITY = 1e-12
"""Keeps the log-loss finite when a prediction is certain and wrong."""


@dataclass(frozen=True, slots=True)
class Metrics:
    accuracy: float
    log_loss: float
    """Mean negative log-likelihood in nats a comparison; 0.693 is a coin."""
    ece: float
    """Expected calibration error of the preferred side's probability, ten equal bins."""
    n: int
    log_loss_stderr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """One set of predictions beside another, user by user; gains are log-loss saved, in nats a comparison."""

    gain: float
    """Mean over comparisons."""
    gain_stderr: float
    """Over users."""
    users: int
    users_better: int
    users_worse: int
    mean_gain_of_better: float
    mean_loss_of_worse: float
    user_gain: dict[str, float]
    """Quantiles over users of a user's mean gain."""


def gains_of_users(by_user: Real) -> dict[str, Any]:
    """The fields of `Gains` that count users, of every user's mean gain (N,)."""
    better, worse = by_user[by_user > 0], by_user[by_user < 0]
    return {
        "users": len(by_user),
        "users_better": len(better),
        "users_worse": len(worse),
        "mean_gain_of_better": float(better.mean()) if len(better) else 0.0,
        "mean_loss_of_worse": -float(worse.mean()) if len(worse) else 0.0,
        "user_gain": {f"p{q}": float(np.percentile(by_user, q)) for q in (5, 25, 50, 75, 95)},
    }


def evaluate_predictions(prob: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None) -> Metrics:
    """Score probabilities that `chosen` is preferred against labels in [0, 1].

    A tie (label or probability 0.5) counts as half right.
    """
    p = np.clip(real(prob), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    t = real(label)
    w = np.ones(len(p)) if weight is None else real(weight)
    if not p.shape == t.shape == w.shape or p.ndim != 1:
        raise ValueError(
            "probabilities, labels and weights must have one entry a comparison; "
            f"found {p.shape}, {t.shape} and {w.shape}."
        )
    if len(p) == 0:
        raise ValueError("nothing to evaluate: at least one prediction was expected.")
    w = w / w.sum()
    loss = -(t * np.log(p) + (1 - t) * np.log1p(-p))
    mean = float(w @ loss)
    side = np.sign(p - 0.5)
    right = np.where(side == 0, 0.5, np.where(side > 0, t, 1 - t))
    confident = np.maximum(p, 1 - p)
    bins = np.minimum((10 * (2 * confident - 1)).astype(np.int64), 9)
    gaps = np.bincount(bins, w * (right - confident), minlength=10)
    return Metrics(
        accuracy=float(w @ right),
        log_loss=mean,
        ece=float(np.abs(gaps).sum()),
        n=len(p),
        log_loss_stderr=float(np.sqrt((w**2) @ (loss - mean) ** 2)),
    )
