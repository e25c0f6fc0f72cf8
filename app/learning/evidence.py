"""The default estimator: (Theta_0, B, T) at the maximum of a bound on the marginal likelihood.

The adapters are random effects, vec(W_i) ~ N(0, T) with T = R (x) S, and R alone where d2 = 1. One pass is
- E: the posterior of every adapter (adapters.posterior), one tightening of the bound;
- parameter expansion: the adapters' mean moves into Theta_0, their second moment into T;
- M: weighted least squares for (Theta_0, B) under E[vec(W) vec(W)^T], by truncated conjugate gradients;
- gauge: B = Q R, R absorbed by the adapters.
Each lowers no bound. The bound itself, with c_j at its optimum:

    sum_j a_j ((label_j - 1/2) E[eta_j] - log(2 cosh(c_j / 2))) - sum_i KL(q_i || N(0, T)) - 1/2 sum_b ridge_b
    ||Theta_0[:, b]||^2

Source: Jaakkola & Jordan 2000; Polson, Scott & Windle 2013; parameter expansion after Liu, Rubin & Wu 1998.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from app.learning.adapters import Solution, bound_weights, posterior
from app.learning.arrays import Real, symmetric
from app.learning.btl import column_inverses
from app.learning.conjugate import Pair, conjugate_gradients
from app.learning.design import Design, padded
from app.learning.parameters import Ending, Shared
from app.learning.subspace import orthonormal

INITIAL_SPREAD = 0.5
"""Prior variance of an adapter's entries before the first pass, in squared log-odds."""
SMALLEST_VARIANCE = 1e-8
"""Floor of T's eigenvalues: a direction below it is switched off, and the solves stay finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What a pass leaves behind for the next one."""

    shared: Shared
    tilt: Real
    """(n,) c_j"""
    bound: float
    """Of `shared` before this pass changed it."""


def starting_point(Theta_0: Real, B: Real, ridge: Real) -> Shared:
    p = B.shape[1] * Theta_0.shape[1]
    return Shared(Theta_0, B, INITIAL_SPREAD * np.eye(p), ridge)


def maximise_evidence(
    design: Design,
    start: Shared,
    *,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None] | None = None,
) -> tuple[Shared, Ending]:
    """Passes until the bound's relative gain falls below `tolerance`, or `max_passes`."""
    tilt = np.abs(design.scores(start.Theta_0)) + 0.5
    shared, before = start, -np.inf
    for passes in range(1, max_passes + 1):
        step = evidence_pass(design, shared, tilt)
        if report is not None:
            report(passes, step.bound)
        if step.bound - before <= tolerance * abs(step.bound) and passes > 2:
            return shared, Ending(converged=True, passes=passes, reason="the bound stands still", objective=step.bound)
        shared, tilt, before = step.shared, step.tilt, step.bound
    return shared, Ending(converged=False, passes=max_passes, reason="the pass limit was reached", objective=before)


def evidence_pass(design: Design, shared: Shared, tilt: Real) -> Pass:
    """One E step, expansion, M step and return to the gauge."""
    offset, Z = design.scores(shared.Theta_0), design.project(shared.B)
    solution = posterior(design, offset, Z, shared.T, tilt=tilt, iterations=1)
    bound = evidence_bound(design, shared, solution)
    expanded, means = _absorb(design, shared, solution)
    moved = weighted_least_squares(design, expanded, replace(solution, means=means))
    return Pass(_gauge(moved), solution.tilt, bound)


def evidence_bound(design: Design, shared: Shared, solution: Solution) -> float:
    """The bound in nats at these posteriors, with the c_j at their optimum."""
    c = solution.tilt
    fit = design.weight @ ((design.label - 0.5) * solution.score_mean - np.logaddexp(c / 2, -c / 2))
    prior = 0.5 * float((shared.ridge * shared.Theta_0**2).sum())
    return float(fit) - prior - _divergence(shared.T, solution)


def _divergence(T: Real, solution: Solution) -> float:
    """The sum over users of KL(N(m_i, V_i) || N(0, T))."""
    p = T.shape[0]
    if p == 0:
        return 0.0
    N, precision = len(solution.means), np.linalg.inv(T)
    second = solution.means.T @ solution.means + solution.covariances.sum(axis=0)
    volumes = np.linalg.slogdet(solution.covariances)[1].sum()
    return 0.5 * float(np.vdot(precision, second) - p * N - volumes + N * np.linalg.slogdet(T)[1])


def _absorb(design: Design, shared: Shared, solution: Solution) -> tuple[Shared, Real]:
    """Move the adapters' common mean into Theta_0 and their spread into T; returns the centred means too."""
    if shared.k == 0:
        return shared, solution.means
    N, k, d2 = design.n_users, shared.k, shared.d2
    precision = np.linalg.inv(shared.T)
    pull = np.kron(shared.B.T @ shared.B, np.diag(shared.ridge))
    target = N * precision @ solution.means.mean(axis=0) - (shared.B.T @ (shared.Theta_0 * shared.ridge)).ravel()
    common = np.linalg.solve(N * precision + pull, target)
    means = solution.means - common
    second_moment = (means.T @ means + solution.covariances.sum(axis=0)) / N
    T = separable_covariance(second_moment, shared.T, k, d2)
    return replace(shared, Theta_0=shared.Theta_0 + shared.B @ common.reshape(k, d2), T=T), means


