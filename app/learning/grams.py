"""The designs' Gram matrices, as far as fits need them: inverses, about, and how many parameters the data determine.

G_b = sum_j w_j DPhi_j[:, b] DPhi_j[:, b]^T, one for each column b of Y. With few row features they are matrices
(d2, d1, d1). Where rows are a large sparse table, such as the indicators of ten thousand states, only their diagonals
are formed, and their spectra are summarised: from a start z of random signs, Lanczos' process on G_b gives nodes and
weights with tr f(G_b) = E[z^T f(G_b) z] ~ d1 sum_i weight_i f(node_i), whichever f (stochastic Lanczos quadrature;
Ubaru, Chen & Saad 2017). The diagonal alone would take ten times as many parameters for known as trajectories
determine: every comparison is of a hundred of them together. Where they are a dense table with very many features, a
block Krylov space takes the place of both: a few large eigenvalues are known, the rest are a mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import block_diag, csr_array, diags_array

from app.learning.arrays import Int, Real, Sparse, Table, inverse, product, symmetric
from app.learning.design import Design

NODES = 16
"""Of the quadrature, from one start: its error falls like 1 / sqrt(d1), and d1 is in the thousands."""
BLOCK, DEPTH = 8, 8
"""Of the Krylov spaces: the first says how true the quadrature is, both how well a few large eigenvalues are known."""
BLOCK_NUMBERS = 500_000
"""Numbers of products with the table that are formed at a time."""
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

    def pooled_spectrum(self, shares: Real) -> tuple[Real, Real]:
        """Eigenvalues of sum_b shares_b G_b, shares (d2,), about, and how many each stands for."""
        of_columns = np.trace(self.matrices, axis1=1, axis2=2)
        scale = float(shares @ of_columns) / max(float(of_columns.sum()), 1e-300)
        return scale * self._pooled_eigenvalues, np.ones(self.matrices.shape[1])

    @cached_property
    def _pooled_eigenvalues(self) -> Real:
        if len(self.matrices) == 1:
            return np.asarray(self._eigenvalues[0])
        return np.asarray(np.maximum(np.linalg.eigvalsh(self.matrices.sum(axis=0)), 0.0))

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


@dataclass(frozen=True, slots=True, eq=False)
class KrylovGrams:
    """G_b = Q_b T_b Q_b^T + tail_b (I - Q_b Q_b^T), about, with Q_b spanning START, G_b START, G_b^2 START, ..."""

    basis: Real
    """(d2 + 1, d1, m) the eigenvectors of G_b inside that span; the last one is of the sum over b."""
    values: Real
    """(d2 + 1, m)"""
    weights: Real
    """(d2 + 1, m), of each matrix sum to 1: of the quadrature."""
    tail: Real
    """(d2 + 1,) the mean of all other eigenvalues."""

    def determined(self, ridge: Real) -> Real:
        """(d2,) the effective number of parameters, about."""
        values = self.values[:-1]
        share = (self.weights[:-1] * values / (values + ridge[:, None])).sum(axis=1)
        return np.asarray(self.basis.shape[1] * share)

    def solver(self, ridge: Real) -> Apply:
        def solve(Theta: Real) -> Real:
            return np.hstack([self.inverted(b, Theta[:, [b]], 1.0, float(r)) for b, r in enumerate(ridge)])

        return solve

    def pooled_spectrum(self, shares: Real) -> tuple[Real, Real]:
        """Eigenvalues of sum_b shares_b G_b, shares (d2,), about, and how many each stands for."""
        means = (self.weights * self.values).sum(axis=1)
        scale = float(shares @ means[:-1]) / max(float(means[-1]), 1e-300)
        return scale * self.values[-1], self.basis.shape[1] * self.weights[-1]

    def pooled_solver(self) -> Apply:
        little = self.little()
        return lambda B: self.inverted(-1, B, 1.0, little)

    def little(self, share: float = 1e-6) -> float:
        """Of the pooled matrix's mean eigenvalue, this share."""
        return share * float(self.weights[-1] @ self.values[-1]) + 1e-12

    def inverted(self, b: int, V: Real, scale: float, ridge: float, *, power: float = 1.0) -> Real:
        """(d1, m) (scale G_b + ridge I)^-power V for V (d1, m); b = -1: of the sum."""
        Q, beyond = self.basis[b], float((scale * self.tail[b] + ridge) ** -power)
        inside = (scale * self.values[b] + ridge) ** -power
        return np.asarray(Q @ ((inside - beyond)[:, None] * (Q.T @ V)) + beyond * V)


