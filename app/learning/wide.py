"""The spectral statistics and the shared errors where rows have very many features: nothing of size d1^2.

Where the table is sparse, with G (N d2, d1) the users' score matrices stacked, sparse like what they have seen, and
A (n d2, d1) the comparisons' own, the statistic of app.learning.spectral is U = D^{-1/2} (G^T G - A^T A) D^{-1/2}, with
the pooled Fisher matrix's diagonal D for whitening. Its leading eigenvectors take a few products; so does its largest
eigenvalue for every permutation of the users. Where it is dense, the designs S X stay apart, S over the rows of the
table X, and the whitener is the pooled Gram matrix's (app.learning.grams): G^T G is X^T (chooser S)^T (chooser S) X.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from app.learning.arrays import Int, Real, Sparse, product, symmetric
from app.learning.design import Design
from app.learning.grams import KrylovGrams, SparseGrams, grams_of, krylov_basis, quadrature

TOLERANCE = 1e-2
"""Relative accuracy of eigenvalues and eigenvectors."""
MAX_RESTARTS = 100
"""Of the eigenvalue solver: some ten are needed where eigenvalues stand out."""
MOST_DIRECTIONS = 16
"""Eigenvalues that the permutation test looks at."""
DEPTH = 6
"""Of the Krylov space that the start is taken from."""
SPARE_DIRECTIONS = 4
"""Random ones to start from, beside as many as are wanted."""
ERROR_DIRECTIONS = 64
"""Random ones that tell what is not known of [Theta_0, B]."""
GRAM_COMPARISONS = 50_000
"""Comparisons that stand for all in the whitener."""
BLOCK_NUMBERS = 500_000
"""Numbers of score matrices that are formed at a time."""
PROBES = 16
"""Random directions by which an approximate inverse is measured."""
LEFTOVER_RIDGE = 1e-3
"""Share of the mean information that is added where it is inverted."""
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


@dataclass(frozen=True, slots=True, eq=False)
class TableStatistic:
    """The same statistic U = R X^T (G^T G - A^T A) X R of a wide dense table X, with R^2 about the inverse information.

    Where items have effects of their own, their indicators are further features, whitened by what is known of each.
    """

    design: Design
    grams: KrylovGrams
    scores: list[Sparse]
    """d2 matrices A_b (n, M): a comparison's terms times its residual e_j."""
    scale: Real
    """(E,) whitens the items' own indicators; nothing where they are left out."""

    @classmethod
    def of(cls, design: Design, residual: Real, w: Real, *, with_items: bool = False) -> "TableStatistic":
        grams, scale = grams_of(design, w, at_most=GRAM_COMPARISONS), np.zeros(0)
        assert isinstance(grams, KrylovGrams)
        if with_items:
            information = design.of_items(design.row_weights(w))
            scale = 1.0 / np.sqrt(information + max(float(np.median(information)), 1e-12))
        scores = [csr_array(diags_array(residual) @ S) for S in design.blocks]
        return cls(design, grams, scores, scale)

    def directions(self, k: int, rng: np.random.Generator) -> tuple[Real, Real]:
        """(d1, k) and (E, k), orthonormal together: along which users differ most."""
        d, wanted = self.design.d1 + len(self.scale), min(k, self.design.d1 + len(self.scale) - 1)
        by_user = [self.chooser(self.design.user) @ A for A in self.scores]

        def multiply(V: Real) -> Real:
            P = self.forward(V)
            parts = [product(G.T, product(G, Q)) - product(A.T, product(A, Q)) for G, A, Q in self.columns(by_user, P)]
            return self.backward(parts)

        start = rng.standard_normal((d, k + SPARE_DIRECTIONS))
        Q, images = krylov_basis(multiply, start[:, : max(1, d // 2)], DEPTH)
        vectors = Q @ np.linalg.eigh(symmetric(Q.T @ images))[1][:, ::-1][:, :wanted]
        features, items = self.whitened(vectors)
        found = np.linalg.qr(np.hstack([np.vstack([features, items]), rng.standard_normal((d, k - wanted))]))[0]
        F = self.design.d1
        return np.ascontiguousarray(found[:F]), np.ascontiguousarray(found[F:])

    def rank(self, rng: np.random.Generator, permutations: int) -> int:
        """How many of the largest eigenvalues exceed the largest one under permuted user labels.

        Found in as many steps from random starts for all of them alike, and at the same time: what is looked at are
        lower bounds that nothing but the labels tells apart.
        """
        users = [self.design.user, *(rng.permutation(self.design.user) for _ in range(permutations))]

        def multiply(starts: Real) -> Real:
            P = self.forward(starts.T)
            return self.backward([self.between(A, Q, users) for _, A, Q in self.columns(self.scores, P)]).T

        nodes = quadrature(multiply, rng.standard_normal((len(users), self.design.d1)))[0]
        return int((nodes[0] > nodes[1:].max()).sum())

    def between(self, A: Sparse, P: Real, users: Sequence[Int]) -> Real:
        """(M, m) (G^T G - A^T A) P, column by column for users with these labels."""
        q = product(A, P)
        for column, user in enumerate(users):
            own = q[:, column]
            q[:, column] = np.bincount(user, own, minlength=self.design.n_users)[user] - own
        return product(A.T, q)

    def columns(self, left: Sequence[Sparse], P: tuple[Real, Real]) -> Iterator[tuple[Sparse, Sparse, Real]]:
        """With each column b of Y: what is given for it, A_b, and what rows are worth in it."""
        for b, (G, A) in enumerate(zip(left, self.scores, strict=True)):
            yield G, A, P[0] + P[1] if b == 0 and len(P[1]) else P[0]

    def chooser(self, user: Int) -> Sparse:
        n = self.design.n
        return csr_array((np.ones(n), (user, np.arange(n))), shape=(self.design.n_users, n))

    def whitened(self, V: Real) -> tuple[Real, Real]:
        """R V of the features' part, and of the items'."""
        F, little = self.design.d1, self.grams.little(RIDGE)
        return self.grams.inverted(-1, V[:F], 1.0, little, power=0.5), self.scale[:, None] * V[F:]

    def forward(self, V: Real) -> tuple[Real, Real]:
        """(M, m) what V (d1 + E, m) makes every row worth by its features, and as an item."""
        features, items = self.whitened(V)
        own = np.vstack([items, np.zeros((1, V.shape[1]))])[self.design.item] if len(items) else items
        return self.design.through(features), own

    def backward(self, parts: Sequence[Real]) -> Real:
        """The transpose of `forward`, of what each column of Y gives the rows."""
        R = self.design.back(np.sum(parts, axis=0))
        items = self.design.of_items(parts[0]) if len(self.scale) else np.zeros((0, R.shape[1]))
        return np.vstack(self.whitened(np.vstack([R, items])))


def energy_outside(statistic: TableStatistic, w: Real, B: Real) -> float:
    """Tr (I - B B^T) F^{-1} (G^T G - A^T A) F^{-1} (I - B B^T), of the unwhitened scores, blocks of rows at a time.

    F^{-1} is known about; the sum is scaled to be right where what is left out is alike in all directions.
    """
    design, grams, total = statistic.design, statistic.grams, 0.0
    little, X = grams.little(LEFTOVER_RIDGE), design.X
    step = max(1, BLOCK_NUMBERS // design.d1)
    for A in statistic.scores:
        for part, sign in ((csr_array(statistic.chooser(design.user) @ A), 1.0), (A, -1.0)):
            for begin in range(0, part.shape[0], step):
                scores = product(part[begin : begin + step], X)
                moved = grams.inverted(-1, scores.T, 1.0, little)
                total += sign * float((moved**2).sum() - ((B.T @ moved) ** 2).sum())
    Z = np.random.default_rng(0).choice([-1.0, 1.0], size=(design.d1, PROBES))
    P = design.through(grams.inverted(-1, Z - B @ (B.T @ Z), 1.0, little))
    image = design.back(np.sum([product(S.T, w[:, None] * product(S, P)) for S in design.blocks], axis=0))
    known = max(min(design.d1, design.n_rows) - B.shape[1], 1)
    return float(total * known * PROBES / (image**2).sum())


def table_error(grams: KrylovGrams, ridge: Real, B: Real, strength: Real) -> Real:
    """(d1, d2 + k, r) a factor of the covariance of [Theta_0, B] by random directions, r of them.

    With z standard normal, E[(x^T f(G) z)^2] = ||f(G) x||^2, so that what r of them say of a variance errs by a share
    of sqrt(2 / r). Theta_0's columns and B's are independent: each has its own signs.

    Parameters
    ----------
    strength
        (k,) the adapters' mean squares along the columns of B, whose entries have prior variance 1 / d1.
    """
    rng, d1 = np.random.default_rng(0), grams.basis.shape[1]
    Z = rng.standard_normal((d1, ERROR_DIRECTIONS)) / np.sqrt(ERROR_DIRECTIONS)
    parts = [grams.inverted(b, Z, 1.0, float(r), power=0.5) for b, r in enumerate(ridge)]
    beside = [grams.inverted(-1, Z, float(s), d1, power=0.5) for s in strength]
    parts += [moved - B @ (B.T @ moved) for moved in beside]
    signs = rng.choice([-1.0, 1.0], size=(len(parts), ERROR_DIRECTIONS))
    return np.ascontiguousarray(np.stack(parts, axis=1) * signs)


def in_few_directions(error: Real) -> Real:
    """(d1, q, ERROR_DIRECTIONS) of a covariance with a factor (d1, q, r), which is large where rows are wide."""
    r = error.shape[2]
    if r <= ERROR_DIRECTIONS:
        return error
    Z = np.random.default_rng(0).standard_normal((r, ERROR_DIRECTIONS))
    return np.asarray(error @ Z / np.sqrt(ERROR_DIRECTIONS))


def leading_eigenvectors(
    U: LinearOperator, count: int, rng: np.random.Generator, *, tolerance: float
) -> tuple[Real, Real]:
    """(count,) largest eigenvalues of a symmetric operator, descending, and (d, count) their vectors.

    Any directions where U is zero, as it is where nobody said two things, or next to it; ARPACK has no answer there.
    """
    v0 = rng.standard_normal(U.shape[0])
    if not np.any(U.matvec(v0)):
        return np.zeros(count), np.linalg.qr(rng.standard_normal((len(v0), count)))[0]
    try:
        values, vectors = eigsh(U, k=count, which="LA", tol=tolerance, v0=v0, maxiter=MAX_RESTARTS)
    except ArpackNoConvergence as found:
        # Among eigenvalues that are next to nothing, as few users leave them, none can be told from another.
        values, vectors = found.eigenvalues, found.eigenvectors
    order, lacking = np.argsort(-values), count - len(values)
    others = rng.standard_normal((len(v0), lacking))
    vectors = np.linalg.qr(np.hstack([vectors[:, order], others]))[0] if lacking else vectors[:, order]
    return np.append(values[order], np.zeros(lacking)), vectors


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