def separable_covariance(second_moment: Real, T: Real, k: int, d2: int) -> Real:
    """The next T = R (x) S, R (k, k) and S (d2, d2), by one round of the matrix normal's alternating updates.

    A free (p, p) covariance has too many entries for the users there are; each update maximises the bound in its
    factor.
    """
    moment, blocks = second_moment.reshape(k, d2, k, d2), T.reshape(k, d2, k, d2)
    S = np.einsum("abad->bd", blocks)
    S = _floored(S * (d2 / np.trace(S)))
    R = _floored(np.einsum("abcd,bd->ac", moment, np.linalg.inv(S)) / d2)
    if d2 > 1:
        S = _floored(np.einsum("abcd,ac->bd", moment, np.linalg.inv(R)) / k)
    return symmetric(np.asarray(np.kron(R, S), dtype=np.float64))


def _floored(T: Real) -> Real:
    values, vectors = np.linalg.eigh(symmetric(T))
    if values.size == 0 or values[0] >= SMALLEST_VARIANCE:
        return symmetric(T)
    return symmetric((vectors * np.maximum(values, SMALLEST_VARIANCE)) @ vectors.T)


def _gauge(shared: Shared) -> Shared:
    if shared.k == 0:
        return shared
    Q, R = orthonormal(shared.B)
    K = np.kron(R, np.eye(shared.d2))
    return replace(shared, B=Q, T=symmetric(K @ shared.T @ K.T))


def weighted_least_squares(
    design: Design, shared: Shared, solution: Solution, *, iterations: int = 15, tolerance: float = 1e-2
) -> Shared:
    """The M step for (Theta_0, B), truncated: the expected complete-data quadratic never rises."""
    n, k, d2, p = design.n, shared.k, shared.d2, shared.k * shared.d2
    w = design.weight * bound_weights(solution.tilt)
    means = solution.means[design.user]

    def operator(pair: Pair) -> Pair:
        Z = design.project(pair[1]).reshape(n, p)
        r = w * (design.scores(pair[0]) + np.einsum("np,np->n", Z, means))
        R = r[:, None] * means + w[:, None] * spread_products(design, solution.covariances, Z)
        return design.adjoint_scores(r) + shared.ridge * pair[0], design.adjoint_project(R.reshape(n, k, d2))

    kappa = design.weight * (design.label - 0.5)
    image = operator((shared.Theta_0, shared.B))
    pulled = design.adjoint_project((kappa[:, None] * means).reshape(n, k, d2))
    rhs = (design.adjoint_scores(kappa) - image[0], pulled - image[1])
    moments = user_moments(design, w, solution.means, solution.covariances, k)
    change = conjugate_gradients(
        operator,
        block_preconditioner(design, w, shared.ridge, moments),
        rhs,
        iterations=iterations,
        tolerance=tolerance,
    )
    return replace(shared, Theta_0=shared.Theta_0 + change[0], B=shared.B + change[1])


def user_moments(design: Design, w: Real, means: Real, covariances: Real, k: int) -> Real:
    """(k, k) the users' E[W W^T] / d2, weighted by their information."""
    information = np.bincount(design.user, w, minlength=design.n_users)
    share = information / max(float(information.sum()), 1e-300)
    N, d2 = design.n_users, design.d2
    mean = means.reshape(N, k, d2)
    own = np.einsum("i,iab,icb->ac", share, mean, mean)
    spread = np.einsum("i,iabcb->ac", share, covariances.reshape(N, k, d2, k, d2))
    return np.asarray((own + spread) / d2)


def block_preconditioner(design: Design, w: Real, ridge: Real, moments: Real) -> Callable[[Pair], Pair]:
    """Inverse Gram matrices for Theta_0's columns; pooled Gram times the adapters' moments for B."""
    grams = design.grams(w)
    columns = column_inverses(grams, ridge)
    pooled, k = grams.sum(axis=0), len(moments)
    pooled_inverse = np.linalg.inv(pooled + (1e-6 * np.trace(pooled) / len(pooled) + 1e-12) * np.eye(len(pooled)))
    moment_inverse = (
        np.linalg.inv(moments + (1e-6 * np.trace(moments) / max(k, 1) + 1e-12) * np.eye(k)) if k else moments
    )

    def precondition(pair: Pair) -> Pair:
        return np.einsum("bij,jb->ib", columns, pair[0]), pooled_inverse @ pair[1] @ moment_inverse

    return precondition


def spread_products(design: Design, covariances: Real, Z: Real) -> Real:
    """(n, p) V_{user(j)} z_j."""
    rows = padded(Z)
    out = np.zeros_like(rows)
    for bucket in design.buckets:
        out[bucket.index] = rows[bucket.index] @ covariances[bucket.users]
    return out[:-1]
