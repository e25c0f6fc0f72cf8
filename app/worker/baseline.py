"""The rival that shares nothing but the global model: every user's own ridge-logistic offset around it.

With d_j = vec(DPhi_j) and offset o_j = <Theta_0, DPhi_j>, a user's offset is theta = sum_j alpha_j d_j, where alpha
minimises

    sum_j a_j (log(1 + exp(s_j)) - t_j s_j) + strength / 2 alpha^T K alpha,    s = o + K alpha,  K = D D^T:

as many unknowns as the user has comparisons, however many features there are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.learning import Comparisons, Model

Real = NDArray[np.float64]
Int = NDArray[np.int64]

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Of the ridge, in the model's standardised features; the best on comparisons held out of training is taken."""

MAX_DESIGN = 20_000
"""Largest d1 * d2 for which designs are formed."""

MAX_OWN = 400
"""A user's newest comparisons beyond which older ones are left out: the solve is cubic in their number."""

NEWTON_STEPS = 30


def per_user_probabilities(
    base: Model, train: Comparisons, test: Comparisons, inner: NDArray[np.bool_]
) -> tuple[Real, float] | None:
    """Probabilities (n,) that `test`'s chosen sides are preferred, and the ridge's strength.

    `base` is the global model, of rank 0; `inner` (n_train,) says which comparisons choose the strength. None where
    d1 * d2 is too large.
    """
    if base.features.d1 * base.features.d2 > MAX_DESIGN:
        return None
    users = np.unique(test.user)
    validate = train.subset(inner & np.isin(train.user, users))
    strength = STRENGTHS[0]
    if len(validate):
        paths = _predict(base, train.subset(~inner), validate, STRENGTHS)
        losses = [_log_loss(path, validate) for path in paths]
        strength = STRENGTHS[int(np.argmin(losses))]
    scores = _predict(base, train, test, [strength])[0]
    return np.exp(-np.logaddexp(0.0, -scores)), strength


def _predict(base: Model, train: Comparisons, test: Comparisons, strengths: Sequence[float]) -> Real:
    """(strengths, n_test) log-odds."""
    out = np.empty((len(strengths), len(test)))
    for user in np.unique(test.user):
        own, asked = np.flatnonzero(train.user == user)[-MAX_OWN:], np.flatnonzero(test.user == user)
        D, offset = _designs(base, train.subset(own))
        E, known = _designs(base, test.subset(asked))
        K = D @ D.T
        alpha = np.zeros(len(own))
        for index, strength in enumerate(strengths):
            alpha = _solve(K, offset, train.label[own], train.weight[own], strength, alpha)
            out[index, asked] = known + E @ (D.T @ alpha)
    return out


def _designs(base: Model, comparisons: Comparisons) -> tuple[Real, Real]:
    """(n, d1 * d2) in the model's features, and the global log-odds (n,); in the order given."""
    design = base.design(comparisons)
    D = design.dense(np.arange(design.n)).reshape(design.n, base.features.d1 * base.features.d2)
    back = np.argsort(design.order)
    return D[back], design.scores(base.Theta_0)[back]


def _solve(K: Real, offset: Real, label: Real, weight: Real, strength: float, alpha: Real) -> Real:
    """Damped Newton; the objective is convex, so halving the step until it falls always ends."""

    def objective(candidate: Real) -> float:
        s = offset + K @ candidate
        fit = float(weight @ (np.logaddexp(0.0, s) - label * s))
        return fit + 0.5 * strength * float(candidate @ K @ candidate)

    value = objective(alpha)
    for _ in range(NEWTON_STEPS):
        s = offset + K @ alpha
        p = np.exp(-np.logaddexp(0.0, -s))
        curvature = weight * p * (1.0 - p)
        residual = weight * (p - label) + strength * alpha
        step = np.linalg.solve(curvature[:, None] * K + strength * np.eye(len(K)), residual)
        length = 1.0
        while (found := objective(alpha - length * step)) > value and length > 1e-9:
            length /= 2
        alpha = alpha - length * step
        if value - found <= 1e-9 * (1.0 + abs(value)):
            break
        value = found
    return alpha


def _log_loss(scores: Real, comparisons: Comparisons) -> float:
    return float(comparisons.weight @ (np.logaddexp(0.0, scores) - comparisons.label * scores))
