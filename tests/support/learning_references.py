"""The numeric core again, slow and obvious: dense designs, one user at a time, SciPy's optimiser."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

from app.learning import Comparisons
from app.learning.features import FeatureMap
from app.learning.kernels import LOGISTIC_SHARES, LOGISTIC_VARIANCES

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


def expected(mean: Real, variance: Real) -> tuple[Real, Real, Real]:
    """E of sigmoid, of its slope and of log(1 + exp) under N(mean, variance), the logistic as the method's mixture."""
    probability, slope, loss = np.zeros((3, len(mean)))
    for share, width in zip(LOGISTIC_SHARES, LOGISTIC_VARIANCES, strict=True):
        spread = np.sqrt(variance + width)
        probability += share * norm.cdf(mean, scale=spread)
        slope += share * norm.pdf(mean, scale=spread)
        loss += share * (mean * norm.cdf(mean, scale=spread) + spread**2 * norm.pdf(mean, scale=spread))
    return probability, slope, loss


def variational_posterior(
    D: Real, label: Real, weight: Real, Theta_0: Real, B: Real, T: Real
) -> tuple[Real, Real, float]:
    """One user's mean (p,), covariance (p, p) and share of the bound, after very many passes."""
    Z, offset = np.einsum("nab,ac->ncb", D, B).reshape(len(D), -1), np.einsum("nab,ab->n", D, Theta_0)
    precision, m, V = np.linalg.inv(T), np.zeros(len(T)), T
    for _ in range(1000):
        mean, variance = offset + Z @ m, np.einsum("np,pq,nq->n", Z, V, Z)
        probability, slope, _ = expected(mean, variance)
        bend = weight * np.where(np.abs(mean) < 1e-3, slope, (probability - 0.5) / np.where(mean == 0, 1, mean))
        m = np.linalg.solve(precision + (Z.T * bend) @ Z, Z.T @ (weight * (label - 0.5) - bend * offset))
        V = np.linalg.inv(0.5 * np.linalg.inv(V) + 0.5 * (precision + (Z.T * (weight * slope)) @ Z))
    mean, variance = offset + Z @ m, np.einsum("np,pq,nq->n", Z, V, Z)
    divergence = 0.5 * (
        np.trace(precision @ V) + m @ precision @ m - len(m) - np.linalg.slogdet(V)[1] + np.linalg.slogdet(T)[1]
    )
    fit = weight @ (label * mean - expected(mean, variance)[2])
    return m, V, float(fit - divergence)
