"""The spectral start, and the same statistic as a test of whether users differ at all.

With F the pooled Fisher matrix over row features and G_i the whitened score matrix of user i at Theta_0,
G_i = F^{-1/2} sum_j e_j DPhi_j, the U-statistic sum_i (G_i G_i^T - sum_j g_j g_j^T) has expectation zero when users
do not differ, and its leading eigenvectors span the directions along which they do.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator

from app.learning import kernels
from app.learning.arrays import Int, Real, curvature, product, sigmoid, symmetric
from app.learning.design import Design
from app.learning.wide import TableStatistic, WideStatistic, energy_outside, leading_eigenvectors

START_TOLERANCE = 1e-2
"""Relative accuracy of the start's eigenvectors."""
LEFTOVER_NUMBERS = 100_000_000
"""Numbers of score matrices that the leftover energy of a wide table is summed from; evenly spaced users stand for all.
"""
PERMUTATIONS = 39
"""Relabelled data sets whose largest eigenvalue a direction must beat."""


@dataclass(frozen=True, slots=True, eq=False)
class UserSpectrum:
    """Eigenvalues and directions of the whitened U-statistic."""

    eigenvalues: Real
    """(d1,) descending."""
    directions: Real
    """(d1, d1) columns in raw coordinates, to be orthonormalised."""


def user_spectrum(design: Design, scores: Real) -> UserSpectrum:
    """The U-statistic's spectrum, from the residuals at these scores (n,)."""
    residual, whitener = _residuals(design, scores), _whitener(design, scores)
    U = whitener @ _between(design, residual, design.user, _own(design, residual)) @ whitener
    eigenvalues, vectors = np.linalg.eigh(symmetric(U))
    return UserSpectrum(eigenvalues[::-1], whitener @ vectors[:, ::-1])


def spectral_start(design: Design, scores: Real, k: int) -> Real:
    """(d1, k) orthonormal: the k leading directions along which users differ."""
    if not isinstance(design.X, np.ndarray):
        return _wide(design, scores).directions(k, np.random.default_rng(0)) if k else np.zeros((design.d1, 0))
    if design.wide:
        return _of_table(design, scores).directions(k, np.random.default_rng(0))[0]
    leading = user_spectrum(design, scores).directions[:, :k]
    return np.ascontiguousarray(np.linalg.qr(leading)[0])


def spectral_start_with_items(design: Design, scores: Real, k: int, rng: np.random.Generator) -> tuple[Real, Real]:
    """(d1, k) and (E, k): the leading directions over features and the items' own indicators together.

    The same U-statistic as an operator, whitened by the information about each item, so that nothing of size E^2 is
    formed.
    """
    F, E = design.d1, design.n_items
    if k and design.wide:
        return _of_table(design, scores, with_items=E > 0).directions(k, rng)
    if k == 0 or not E:
        return spectral_start(design, scores, k), np.zeros((E, k))
    residual, whitener = _residuals(design, scores), _whitener(design, scores)
    w = design.weight * curvature(scores)
    information = design.of_items(design.row_weights(w))
    scale = 1.0 / np.sqrt(information + max(float(np.median(information)), 1e-12))
    chooser = csr_array((residual, (design.user, np.arange(design.n))), shape=(design.n_users, design.n))

    def multiply(v: Real) -> Real:
        v = v.ravel()
        out = np.zeros(F + E)
        for b in range(design.d2):
            Theta = np.zeros((F, design.d2))
            Theta[:, b] = whitener @ v[:F]
            bias = np.append(scale * v[F:], 0.0) if b == 0 else None
            q = design.scores(Theta, bias)
            r = residual * (product(chooser, q)[design.user] - residual * q)
            G = design.adjoint_rows(r)
            out[:F] += whitener @ product(design.X.T, G[:, b])
            if b == 0:
                out[F:] += scale * design.of_items(G[:, 0])
        return out

    operator = LinearOperator((F + E, F + E), matvec=multiply, dtype=np.float64)
    wanted = min(k, F + E - 1)
    _, vectors = leading_eigenvectors(operator, wanted, rng, tolerance=START_TOLERANCE)
    stacked = np.vstack([whitener @ vectors[:F], scale[:, None] * vectors[F:]])
    Q = np.linalg.qr(np.hstack([stacked, rng.standard_normal((F + E, k - wanted))]))[0]
    return np.ascontiguousarray(Q[:F]), np.ascontiguousarray(Q[F:])


