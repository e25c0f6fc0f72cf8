"""The numeric core again, slow and obvious: dense designs, one user at a time, SciPy's optimiser."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from app.learning import Comparisons
from app.learning.features import FeatureMap

Real = NDArray[np.float64]


def dense_designs(comparisons: Comparisons, features: FeatureMap) -> Real:
    """(n, d1, d2), term by term."""
    X, Y = features.items(comparisons.items), features.columns(comparisons.Y)
    out = np.zeros((len(comparisons), X.shape[1], Y.shape[1]))
    for j in range(len(comparisons)):
        for term in range(comparisons.indptr[j], comparisons.indptr[j + 1]):
            out[j] += comparisons.signs[term] * np.outer(X[comparisons.rows[term]], Y[comparisons.cols[term]])
    return out


def global_maximum(D: Real, label: Real, weight: Real, ridge: Real) -> Real:
    """(d1, d2) of the ridge-regularised Bradley-Terry-Luce model."""

    def loss(theta: Real) -> tuple[float, Real]:
        Theta = theta.reshape(D.shape[1:])
        eta = np.einsum("nab,ab->n", D, Theta)
        value = weight @ (np.logaddexp(0, eta) - label * eta) + 0.5 * (ridge * Theta**2).sum()
        gradient = np.einsum("n,nab->ab", weight * (1 / (1 + np.exp(-eta)) - label), D) + ridge * Theta
        return float(value), gradient.ravel()

    start = np.zeros(D[0].size)
    found = minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 10_000, "gtol": 1e-10})
    return np.asarray(found.x, dtype=np.float64).reshape(D.shape[1:])


def penalised_adapter(D: Real, label: Real, Theta_0: Real, B: Real, T: Real) -> Real:
    """(p,) one user's maximum of the log-likelihood less w^T T^-1 w / 2."""
    Z, offset = np.einsum("nab,ac->ncb", D, B).reshape(len(D), -1), np.einsum("nab,ab->n", D, Theta_0)
    precision = np.linalg.inv(T)

    def loss(w: Real) -> float:
        eta = offset + Z @ w
        return float((np.logaddexp(0, eta) - label * eta).sum() + 0.5 * w @ precision @ w)

    found = minimize(
        loss, np.zeros(len(T)), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 9999}
    )
    return np.asarray(found.x)


def variational_posterior(
    D: Real, label: Real, weight: Real, Theta_0: Real, B: Real, T: Real
) -> tuple[Real, Real, float]:
    """One user's mean (p,), covariance (p, p) and share of the bound, after very many passes."""
    Z, offset = np.einsum("nab,ac->ncb", D, B).reshape(len(D), -1), np.einsum("nab,ab->n", D, Theta_0)
    precision, c = np.linalg.inv(T), np.ones(len(D))
    for _ in range(2000):
        w = weight * np.tanh(c / 2) / (2 * c)
        V = np.linalg.inv(precision + sum(w[j] * np.outer(Z[j], Z[j]) for j in range(len(D))))
        m = V @ sum((weight[j] * (label[j] - 0.5) - w[j] * offset[j]) * Z[j] for j in range(len(D)))
        mean, variance = offset + Z @ m, np.array([z @ V @ z for z in Z])
        c = np.sqrt(mean**2 + variance)
    divergence = 0.5 * (
        np.trace(precision @ V) + m @ precision @ m - len(m) - np.linalg.slogdet(V)[1] + np.linalg.slogdet(T)[1]
    )
    fit = weight @ ((label - 0.5) * mean - np.log(2 * np.cosh(c / 2)))
    return m, V, float(fit - divergence)
