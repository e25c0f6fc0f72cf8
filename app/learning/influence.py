"""What each comparison of a user did to their adapter.

An adapter's mean m solves the weighted ridge problem that the last pass of its fold-in ended in: the precision is
V^-1 = T^-1 + sum_j w_j z_j z_j^T, and comparison j pulls by z_j (a_j (t_j - 1/2) - w_j o_j), o_j being its score under
what is shared. Taking it away, all other weights as they are (Sherman and Morrison),

    m - m_without_j = V z_j r_j / (1 - w_j z_j^T V z_j),    r_j = a_j (t_j - 1/2) - w_j (o_j + z_j . m).

For the penalised maximum the same holds to first order, with w_j the curvature and r_j = a_j (t_j - sigmoid(score_j)).
Source: Cook and Weisberg, Residuals and Influence in Regression, 1982, section 3.2.
"""

import numpy as np

from app.learning.adapters import bound_weights, posterior
from app.learning.arrays import Int, Real, curvature, sigmoid
from app.learning.comparisons import Comparisons
from app.learning.model import Model, fold_in
from app.learning.parameters import Shared


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
    Z = _projections(model, comparisons)
    m, V = solved.means[0], solved.covariances[0]
    w = design.weight * bound_weights(solved.tilt)
    residual = design.weight * (design.label - 0.5) - w * solved.score_mean
    return _in_order(design.order, _taken_away(Z, V, w, residual), len(m))


def _moved_mle(model: Model, comparisons: Comparisons) -> Real:
    design = model.design(comparisons)
    adapter = fold_in(model, comparisons)
    Z = _projections(model, comparisons)
    score = design.scores(model.Theta_0, _biases(model.shared)) + Z @ adapter.mean.ravel()
    w = design.weight * curvature(score)
    residual = design.weight * (design.label - sigmoid(score))
    return _in_order(design.order, _taken_away(Z, adapter.covariance, w, residual), adapter.mean.size)


def _projections(model: Model, comparisons: Comparisons) -> Real:
    """(n, p) in the design's order."""
    design = model.design(comparisons)
    loadings = model.shared.items.loadings if len(model.shared.items) else None
    return design.project(model.B, loadings).reshape(design.n, -1)


def _biases(shared: Shared) -> Real | None:
    return shared.items.bias if len(shared.items) else None


def _taken_away(Z: Real, V: Real, w: Real, residual: Real) -> Real:
    VZ = Z @ V
    leverage = np.minimum(w * np.einsum("np,np->n", Z, VZ), 1.0 - 1e-9)
    return np.asarray(VZ * (residual / (1.0 - leverage))[:, None])


def _in_order(order: Int, rows: Real, p: int) -> Real:
    out = np.empty((len(rows), p))
    out[order] = rows
    return out
