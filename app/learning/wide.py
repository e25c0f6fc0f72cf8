"""The spectral statistics and the shared errors where rows are a large sparse table: nothing of size d1^2.

With G (N d2, d1) the users' score matrices stacked, sparse like what they have seen, and A (n d2, d1) the comparisons'
own, the statistic of app.learning.spectral is U = D^{-1/2} (G^T G - A^T A) D^{-1/2}, with the pooled Fisher matrix's
diagonal D for whitening. Its leading eigenvectors take a few products; so does its largest eigenvalue for every
permutation of the users.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack
from scipy.sparse.linalg import LinearOperator, eigsh

from app.learning.arrays import Int, Real, Sparse, product
from app.learning.design import Design
from app.learning.grams import SparseGrams

TOLERANCE = 1e-2
"""Relative accuracy of eigenvalues and eigenvectors."""
MOST_DIRECTIONS = 16
"""Eigenvalues that the permutation test looks at."""
RIDGE = 1e-4
"""Share of the mean information that is added to each entry's."""


@dataclass(frozen=True, slots=True, eq=False)
class WideStatistic:
    scores: Sparse
    """A (n d2, d1): DPhi_j[:, b]^T times the residual e_j and the whitener, row b n + j."""
    user: Int
    """(n,)"""
    n_users: int
    root: Real
    """(d1,) square roots of the pooled information."""

    @classmethod
    def of(cls, design: Design, residual: Real, w: Real) -> "WideStatistic":
        """From the residuals and curvatures (n,) at some scores."""
        folded = csr_array(vstack(design.columns(np.arange(design.n)), format="csr"))
        information = product(folded.power(2).T, np.tile(w, design.d2))
        root = np.sqrt(information + RIDGE * information.mean() + 1e-300)
        whitened = diags_array(np.tile(residual, design.d2)) @ folded @ diags_array(1.0 / root)
        return cls(csr_array(whitened), design.user, design.n_users, root)

    def between(self, user: Int) -> LinearOperator:
        """U with the users' labels as given (n,)."""
        G, A = self.by_user(user), self.scores
        Gt, At = G.T.tocsr(), A.T.tocsr()

        def multiply(v: Real) -> Real:
            flat = np.ravel(v)
            return product(Gt, product(G, flat)) - product(At, product(A, flat))

        return LinearOperator((A.shape[1], A.shape[1]), matvec=multiply, dtype=np.float64)

    def by_user(self, user: Int) -> Sparse:
        """G (N d2, d1)."""
        rows, n = self.scores.shape[0], len(user)
        owner = np.tile(user, rows // n) + np.repeat(np.arange(rows // n), n) * self.n_users
        chooser = csr_array((np.ones(rows), (owner, np.arange(rows))), shape=(rows // n * self.n_users, rows))
        return csr_array(chooser @ self.scores)

    def leading(self, user: Int, count: int, rng: np.random.Generator) -> tuple[Real, Real]:
        """(count,) largest eigenvalues of U, descending, and (d1, count) their vectors."""
        return leading_eigenvectors(self.between(user), count, rng, tolerance=TOLERANCE)

    def directions(self, k: int, rng: np.random.Generator) -> Real:
        """(d1, k) orthonormal: along which users differ most."""
        vectors = self.leading(self.user, k, rng)[1] / self.root[:, None]
        return np.ascontiguousarray(np.linalg.qr(vectors)[0])

    def rank(self, rng: np.random.Generator, permutations: int) -> int:
        """How many of the largest eigenvalues exceed the largest one under permuted user labels."""
        drawn = (rng.permutation(self.user) for _ in range(permutations))
        threshold = max(float(self.leading(user, 1, rng)[0][0]) for user in drawn)
        count = min(MOST_DIRECTIONS, len(self.root) - 1)
        return int((self.leading(self.user, count, rng)[0] > threshold).sum())

    def outside(self, B: Real) -> float:
        """Tr (I - B B^T) D^{-1} (G^T G - A^T A) D^{-1} (I - B B^T), of the unwhitened scores."""
        back = diags_array(1.0 / self.root)
        total = 0.0
        for part, sign in ((self.by_user(self.user), 1.0), (self.scores, -1.0)):
            moved = csr_array(part @ back)
            total += sign * float((moved.data**2).sum() - (product(moved, B) ** 2).sum())
        return total


def leading_eigenvectors(
    U: LinearOperator, count: int, rng: np.random.Generator, *, tolerance: float
) -> tuple[Real, Real]:
    """(count,) largest eigenvalues of a symmetric operator, descending, and (d, count) their vectors.

    Any directions where U is zero, as it is where nobody said two things; ARPACK has no answer there.
    """
    v0 = rng.standard_normal(U.shape[0])
    if not np.any(U.matvec(v0)):
        return np.zeros(count), np.linalg.qr(rng.standard_normal((len(v0), count)))[0]
    values, vectors = eigsh(U, k=count, which="LA", tol=tolerance, v0=v0)
    return values[::-1], vectors[:, ::-1]


def entry_variances(grams: SparseGrams, ridge: Real, strength: Real) -> Real:
    """(d1, d2 + k) of the entries of [Theta_0, B], each by itself.

    Parameters
    ----------
    strength
        (k,) the adapters' mean squares along the columns of B, whose entries have prior variance 1 / d1.
    """
    known = grams.information(ridge)
    of_B = 1.0 / (strength[None] * known.sum(axis=1, keepdims=True) + len(known))
    return np.hstack([1.0 / (known + ridge), of_B])


def score_variances(design: Design, rows: Int, W: Real, variances: Real) -> Real:
    """(m,) what the entries' variances (d1, d2 + k) make of the scores of m designs, of users with W (m, k, d2)."""
    m, d2, d1 = len(rows), design.d2, design.d1
    entries = vstack(design.columns(rows), format="coo")
    b, j = np.divmod(entries.coords[0].astype(np.int64), m)
    a = entries.coords[1]
    of_theta = np.bincount(j, entries.data**2 * variances[a, b], minlength=m)
    place, which = np.unique(j * d1 + a, return_inverse=True)
    gather = csr_array((np.ones(len(which)), (which, np.arange(len(which)))), shape=(len(place), len(which)))
    turned = product(gather, entries.data[:, None] * W[j, :, b])
    row, a = np.divmod(place, d1)
    of_B = np.bincount(row, (turned**2 * variances[a, d2:]).sum(axis=1), minlength=m)
    return np.asarray(of_theta + of_B)
