"""The designs' Gram matrices, as far as fits need them: inverses, about, and how many parameters the data determine.

G_b = sum_j w_j DPhi_j[:, b] DPhi_j[:, b]^T, one for each column b of Y. With few row features they are matrices
(d2, d1, d1). Where rows are a large sparse table, such as the indicators of ten thousand states, only their diagonals
are formed, and their spectra are summarised: from a start z of random signs, Lanczos' process on G_b gives nodes and
weights with tr f(G_b) = E[z^T f(G_b) z] ~ d1 sum_i weight_i f(node_i), whichever f (stochastic Lanczos quadrature;
Ubaru, Chen & Saad 2017). The diagonal alone would take ten times as many parameters for known as trajectories
determine: every comparison is of a hundred of them together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import block_diag, csr_array

from app.learning.arrays import Real, inverse, product
from app.learning.design import Design

NODES = 16
"""Of the quadrature, from one start: its error falls like 1 / sqrt(d1), and d1 is in the thousands."""
EXHAUSTED = 1e-10
"""Share of a column's largest node below which Lanczos' process has seen all of the spectrum."""

Apply = Callable[[Real], Real]


@dataclass(frozen=True, eq=False)
class DenseGrams:
    matrices: Real
    """(d2, d1, d1)"""

    @cached_property
    def _eigenvalues(self) -> Real:
        return np.asarray(np.maximum(np.linalg.eigvalsh(self.matrices), 0.0))

    def determined(self, ridge: Real) -> Real:
        """(d2,) the effective number of parameters, tr G_b (G_b + ridge_b)^{-1}."""
        return np.asarray((self._eigenvalues / (self._eigenvalues + ridge[:, None])).sum(axis=1))

    def solver(self, ridge: Real) -> Apply:
        """(G_b + ridge_b)^{-1} times column b of a (d1, d2)."""
        inverses = inverse(self.matrices + ridge[:, None, None] * np.eye(self.matrices.shape[1]))
        return lambda Theta: np.einsum("bij,jb->ib", inverses, Theta)

    def pooled_solver(self) -> Apply:
        """(sum_b G_b)^{-1} times a (d1, k)."""
        pooled = inverse(safe(self.matrices.sum(axis=0)))
        return lambda B: np.asarray(pooled @ B)


@dataclass(frozen=True, slots=True, eq=False)
class SparseGrams:
    diagonal: Real
    """(d2, d1)"""
    nodes: Real
    """(d2, q)"""
    weights: Real
    """(d2, q), of each column sum to 1."""

    def determined(self, ridge: Real) -> Real:
        """(d2,) the effective number of parameters, about."""
        share = (self.weights * self.nodes / (self.nodes + ridge[:, None])).sum(axis=1)
        return np.asarray(self.diagonal.shape[1] * share)

    def solver(self, ridge: Real) -> Apply:
        """An approximate inverse, by the diagonals."""
        return lambda Theta: Theta / (self.diagonal + ridge[:, None]).T

    def pooled_solver(self) -> Apply:
        pooled = self.diagonal.sum(axis=0)
        return lambda B: B / (pooled + 1e-6 * pooled.mean() + 1e-12)[:, None]

    def information(self, ridge: Real) -> Real:
        """(d1, d2) what is known of every entry by itself.

        In proportion to the diagonal, so that the entries' variances 1 / (information + ridge) sum to
        tr (G_b + ridge_b)^{-1}: the diagonal itself says what would be known of an entry if all others were.
        """
        d1 = self.diagonal.shape[1]
        total = d1 * (self.weights / (self.nodes + ridge[:, None])).sum(axis=1)
        low, high = np.zeros(len(ridge)), np.ones(len(ridge))
        for _ in range(40):
            share = 0.5 * (low + high)
            more = (1.0 / (share[:, None] * self.diagonal + ridge[:, None])).sum(axis=1) < total
            low, high = np.where(more, low, share), np.where(more, share, high)
        return np.ascontiguousarray((0.5 * (low + high)[:, None] * self.diagonal).T)


Grams = DenseGrams | SparseGrams


def grams_of(design: Design, w: Real, *, at_most: int | None = None) -> Grams:
    """The Gram matrices of a design at weights w (n,); with `at_most`, from that many comparisons."""
    if isinstance(design.X, np.ndarray):
        return DenseGrams(design.grams(w, at_most=at_most))
    stride = 1 if at_most is None else max(1, design.n // at_most)
    index = np.arange(0, design.n, stride)
    share = float(w[index].sum())
    scaled = np.tile(w[index] * (float(w.sum()) / share if share > 0 else 1.0), design.d2)
    A, shape = csr_array(block_diag(design.columns(index), format="csr")), (design.d2, design.d1)
    back = A.T.tocsr()

    def multiply(V: Real) -> Real:
        return product(back, scaled * product(A, V.ravel())).reshape(shape)

    diagonal = product(back.power(2), scaled).reshape(shape)
    nodes, weights = _quadrature(multiply, np.random.default_rng(0).choice([-1.0, 1.0], size=shape))
    return SparseGrams(diagonal, nodes, weights)


def _quadrature(multiply: Apply, start: Real) -> tuple[Real, Real]:
    """(d2, q) nodes and weights for each column's matrix, from the starts (d2, d1)."""
    d2, d1 = start.shape
    steps = min(NODES, d1)
    basis = np.zeros((d2, steps, d1))
    T = np.zeros((d2, steps, steps))
    v = start / np.linalg.norm(start, axis=1, keepdims=True)
    for step in range(steps):
        basis[:, step] = v
        known, ahead = basis[:, : step + 1], multiply(v)[:, :, None]
        T[:, step, step] = (v[:, None] @ ahead)[:, 0, 0]
        for _ in range(2):  # once is not enough for orthogonality
            ahead = ahead - np.swapaxes(known, 1, 2) @ (known @ ahead)
        size = np.linalg.norm(ahead[:, :, 0], axis=1)
        going = size > EXHAUSTED * np.abs(T).max(axis=(1, 2), initial=1e-300)
        v = np.where(going[:, None], ahead[:, :, 0] / np.where(going, size, 1.0)[:, None], 0.0)
        if step + 1 < steps:
            T[:, step, step + 1] = T[:, step + 1, step] = np.where(going, size, 0.0)
    values, vectors = np.linalg.eigh(T)
    return np.maximum(values, 0.0), vectors[:, 0, :] ** 2


def safe(matrix: Real) -> Real:
    """With a share of its mean on the diagonal, so that it has an inverse."""
    size = max(len(matrix), 1)
    return np.asarray(matrix + (1e-6 * np.trace(matrix) / size + 1e-12) * np.eye(len(matrix)))
