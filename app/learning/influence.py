"""What each comparison of a user did to their adapter.

An adapter's mean m is where the pulls balance: T^-1 m = sum_j z_j r_j(m), with the residual of comparison j, whose
score is eta_j = o_j + z_j . m, o_j being what is shared,

    r_j = a_j (t_j - E[sigma(eta_j)]).

One Newton step from m towards the balance without comparison j (Sherman and Morrison) is

    m - m_without_j = H z_j r_j / (1 - s_j z_j^T H z_j),    H^-1 = T^-1 + sum_j s_j z_j z_j^T,

where s_j = a_j E[sigma'(eta_j)] is the residual's slope in the score's mean; that scores become less certain too is
left out. For the penalised maximum r_j = a_j (t_j - sigma(eta_j)) and s_j = a_j sigma'(eta_j).
Source: Cook and Weisberg, Residuals and Influence in Regression, 1982, section 3.2; the slope by differentiation.
"""

import numpy as np

from app.learning.adapters import expected_curvature, expected_probability, posterior
from app.learning.arrays import Int, Real, curvature, inverse, sigmoid
from app.learning.comparisons import Comparisons
from app.learning.design import Design
from app.learning.model import Model, fold_in

LARGEST_LEVERAGE = 0.99
"""A comparison that alone decides a direction: the step without it is long, and no longer a small one."""


def influences(model: Model, comparisons: Comparisons) -> Real:
    """How far each of one user's own comparisons moved their adapter's mean.

    Parameters
    ----------
    comparisons
        n comparisons of one user.

    Returns
    -------
    Real
        (n, p) in the order of the comparisons: the mean with all of them less the mean without this one. A reward
        whose projection on the adapter is g, (p,), moved by `influences @ g` log-odds.
    """
    n, p = len(comparisons), len(model.T)
    if n == 0 or p == 0:
        return np.zeros((n, p))
    return _moved_mle(model, comparisons) if model.estimator == "mle" else _moved_evidence(model, comparisons)


def _moved_evidence(model: Model, comparisons: Comparisons) -> Real:
    design, shared = model.design(comparisons), model.shared
    solved = posterior(design, shared)
    Z = _projections(model, design)
    moments = solved.score_mean, solved.score_variance
    residual = design.weight * (design.label - expected_probability(*moments))
    slope = design.weight * expected_curvature(*moments)
    # What the items' own uncertainty adds to the precision stays.
    rest = inverse(solved.covariances[0]) - (Z * slope[:, None]).T @ Z
    return _in_order(design.order, _taken_away(Z, rest, slope, residual))


def _moved_mle(model: Model, comparisons: Comparisons) -> Real:
    design = model.design(comparisons)
    adapter = fold_in(model, comparisons)
    Z = _projections(model, design)
    score = design.scores(model.Theta_0, model.shared.items.bias) + Z @ adapter.mean.ravel()
    residual = design.weight * (design.label - sigmoid(score))
    slope = design.weight * curvature(score)
    return _in_order(design.order, _taken_away(Z, inverse(model.T), slope, residual))


def _projections(model: Model, design: Design) -> Real:
    """(n, p) in the design's order."""
    return design.project(model.B, model.shared.items.loadings).reshape(design.n, -1)


def _taken_away(Z: Real, rest: Real, slope: Real, residual: Real) -> Real:
    """(n, p); `rest` (p, p) is the precision without the comparisons."""
    ZH = Z @ inverse(rest + (Z * slope[:, None]).T @ Z)
    leverage = np.minimum(slope * np.einsum("np,np->n", Z, ZH), LARGEST_LEVERAGE)
    return np.asarray(ZH * (residual / (1.0 - leverage))[:, None])


def _in_order(order: Int, rows: Real) -> Real:
    out = np.empty_like(rows)
    out[order] = rows
    return out
