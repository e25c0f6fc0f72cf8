"""What the parameters that all users share owe to one user: how far they would move without them.

The shared parameters phi (Theta_0, B across its own span, the items' effects) are where the bound's gradients g_i,
summed over users, balance the priors'. Without user i they balance again at phi + Delta,

    Delta = -(H - H_i)^-1 g_i + ...,    H^-1 = F F^T  (app.learning.confidence.shared_error, the adapters eliminated),

to first order. With s = F^T g_i, items' effects joined to it by their own posterior variances, and h the largest
eigenvalue of F^T H_i F (the user's leverage), Delta in units of the shared parameters' standard errors is at most
||s|| / (1 - h), so that by Cauchy and Schwarz

    |change of any reward| <= ||s|| / (1 - h) * its standard error,    dist(B, B') <= ||P (F s)_B||_F / (1 - h),

with P the projection across B's span. The adapters' prior T is a mean over N users, of which one moves it by
E = (T^-1/2 (m m^T + V) T^-1/2 - I) / (N - 1), and another user's rewards by at most ||E|| ||T^-1/2 m'|| of their
standard errors, where ||T^-1/2 m'|| is at most REACH for all but one in a thousand. What is left out is of second
order: SAFETY covers it, but not what a fit that did not converge leaves open. `tests/learning/test_debt.py` compares
with refits without the user.

Source: Cook and Weisberg, Residuals and Influence in Regression, 1982, section 3.4, for the missing-information
Hessian.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from app.learning.adapters import expected_curvature, expected_probability, posterior
from app.learning.arrays import Real
from app.learning.comparisons import Comparisons
from app.learning.design import Design
from app.learning.model import Model

SAFETY = 4.0
REACH = 0.999
"""Share of users whose adapters the bound of the prior's part holds for."""
LARGEST_LEVERAGE = 0.9
LEVERAGE_COMPARISONS = 256
"""Of a user's comparisons, those that the leverage is taken from; they stand for all."""


@dataclass(frozen=True, slots=True)
class Debt:
    standard_errors: float
    """Any reward moves by no more than this many of its standard errors."""
    subspace_distance: float
    """The principal angle distance that the shared subspace moves by at most."""


NO_DEBT = Debt(0.0, 0.0)


def debt(model: Model, comparisons: Comparisons, *, n_users: int) -> Debt:
    """What a model's shared parameters owe at most to one user, whose comparisons in the fit these were.

    Parameters
    ----------
    n_users
        Who were in the fit.
    """
    if not len(comparisons):
        return NO_DEBT
    design = model.design(comparisons)
    solved = posterior(design, model.shared)
    moments = solved.score_mean, solved.score_variance
    w = design.weight * expected_curvature(*moments)
    residual = design.weight * (design.label - expected_probability(*moments))
    Z = design.project(model.B, model.shared.items.loadings)
    W, V = solved.means[design.user].reshape(Z.shape), solved.covariances[0]
    spread = (Z.reshape(design.n, -1) @ V).reshape(Z.shape)
    R = residual[:, None, None] * W - w[:, None, None] * spread
    gradient = np.concatenate([design.adjoint_scores(residual), design.adjoint_project(R)], axis=1)
    s = np.einsum("abr,ab->r", model.shared_error, gradient)
    variance = float(s @ s) + _of_items(model, design, residual, R)
    variance += _of_prior(model, solved.means[0], V, n_users) ** 2
    if model.entry_errors is not None:
        variance += float((model.entry_errors * gradient**2).sum())
    moved = model.shared_error[:, design.d2 :] @ s
    B = model.B[:, : model.rank]
    across = moved - B @ (B.T @ moved)
    longer = SAFETY / (1.0 - _leverage(model, design, w, solved.means.reshape(Z.shape[1:])))
    return Debt(longer * float(np.sqrt(variance)), longer * float(np.linalg.norm(across)))


def _of_prior(model: Model, mean: Real, covariance: Real, n_users: int) -> float:
    """||E|| times the reach, in standard errors."""
    p = len(model.T)
    if not p:
        return 0.0
    root = np.linalg.inv(np.linalg.cholesky(model.T))
    moved = root @ (np.outer(mean, mean) + covariance) @ root.T - np.eye(p)
    largest = float(np.abs(np.linalg.eigvalsh(moved)).max())
    return largest / max(n_users - 1, 1) * float(np.sqrt(chi2.ppf(REACH, p)))


def _of_items(model: Model, design: Design, residual: Real, R: Real) -> float:
    """||s||^2 of the items' biases and loadings, whose posterior covariances are their own."""
    items = model.shared.items
    if not design.n_items:
        return 0.0
    bias = design.of_items(design.adjoint_rows(residual)[:, 0])
    loadings = np.zeros((design.n_items, model.width))
    for c in range(model.width):
        loadings[:, c] = design.of_items(design.adjoint_rows(np.ascontiguousarray(R[:, c, 0]))[:, 0])
    own = float((items.bias_variance[:-1] * bias**2).sum())
    return own + float(np.einsum("mk,mkl,ml->", loadings, items.covariance[:-1], loadings, optimize=True))


def _leverage(model: Model, design: Design, w: Real, W: Real) -> float:
    """h, the largest eigenvalue of F^T H_i F, at most LARGEST_LEVERAGE."""
    index = np.arange(0, design.n, -(-design.n // LEVERAGE_COMPARISONS))
    F, d2 = model.shared_error, design.d2
    if not F.shape[2]:
        return LARGEST_LEVERAGE
    C = F[:, :d2] + np.einsum("acr,cb->abr", F[:, d2:], W)
    L = design.project(C.reshape(design.d1, -1), index=index).reshape(len(index), d2, F.shape[2], d2)
    L = np.asarray(np.einsum("nbrb->nr", L))
    Z = design.project(model.B, model.shared.items.loadings, index).reshape(len(index), -1)
    weight = w[index] * (design.n / len(index))
    V = np.linalg.inv(np.linalg.inv(model.T) + (Z * weight[:, None]).T @ Z) if model.rank else np.zeros((0, 0))
    wZ = weight[:, None] * Z
    M = np.diag(weight) - wZ @ V @ wZ.T
    values, vectors = np.linalg.eigh(M)
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    SM = half.T @ L
    largest = float(np.linalg.eigvalsh(SM @ SM.T)[-1])
    return min(largest, LARGEST_LEVERAGE)
