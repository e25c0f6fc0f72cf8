"""The model's own view of raw features.

Items are centred and scaled to unit spread, because one ridge serves all columns. Contexts are centred and reduced to a
few principal columns behind a leading constant 1, so that a user's own parameters stay (k, d2). Indicators of states
and actions stay exactly as they are.
"""

from dataclasses import dataclass

import numpy as np

from app.learning.arrays import Int, Real, Table, occurring, real
from app.learning.comparisons import Comparisons
from app.learning.errors import FeatureShapeError

DENSE_GRAMS = 16_000_000
"""Numbers in Gram matrices (d2, d1, d1), up to which sparse tables are made dense: then everything is exact."""
WIDE = 512
"""Features of a dense table, above which nothing of size d1^2 is made and no step costs d1^2."""
BLOCK_NUMBERS = 1_000_000
"""Numbers of a table that are copied at a time."""
MAX_CONTEXT_COLUMNS = 8
"""Principal columns kept of a context: a user's own parameters number k * (1 + this)."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """Affine maps from raw features to the model's (d1) and (d2)."""

    centre: Real
    """(d1,)"""
    scale: Real
    """(d1,) divides."""
    context_centre: Real
    """(c,) with c the raw width of contexts, 0 when there are none."""
    context_basis: Real
    """(c, d2 - 1) principal directions, scaled so that the first has unit spread."""
    tabular: bool

    @property
    def d1(self) -> int:
        return len(self.centre)

    @property
    def d2(self) -> int:
        return len(self.context_centre) if self.tabular else 1 + self.context_basis.shape[1]

    @property
    def has_contexts(self) -> bool:
        return not self.tabular and len(self.context_centre) > 0

    def items(self, raw: Real) -> Real:
        """(m, d1) raw row features to the model's."""
        given = real(raw)
        self._check_width(given)
        if self.tabular or self.plain:
            return given
        mapped = np.asarray(given - self.centre)
        mapped /= self.scale
        return mapped

    @property
    def plain(self) -> bool:
        """Are rows in the model's features already?"""
        return not self.centre.any() and bool((self.scale == 1.0).all())

    def rows(self, raw: Table) -> Table:
        """The same of a table that may be sparse, and stays so where it is large."""
        if isinstance(raw, np.ndarray):
            return self.items(raw)
        self._check_width(raw)
        return raw if self.d2 * self.d1**2 > DENSE_GRAMS else self.items(raw.toarray())

    def _check_width(self, given: Table) -> None:
        if given.ndim != 2 or given.shape[1] != self.d1:
            raise FeatureShapeError(f"items must have {self.d1} features each; found shape {given.shape}.")

    def columns(self, raw: Real) -> Real:
        """(C, c) raw column features to the model's (C, d2)."""
        given = real(raw)
        if self.tabular:
            if given.shape[1] != self.d2:
                raise FeatureShapeError(f"actions must have {self.d2} indicators each; found shape {given.shape}.")
            return given
        ones = np.ones((len(given), 1))
        if not self.has_contexts:
            return ones
        if given.shape[1] != len(self.context_centre):
            raise FeatureShapeError(
                f"contexts must have {len(self.context_centre)} features each; found shape {given.shape}."
            )
        return np.hstack([ones, np.asarray((given - self.context_centre) @ self.context_basis)])

    def context(self, raw: Real | None) -> Real:
        """(d2,) of one context; none given stands for the average one."""
        if raw is None:
            return real(np.eye(1, self.d2)[0])
        return real(self.columns(np.atleast_2d(real(raw)))[0])


def feature_map_of(comparisons: Comparisons) -> FeatureMap:
    """The maps that suit these comparisons: statistics over the rows that they use, each once."""
    c = comparisons
    if c.tabular:
        d1, d2 = c.X.shape[1], c.Y.shape[1]
        return FeatureMap(np.zeros(d1), np.ones(d1), np.zeros(d2), np.zeros((d2, 0)), tabular=True)
    centre, scale = _moments(c.items, occurring(c.rows, len(c.X)) if len(c.rows) else np.arange(len(c.items)))
    scale[scale <= 1e-9 * (1.0 + np.abs(centre))] = 1.0
    context_centre, basis = _context_basis(c)
    return FeatureMap(real(centre), real(scale), real(context_centre), real(basis), tabular=False)


def _moments(X: Real, rows: Int) -> tuple[Real, Real]:
    """(d1,) means and standard deviations of some rows of a table, a block of rows at a time."""
    step = max(1, BLOCK_NUMBERS // X.shape[1])
    blocks = [rows[begin : begin + step] for begin in range(0, len(rows), step)]
    centre = np.sum([X[block].sum(axis=0) for block in blocks], axis=0) / len(rows)
    squares = np.sum([((X[block] - centre) ** 2).sum(axis=0) for block in blocks], axis=0)
    return np.asarray(centre), np.asarray(np.sqrt(squares / len(rows)))


def _context_basis(c: Comparisons) -> tuple[Real, Real]:
    if c.Y.shape == (1, 1) and c.Y[0, 0] == 1.0:
        return np.zeros(0), np.zeros((0, 0))
    used = c.Y[occurring(c.cols, len(c.Y))] if len(c.cols) else c.Y
    centre = used.mean(axis=0)
    _, s, Vt = np.linalg.svd(used - centre, full_matrices=False)
    kept = min(MAX_CONTEXT_COLUMNS, int((s > 1e-9 * max(1.0, s[0] if len(s) else 0.0)).sum()))
    if kept == 0:
        return np.asarray(centre), np.zeros((len(centre), 0))
    return np.asarray(centre), np.asarray(Vt[:kept].T * (np.sqrt(len(used)) / s[0]))