def rank_by_permutation(
    design: Design, scores: Real, rng: np.random.Generator, *, permutations: int = PERMUTATIONS
) -> int:
    """How many eigenvalues exceed the largest one under permuted user labels; 0: users do not differ."""
    if design.wide:
        return _of_table(design, scores).rank(rng, permutations)
    if not isinstance(design.X, np.ndarray):
        return _wide(design, scores).rank(rng, permutations)
    residual, whitener = _residuals(design, scores), _whitener(design, scores)
    own = _own(design, residual)

    def spectrum(user: Int) -> Real:
        return np.asarray(np.linalg.eigvalsh(symmetric(whitener @ _between(design, residual, user, own) @ whitener)))

    found = spectrum(design.user)
    shuffled = [rng.permutation(design.user) for _ in range(permutations)]
    parts = kernels.over(
        permutations, lambda i, j: max(float(spectrum(user)[-1]) for user in shuffled[i:j]), small=kernels.CHUNKS
    )
    return int((found > max(parts)).sum())


def leftover_energy(design: Design, scores: Real, B: Real) -> float:
    """An estimate of sum_i ||(I - B B^T) (Theta_i - fitted Theta_i)||_F^2: what rank k leaves out, in log-odds squared.

    By moments: to first order a user's score at the fit is F_i times what the fit misses, so the U-statistic divided
    by the squared information estimates its second moment, without the noise.
    """
    n_users = design.n_users
    if design.wide:
        stride = -(-design.n * design.d1 // LEFTOVER_NUMBERS)
        design, scores = design.thinned(stride), scores[design.user % stride == 0]
    residual = _residuals(design, scores)
    w = design.weight * curvature(scores)
    share = np.bincount(design.user, w, minlength=design.n_users) / w.sum()
    if design.wide:
        energy = energy_outside(_of_table(design, scores), w, B)
        return max(energy / float((share**2).sum()) * n_users, 0.0)
    if not isinstance(design.X, np.ndarray):
        return max(_wide(design, scores).outside(B) / float((share**2).sum()) * design.n_users, 0.0)
    F = design.grams(w).sum(axis=0)
    if not F.any():
        return 0.0
    inverse = np.linalg.inv(F + 1e-3 * np.trace(F) / len(F) * np.eye(len(F)))
    between = _between(design, residual, design.user, _own(design, residual))
    outside = np.eye(len(F)) - B @ B.T
    second_moment = outside @ inverse @ between @ inverse @ outside / float((share**2).sum())
    return max(float(np.trace(second_moment)) * design.n_users, 0.0)


def _of_table(design: Design, scores: Real, *, with_items: bool = False) -> TableStatistic:
    w = design.weight * curvature(scores)
    return TableStatistic.of(design, _residuals(design, scores), w, with_items=with_items)


def _wide(design: Design, scores: Real) -> WideStatistic:
    return WideStatistic.of(design, _residuals(design, scores), design.weight * curvature(scores))


def _residuals(design: Design, scores: Real) -> Real:
    return design.weight * (design.label - sigmoid(scores))


def _whitener(design: Design, scores: Real) -> Real:
    F = design.grams(design.weight * curvature(scores)).sum(axis=0)
    if not F.any():
        return np.zeros(F.shape)
    values, vectors = np.linalg.eigh(symmetric(F) + 1e-4 * np.trace(F) / len(F) * np.eye(len(F)))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def _between(design: Design, residual: Real, user: Int, own: Real) -> Real:
    """Sum over users of (sum_j e_j DPhi_j)(...)^T less each comparison's own square, unwhitened."""
    chooser = csr_array((residual, (user, np.arange(design.n))), shape=(design.n_users, design.n))
    total = -own
    for S in design.blocks:
        G = product(chooser @ S, design.X)
        total = total + G.T @ G
    return total


def _own(design: Design, residual: Real) -> Real:
    """(d1, d1) the sum over j of e_j^2 DPhi_j DPhi_j^T."""
    return np.asarray(design.grams(residual**2).sum(axis=0))