Grams = DenseGrams | SparseGrams | KrylovGrams


def grams_of(design: Design, w: Real, *, at_most: int | None = None) -> Grams:
    """The Gram matrices of a design at weights w (n,); with `at_most`, from that many comparisons."""
    if isinstance(design.X, np.ndarray) and not design.wide:
        return DenseGrams(design.grams(w, at_most=at_most))
    stride = 1 if at_most is None else max(1, design.n // at_most)
    index = np.arange(0, design.n, stride)
    share = float(w[index].sum())
    scaled = w[index] * (float(w.sum()) / share if share > 0 else 1.0)
    if design.wide:
        return _krylov_grams(design, index, scaled)
    scaled = np.tile(scaled, design.d2)
    A, shape = csr_array(block_diag(design.columns(index), format="csr")), (design.d2, design.d1)
    back = A.T.tocsr()

    def multiply(V: Real) -> Real:
        return product(back, scaled * product(A, V.ravel())).reshape(shape)

    diagonal = product(back.power(2), scaled).reshape(shape)
    nodes, weights = quadrature(multiply, np.random.default_rng(0).choice([-1.0, 1.0], size=shape))
    return SparseGrams(diagonal, nodes, weights)


def _krylov_grams(design: Design, index: Int, w: Real) -> KrylovGrams:
    """From a few block products with the table, whatever the number of its features."""
    middles = [csr_array(S.T @ (diags_array(w) @ S)) for S in design.row_designs(index)]
    if design.d2 > 1:
        middles.append(csr_array(sum(middles[1:], middles[0])))
    rng = np.random.default_rng(0)
    found = [_krylov(design, middle, rng.standard_normal((design.d1, BLOCK))) for middle in middles]
    if design.d2 == 1:
        found *= 2
    basis, values, weights, tail = (np.stack(parts) for parts in zip(*found, strict=True))
    return KrylovGrams(basis, values, weights, tail)


def _krylov(design: Design, middle: Sparse, start: Real) -> tuple[Real, Real, Real, float]:
    """Eigenvectors (d1, m) and values (m,) of G = X^T middle X inside the span, weights (m,), and the tail's mean.

    The same quadrature as of `quadrature`, from a block of starts: tr f(G) ~ d1 times the mean of z^T f(G) z over the
    block's orthonormal z.
    """
    d1, width = start.shape
    Q, images = krylov_basis(lambda V: design.back(product(middle, design.through(V))), start, DEPTH)
    values, turn = np.linalg.eigh(symmetric(Q.T @ images))
    values = np.maximum(values, 0.0)
    weights = (turn[:width] ** 2).mean(axis=0)
    rest = (_trace(middle, design.X) - float(values.sum())) / max(d1 - len(values), 1)
    return Q @ turn, values, weights, max(rest, 0.0)


def _trace(middle: Sparse, X: Table) -> float:
    """Of X^T middle X, blocks of rows at a time: guessed, it would leave nothing true of what is beyond the span."""
    step, total = max(1, BLOCK_NUMBERS // X.shape[1]), 0.0
    for begin in range(0, X.shape[0], step):
        total += float((product(middle[begin : begin + step], X) * X[begin : begin + step]).sum())
    return total


def krylov_basis(multiply: Apply, start: Real, depth: int) -> tuple[Real, Real]:
    """(d, m) an orthonormal basis of what start (d, s), G start, ..., G^(depth - 1) start span, and G times it."""
    d = len(start)
    Q, images = np.zeros((d, 0)), np.zeros((d, 0))
    block = np.linalg.qr(start)[0]
    for _ in range(depth):
        Q, ahead = np.hstack([Q, block]), multiply(block)
        images = np.hstack([images, ahead])
        room = min(block.shape[1], d - Q.shape[1])
        if not room:
            break
        ahead = ahead[:, :room]
        for _ in range(2):  # once is not enough for orthogonality
            ahead = ahead - Q @ (Q.T @ ahead)
        block = np.linalg.qr(ahead)[0]
        block = np.linalg.qr(block - Q @ (Q.T @ block))[0]
    return Q, images


def quadrature(multiply: Apply, start: Real) -> tuple[Real, Real]:
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
