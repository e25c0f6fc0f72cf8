"""Adapters: what the model believes about one user, and the solves that give it.

Given (Theta_0, B, T), a user's comparisons have scores eta_j = offset_j + z_j . w with z_j = vec(B^T DPhi_j) and
w = vec(W_i) ~ N(0, T), vec in C order of (k, d2). Two solves:

- `posterior`: the Gaussian N(m, V) nearest to the posterior, in that it maximises E[log-likelihood] - KL(. || N(0, T)).
  With eta_j's mean and variance under it, V = (T^-1 + Z^T diag(v) Z)^-1 at v_j = a_j E[sigma'(eta_j)], and m balances
  T^-1 m = sum_j a_j (label_j - E[sigma(eta_j)]) z_j: steps to the maximum of the quadratic below the objective that
  touches it at the scores' means, w_j = a_j (E[sigma(eta_j)] - 1/2) / E[eta_j]. Expectations of the logistic function
  are those of a mixture of three normal distribution functions, within 8e-5 of it, and so exact for one another.
- `penalised_maximum`: batched Newton steps on the penalised log-likelihood; the covariance is the inverse Hessian.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from app.learning import kernels
from app.learning.arrays import AT_HAND, Int, Real, curvature, inverse, on_lines, real, sigmoid, writable
from app.learning.design import Design, padded
from app.learning.kernels import LOGISTIC_SHARES, LOGISTIC_VARIANCES
from app.learning.lanes import LANES
from app.learning.parameters import Shared

ADAPTER_TOLERANCE = 1e-6
"""In log-odds, a hundred thousandth of what is left unknown about a user."""
STARTING_VARIANCE = 1.0
"""Of a score, where none is known."""
MAX_ITERATIONS = 1000
"""More passes than any well-posed user needs; a user who needs more is reported as not converged."""


Moments = tuple[Real, Real]
"""(n,) means and variances of comparisons' scores."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One user's parameters inside the shared subspace, in log-odds units of the model's features."""

    mean: Real
    """(k, d2)"""
    covariance: Real
    """(p, p) of vec(W) in C order, p = k * d2."""
    n_comparisons: int
    converged: bool
    iterations: int

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "mean": self.mean,
            "covariance": self.covariance,
            "status": np.array([self.n_comparisons, int(self.converged), self.iterations], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Adapter":
        n_comparisons, converged, iterations = (int(v) for v in np.asarray(arrays["status"], dtype=np.int64))
        return cls(
            mean=real(np.asarray(arrays["mean"], dtype=np.float64)),
            covariance=real(np.asarray(arrays["covariance"], dtype=np.float64)),
            n_comparisons=n_comparisons,
            converged=bool(converged),
            iterations=iterations,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """The adapters of N users."""

    means: Real
    """(N, k, d2)"""
    covariances: Real
    """(N, p, p)"""
    n_comparisons: Int
    """(N,)"""
    converged: NDArray[np.bool_]
    """(N,)"""
    iterations: Int
    """(N,) passes that the user's bucket took."""

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, user_index: int) -> Adapter:
        return Adapter(
            mean=real(self.means[user_index]),
            covariance=real(self.covariances[user_index]),
            n_comparisons=int(self.n_comparisons[user_index]),
            converged=bool(self.converged[user_index]),
            iterations=int(self.iterations[user_index]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Adapters as flat vectors, with the moments of every comparison's score."""

    means: Real
    """(N, p)"""
    covariances: Real
    """(N, p, p)"""
    score_mean: Real
    """(n,)"""
    score_variance: Real
    """(n,)"""
    mean_weight: Real
    """(n,) a_j (E[sigmoid(eta_j)] - 1/2) / E[eta_j], of the quadratic in the mean that touches the expected loss."""
    variance_weight: Real
    """(n,) a_j E[sigmoid'(eta_j)]"""
    converged: NDArray[np.bool_]
    iterations: Int
    likelihood: Real
    """(N,) sum_j a_j E[label_j eta_j - log(1 + exp(eta_j))]: the expected log-likelihood."""
    log_volume: Real
    """(N,) log determinants of the covariances; not a number for users without comparisons, who have the prior's."""

    def along(self, p: int) -> "Solution":
        """Of the adapters' first p entries alone."""
        if p == self.means.shape[1]:
            return self
        return replace(self, means=self.means[:, :p].copy(), covariances=self.covariances[:, :p, :p].copy())

    def adapters(self, design: Design, k: int) -> Adapters:
        return Adapters(
            means=self.means.reshape(design.n_users, k, design.d2),
            covariances=self.covariances,
            n_comparisons=design.counts(),
            converged=self.converged,
            iterations=self.iterations,
        )


def expected_probability(mean: Real, variance: Real) -> Real:
    """E[sigmoid(eta)] for eta ~ N(mean, variance), the logistic function as a mixture of normal ones."""
    return np.asarray(
        sum(p * ndtr(mean / np.sqrt(v + variance)) for p, v in zip(LOGISTIC_SHARES, LOGISTIC_VARIANCES, strict=True))
    )


def expected_curvature(mean: Real, variance: Real) -> Real:
    """E[sigmoid'(eta)] for eta ~ N(mean, variance), likewise: the derivative of `expected_probability` by the mean."""
    spreads = [(p, np.sqrt(v + variance)) for p, v in zip(LOGISTIC_SHARES, LOGISTIC_VARIANCES, strict=True)]
    return np.asarray(sum(p / s * np.exp(-0.5 * (mean / s) ** 2) for p, s in spreads) / np.sqrt(2 * np.pi))


def posterior(
    design: Design,
    shared: Shared,
    *,
    start: Moments | None = None,
    iterations: int = MAX_ITERATIONS,
    tolerance: float = ADAPTER_TOLERANCE,
) -> Solution:
    """The variational E step of every user, at the shared parameters and the items' posteriors.

    Parameters
    ----------
    start
        Of the scores, as they were left.
    tolerance
        Largest change of an adapter's mean, in log-odds, at which a user counts as converged.
    """
    given, p = offsets(design, shared), len(shared.T)
    # One user's comparisons are shared out among a vector's lanes, which otherwise have a user each.
    together = design.n_users == 1 and design.n > 0
    order, pointers = design.by_size, design.pointers
    if together:
        parts = min(LANES, design.n)
        order, pointers = np.arange(parts), design.n * np.arange(parts + 1) // parts
    N = len(order)
    mean, variance = (given.mean, None) if start is None else start
    used, kappa = np.empty((2, design.n)), np.empty(design.n)

    def begin(i: int, j: int) -> None:
        used[0, i:j] = mean[i:j]
        used[1, i:j] = STARTING_VARIANCE if variance is None else variance[i:j]
        kappa[i:j] = design.weight[i:j] * (design.label[i:j] - 0.5)

    kernels.over(design.n, begin)
    out = Solution(
        means=np.zeros((N, p)),
        covariances=np.zeros((N, p, p)),
        score_mean=used[0],
        score_variance=used[1],
        mean_weight=np.zeros(design.n),
        variance_weight=np.zeros(design.n),
        converged=np.ones(N, dtype=np.bool_),
        iterations=np.zeros(N, dtype=np.int64),
        likelihood=np.zeros(N),
        log_volume=np.full(N, np.nan),
    )
    T = writable(shared.T)
    precision = inverse(T)
    places, P = _packed_places(shared.k, shared.d2), given.P
    if design.d2 == 1:
        P = rounded_up(P)

    def work(first: int, last: int) -> None:
        kernels.e_step(
            first, last, order, pointers, *design.terms, P, given.own, design.Y, given.C, places,
            given.mean, given.variance, kappa, design.weight, T, precision, iterations, tolerance, used,
            out.means, out.covariances, out.mean_weight, out.variance_weight, out.likelihood, out.log_volume,
            out.iterations, out.converged, together,
        )  # fmt: skip

    if not together:
        kernels.over_lanes(order, pointers, work)
        return out
    work(0, N)
    return replace(
        out,
        means=out.means[:1],
        covariances=out.covariances[:1],
        converged=out.converged[:1],
        iterations=out.iterations[:1],
        likelihood=out.likelihood.sum(keepdims=True),
        log_volume=out.log_volume[:1],
    )


def rounded_up(table: Real) -> Real:
    """The table with columns of zeros up to a multiple of LANES."""
    if not table.shape[1] % LANES and table.nbytes < AT_HAND:
        return table
    wide = on_lines((len(table), -(-table.shape[1] // LANES) * LANES))
    wide[:, : table.shape[1]] = table
    return wide


@dataclass(frozen=True, slots=True, eq=False)
class Offsets:
    """What the shared parameters say about comparisons before any adapter: tables for the kernels."""

    P: Real
    own: Real
    C: NDArray[np.float32]
    """(M, k (k + 1) / 2) lower triangles of the covariances of the rows' own loadings, with columns of zeros up to a
    multiple of LANES; nothing without items.
    """
    mean: Real
    """(n,) scores under Theta_0 and the items' biases."""
    variance: Real
    """(n,) of the biases."""


def offsets(design: Design, shared: Shared) -> Offsets:
    items = shared.items
    scores, P, own = design.scores_and_tables(shared.Theta_0, items.bias, shared.B, items.loadings)
    variance = np.zeros(design.n)
    if design.n_items:
        doubt = items.bias_variance[design.item]
        kernels.over(design.n, lambda i, j: kernels.row_sums(i, j, design.indptr, design.rows, doubt, variance))
    wide = -(-shared.k * (shared.k + 1) // 2 // LANES) * LANES
    C = on_lines((design.n_rows if design.n_items else 0, wide), np.float32)
    if design.n_items:
        covariance = writable(items.covariance)
        places = _lower_triangle(shared.k)
        kernels.over(len(C), lambda i, j: kernels.pack(i, j, design.item, covariance, places, C))
    return Offsets(P, own, C, scores, variance)


@cache
def _lower_triangle(k: int) -> Int:
    """Where the lower triangle's entries stand among a (k, k) matrix's."""
    a, b = np.tril_indices(k)
    return np.asarray(a * k + b, dtype=np.int64)


@cache
def _packed_places(k: int, d2: int) -> Int:
    """Where the lower triangle of the constant column's (k, k) stands in the one of vec(W)'s (p, p)."""
    a, b = np.tril_indices(k)
    return np.asarray(a * d2 * (a * d2 + 1) // 2 + b * d2, dtype=np.int64)


def predictive_moments(design: Design, shared: Shared, means: Real, covariances: Real) -> tuple[Real, Real]:
    """(n,) mean and variance of every comparison's score; adapters means (N, p), covariances (N, p, p)."""
    given, mean, variance = offsets(design, shared), np.empty(design.n), np.empty(design.n)
    m, V = writable(means), writable(covariances)

    def work(first: int, last: int) -> None:
        kernels.predictive_moments(
            first, last, design.pointers, *design.terms, given.P, given.own, design.Y, given.C, given.mean,
            given.variance, m, V, mean, variance,
        )  # fmt: skip

    kernels.over_users(design.pointers, work)
    return mean, variance


def penalised_maximum(
    design: Design,
    offset: Real,
    Z: Real,
    prior_covariance: Real,
    *,
    start: Real | None = None,
    iterations: int = 100,
    tolerance: float = ADAPTER_TOLERANCE,
) -> Adapters:
    """The maximiser of sum_j a_j log p(label_j) - w^T T^-1 w / 2 for every user, by batched, damped Newton steps.

    Parameters
    ----------
    start
        (N, p) adapters to start from.
    tolerance
        Largest absolute gradient entry at which a user counts as converged.
    """
    out = _Blank(design, offset, Z, prior_covariance)
    precision = inverse(prior_covariance)
    for bucket in design.buckets:
        index = bucket.index
        Zb, o, a, t = out.Z[index], out.offset[index], out.weight[index], out.label[index]
        m = np.zeros((len(index), out.p)) if start is None else start[bucket.users].copy()
        steps, converged = 0, False
        while True:
            score = o + np.einsum("ump,up->um", Zb, m)
            gradient = np.einsum("ump,um->up", Zb, a * (sigmoid(score) - t)) + m @ precision
            V = inverse(precision + np.swapaxes(Zb, 1, 2) @ ((a * curvature(score))[..., None] * Zb))
            converged = bool(np.abs(gradient).max(initial=0.0) <= tolerance)
            if converged or steps == iterations:
                break
            m = _damped(Zb, o, a, t, precision, m, np.einsum("upq,uq->up", V, gradient))
            steps += 1
        out.store(bucket.users, m, V, steps, converged=converged)
    return out.adapters(design, Z.shape[1])


def _damped(Z: Real, o: Real, a: Real, t: Real, precision: Real, m: Real, step: Real) -> Real:
    """Newton's step, halved for each user until the penalised loss does not rise."""

    def loss(v: Real) -> Real:
        score = o + np.einsum("ump,up->um", Z, v)
        fit = np.einsum("um,um->u", a, np.logaddexp(0.0, score) - t * score)
        return np.asarray(fit + 0.5 * np.einsum("up,pq,uq->u", v, precision, v))

    before, length = loss(m), np.ones(len(m))
    for _ in range(30):
        worse = loss(m - length[:, None] * step) > before + 1e-12 * np.abs(before)
        if not worse.any():
            break
        length[worse] *= 0.5
    return m - length[:, None] * step


class _Blank:
    """Padded inputs of a solve and room for its outputs; users without comparisons keep the prior."""

    def __init__(self, design: Design, offset: Real, Z: Real, prior_covariance: Real) -> None:
        self.p = prior_covariance.shape[0]
        self.n, N = design.n, design.n_users
        self.Z, self.offset = padded(Z.reshape(self.n, self.p)), padded(offset)
        self.weight, self.label = padded(design.weight), padded(design.label)
        self.means, self.covariances = np.zeros((N, self.p)), np.repeat(prior_covariance[None], N, axis=0)
        self.converged, self.iterations = np.ones(N, dtype=np.bool_), np.zeros(N, dtype=np.int64)

    def store(self, users: Int, m: Real, V: Real, steps: int, *, converged: bool) -> None:
        self.means[users], self.covariances[users] = m, V
        self.converged[users], self.iterations[users] = converged, steps

    def adapters(self, design: Design, k: int) -> Adapters:
        return Adapters(
            means=self.means.reshape(design.n_users, k, design.d2),
            covariances=self.covariances,
            n_comparisons=design.counts(),
            converged=self.converged,
            iterations=self.iterations,
        )
