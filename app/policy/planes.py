"""Cutting planes: the next u is the central point of the restricted problem over the atoms found so far.

The restricted problem, min_{u, t} t subject to a_i + q_i . u <= t and ||u|| <= 1, is followed along its central path
(`app.policy.master`) and left early while the gap is large, so that the next u is well inside: that stabilises the
planes. Its multipliers mix the atoms to a primal policy. Taking u from -q / ||q|| of that mixture instead stalls
as soon as the optimum makes the uncertainty vanish (q = 0), the usual case for a large beta.

Only the span of the atoms' q_i matters. Where it has fewer dimensions than u, the problem is solved in coordinates of
it, which the Gram matrix of the q_i gives: nothing of the size q x q is formed.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from app.policy.master import central_point
from app.policy.mdp import Real
from app.policy.search import ROUNDING, Atom, Reason, Search

FEW = 6
"""Planes before it shows whether they suffice; and planes more that are worth a try then."""

RECENT = 3
"""Planes whose progress tells what to expect."""

CENTRAL_SHARE = 0.1
"""The master is solved to this share of the present gap: exact enough to make progress, central enough to be stable."""

NEGLIGIBLE_WEIGHT = 1e-10
"""Atoms below this share of the mixture are left out of it; its worth is computed after that."""

LEAST_PATIENCE = 40
"""Planes in a row without progress that mean rounding has the last word; or twice q, if that is more."""

MOST_PATIENCE = 400
"""However large q is."""

MOVED = 1e-3
"""Share of the gap whose closing counts as progress."""

DEPENDENT = 1e-12
"""Share of the largest eigenvalue of the Gram matrix below which a direction is rounding."""


def first_planes(search: Search, start: Real, few: int) -> tuple[Reason | None, Real]:
    """Add `few` planes from `start`, and more while they are about to finish; say where that got and why it stops."""
    u, master, gaps = start, _Master(search), [search.gap]
    while (reason := search.stopped()) is None and (len(gaps) <= few or _nearly_there(search, gaps)):
        search.cut(u)
        u = master.next_point(u)
        gaps.append(search.gap)
    return reason, u


def _nearly_there(search: Search, gaps: list[float]) -> bool:
    """Whether the gap, falling as it did of late, is closed within a few planes more."""
    pace = math.log(gaps[-1 - RECENT] / gaps[-1]) / RECENT
    return math.log(search.gap / (search.limits.tolerance * search.scale)) <= FEW * pace


def cutting_planes(search: Search, start: Real) -> Reason | None:
    """Add planes from `start`, and say why the search stops; no reason where many in a row moved neither bound."""
    u, added, moved, gap = start, 0, 0, search.gap
    patience = min(max(LEAST_PATIENCE, 2 * start.size), MOST_PATIENCE)
    master = _Master(search)
    while (reason := search.stopped()) is None and added - moved < patience:
        search.cut(u)
        u = master.next_point(u)
        added += 1
        if search.gap < gap * (1 - MOVED):
            moved, gap = added, search.gap
    return reason


@dataclass(slots=True, eq=False)
class _Master:
    search: Search
    values: Real = field(init=False)
    gradients: Real = field(init=False)
    """(atoms and room for more, q)"""
    gram: Real = field(init=False)
    size: int = 0

    def __post_init__(self) -> None:
        q = len(self.search.worst_case)
        self.values, self.gradients, self.gram = np.empty(0), np.empty((0, q)), np.empty((0, 0))

    def next_point(self, u: Real) -> Real:
        """The next point; a better mixture comes with it, if need be by solving the master more exactly."""
        search = self.search
        self._take_atoms()
        gap = search.gap
        for share in (CENTRAL_SHARE, CENTRAL_SHARE**2):
            u, weights = self._central_point(u, share * max(gap, ROUNDING * search.problem.magnitude))
            search.offer(_mixture(search, weights))
            if search.gap < gap * (1 - CENTRAL_SHARE):
                break
        return u

    def _central_point(self, u: Real, accuracy: float) -> tuple[Real, Real]:
        n, q = self.size, self.gradients.shape[1]
        if n >= q:
            point, weights = central_point(self.values[:n], self.gradients[:n], u, accuracy)
            return np.asarray(point), np.asarray(weights)
        sizes, vectors = np.linalg.eigh(self.gram[:n, :n])
        kept = sizes > DEPENDENT * sizes[-1]
        if not kept.any():
            return u, np.eye(n)[self.values[:n].argmax()]
        roots = np.sqrt(sizes[kept])
        coordinates = np.ascontiguousarray(vectors[:, kept] * roots)
        point, weights = central_point(self.values[:n], coordinates, np.zeros(len(roots)), accuracy)
        full = (vectors[:, kept] @ (point / roots)) @ self.gradients[:n]
        return np.asarray(full / max(1.0, float(np.linalg.norm(full)))), np.asarray(weights)

    def _take_atoms(self) -> None:
        for atom in self.search.atoms[self.size :]:
            n, q = self.size, self.gradients.shape[1]
            if n == len(self.values):
                more = max(16, 2 * n)
                self.values, self.gradients = _grown(self.values, (more,)), _grown(self.gradients, (more, q))
                self.gram = _grown(self.gram, (more, more) if n < q else (0, 0))
            self.values[n], self.gradients[n] = atom.value, atom.gradient
            self.size += 1
            if len(self.gram):
                self.gram[n, : n + 1] = self.gram[: n + 1, n] = self.gradients[: n + 1] @ atom.gradient


def _grown(array: Real, shape: tuple[int, ...]) -> Real:
    larger = np.zeros(shape)
    if all(new >= old for new, old in zip(shape, array.shape, strict=True)):
        larger[tuple(slice(n) for n in array.shape)] = array
    return larger


def _mixture(search: Search, weights: Real) -> list[tuple[float, Atom]]:
    kept = np.flatnonzero(weights > NEGLIGIBLE_WEIGHT)
    total = float(weights[kept].sum())
    return [(float(weights[i]) / total, search.atoms[i]) for i in kept]
