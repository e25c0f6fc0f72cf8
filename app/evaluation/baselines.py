"""What P-ShareLoRA is measured against: one model for everybody, and one model a user around it.

With d_j = (x_chosen - x_rejected) (x) y_context, standardised, both are ridge-logistic problems

    minimise_theta  sum_j log(1 + exp(-(offset_j + d_j . theta)))  +  strength / 2 ||theta||^2,

`global` over everybody's comparisons with offset 0, `per_user` over one user's own with the global model's log-odds as
offset. Both strengths are chosen on the data set's validation rows. They share no code with the learning core on
purpose: a baseline that shares the core's mistakes would hide them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from app.evaluation.dataset import Dataset, Int, Real, validation_rows

GLOBAL_STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(4, -3, -1))
"""Descending, so that each solve starts from a more cautious one."""

OFFSET_STRENGTHS = tuple(float(s) for s in 2.0 ** np.arange(12, -5, -1))
"""Descending; the first is so strong that a user's own model is the global one."""

NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceMap:
    """Comparisons -> standardised feature differences (n, d1 * d2); d2 counts a constant and the context's columns."""

    X: Real
    """(M, d1) standardised."""
    scale: Real
    """(d1,) that X was divided by; 1 where a column does not vary."""
    Y: Real
    """(C, d2), or (1, 1) where choices have no context."""

    @classmethod
    def of(cls, learn: Dataset) -> "DifferenceMap":
        X, scale = _standardise(learn.X, np.r_[learn.chosen, learn.rejected])
        if learn.contexts is None or learn.context is None:
            return cls(X=X, scale=scale, Y=np.ones((1, 1)))
        Y, _ = _standardise(learn.contexts, learn.context)
        return cls(X=X, scale=scale, Y=np.column_stack([np.ones(len(Y)), Y / np.sqrt(Y.shape[1])]))

    def __call__(self, data: Dataset) -> Real:
        x = self.X[data.chosen] - self.X[data.rejected]
        if data.context is None:
            return x
        y = self.Y[data.context]
        return (x[:, :, None] * y[:, None, :]).reshape(len(x), x.shape[1] * y.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class GlobalModel:
    """The same reward for everybody."""

    differences: DifferenceMap
    theta: Real
    """(d1 * d2,)"""
    strength: float
    rank: int = 0

    def log_odds(self, data: Dataset) -> Real:
        log_odds: Real = self.differences(data) @ self.theta
        return log_odds

    def predict(self, data: Dataset) -> Real:
        return probability(self.log_odds(data))

    def predict_after(self, adapt: Dataset, test: Dataset, *, n_users: int) -> Real:
        """What new users prefer after the comparisons `adapt`; here they change nothing."""
        del adapt, n_users
        return self.predict(test)


def fit_global(learn: Dataset, *, seed: int) -> GlobalModel:
    fit_rows, validate_rows = validation_rows(learn, seed=seed)
    differences = DifferenceMap.of(learn)
    D = differences(learn)
    path = _ridge_path(D[fit_rows], np.zeros(len(fit_rows)), GLOBAL_STRENGTHS)
    losses = [_log_loss(D[validate_rows] @ theta) for theta in path]
    best = int(np.argmin(losses))
    theta = ridge_logistic(D, np.zeros(len(D)), GLOBAL_STRENGTHS[best], start=path[best])
    return GlobalModel(differences=differences, theta=theta, strength=GLOBAL_STRENGTHS[best])


@dataclass(frozen=True, slots=True, eq=False)
class PerUserModel:
    """Each user's own ridge offset around the global model; nothing but that model is shared."""

    base: GlobalModel
    offsets: Real
    """(N, d1 * d2)"""
    strength: float

    @property
    def rank(self) -> int:
        """Full: an offset in every direction of the items' features."""
        return int(self.base.differences.X.shape[1])

    def predict(self, data: Dataset) -> Real:
        own = np.einsum("nd,nd->n", self.base.differences(data), self.offsets[data.user])
        return probability(self.base.log_odds(data) + own)

    def predict_after(self, adapt: Dataset, test: Dataset, *, n_users: int) -> Real:
        offsets = _offset_paths(self.base, adapt, n_users, [self.strength])[:, 0]
        return replace(self, offsets=offsets).predict(test)


def fit_per_user(learn: Dataset, *, n_users: int, seed: int) -> PerUserModel:
    fit_rows, validate_rows = validation_rows(learn, seed=seed)
    strength = _choose_offset_strength(learn.take(fit_rows), learn.take(validate_rows), n_users=n_users, seed=seed)
    base = fit_global(learn, seed=seed)
    offsets = _offset_paths(base, learn, n_users, [strength])[:, 0]
    return PerUserModel(base=base, offsets=offsets, strength=strength)


def fit_full(learn: Dataset, *, n_users: int, strength: float = 1.0) -> PerUserModel:
    """Full parameters: every user's own ridge-logistic model around zero, with nothing shared at all."""
    differences = DifferenceMap.of(learn)
    nothing = GlobalModel(
        differences=differences, theta=np.zeros(differences.X.shape[1] * differences.Y.shape[1]), strength=strength
    )
    return PerUserModel(
        base=nothing, offsets=_offset_paths(nothing, learn, n_users, [strength])[:, 0], strength=strength
    )


def _choose_offset_strength(fit: Dataset, validate: Dataset, *, n_users: int, seed: int) -> float:
    base = fit_global(fit, seed=seed)
    paths = _offset_paths(base, fit, n_users, OFFSET_STRENGTHS)
    D, known = base.differences(validate), base.log_odds(validate)
    losses = [
        _log_loss(known + np.einsum("nd,nd->n", D, paths[validate.user, s])) for s in range(len(OFFSET_STRENGTHS))
    ]
    return OFFSET_STRENGTHS[int(np.argmin(losses))]


def _offset_paths(base: GlobalModel, learn: Dataset, n_users: int, strengths: Sequence[float]) -> NDArray[np.float64]:
    """Offsets (N, strengths, d1 * d2), around the base, from each user's own comparisons."""
    order = np.argsort(learn.user, kind="stable")
    bounds = np.searchsorted(learn.user[order], np.arange(n_users + 1))
    D, offset = base.differences(learn), base.log_odds(learn)
    paths = np.zeros((n_users, len(strengths), D.shape[1]))
    for user in range(n_users):
        rows: Int = order[bounds[user] : bounds[user + 1]]
        paths[user] = _offset_path(D[rows], offset[rows], strengths)
    return paths


def _offset_path(D: Real, offset: Real, strengths: Sequence[float]) -> Real:
    """One user's offsets (strengths, p).

    The solution lies in the span of the rows of D, so it is sought there: D' = Q R, theta = Q gamma.
    """
    if len(D) == 0:
        return np.zeros((len(strengths), D.shape[1]))
    Q, R = np.linalg.qr(D.T)
    path: Real = np.stack(_ridge_path(R.T, offset, strengths)) @ Q.T
    return path


def _ridge_path(D: Real, offset: Real, strengths: Sequence[float]) -> list[Real]:
    path: list[Real] = []
    for strength in strengths:
        path.append(ridge_logistic(D, offset, strength, start=path[-1] if path else None))
    return path


def ridge_logistic(
    D: Real, offset: Real, strength: float, *, start: Real | None = None, tolerance: float = 1e-8
) -> Real:
    """Minimise sum_j log(1 + exp(-(offset_j + d_j . theta))) + strength / 2 ||theta||^2; theta is (p,).

    Damped Newton; the problem is strictly convex, so halving the step until the objective falls always ends.
    """
    theta = np.zeros(D.shape[1]) if start is None else start.copy()

    def objective(candidate: Real) -> float:
        return float(np.logaddexp(0, -(offset + D @ candidate)).sum() + 0.5 * strength * (candidate @ candidate))

    value = objective(theta)
    for _ in range(NEWTON_STEPS):
        p = probability(offset + D @ theta)
        gradient = strength * theta - D.T @ (1 - p)
        if np.abs(gradient).max(initial=0.0) <= tolerance * max(1.0, len(D)):
            break
        hessian = (D.T * (p * (1 - p))) @ D
        hessian[np.diag_indices_from(hessian)] += strength
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while (candidate_value := objective(theta - length * step)) > value and length > 1e-9:
            length /= 2
        theta = theta - length * step
        if value - candidate_value <= 1e-12 * (1 + abs(value)):
            break
        value = candidate_value
    return theta


def probability(log_odds: Real) -> Real:
    result: Real = expit(log_odds)
    return result


def _standardise(table: Real, rows: Int) -> tuple[Real, Real]:
    """Centred and scaled by what the given rows show; a column that doesn't vary there is left at zero."""
    centre, spread = table[rows].mean(axis=0), table[rows].std(axis=0)
    varies = spread > 1e-9 * (1 + np.abs(centre))
    scale = np.where(varies, spread, 1.0)
    return np.where(varies, (table - centre) / scale, 0.0), scale


def _log_loss(log_odds: Real) -> float:
    """Mean log-loss when the first side was always chosen."""
    return float(np.logaddexp(0, -log_odds).mean()) if len(log_odds) else 0.0
