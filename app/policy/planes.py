"""Cutting planes: the next u is the central point of the restricted problem over the atoms found so far.

The restricted problem, min_{u, t} t subject to a_i + q_i . u <= t and ||u|| <= 1, is followed along its central path
(`app.policy.master`) and left early while the gap is large, so that the next u is well inside: that stabilises the
planes. Its multipliers mix the atoms to a primal policy. Taking u from -q / ||q|| of that mixture instead stalls
as soon as the optimum makes the uncertainty vanish (q = 0), the usual case for a large beta.
"""

import numpy as np

from app.policy.master import CentralPoint, Restricted, central_point
from app.policy.mdp import Real
from app.policy.search import ROUNDING, Atom, Reason, Search

CENTRAL_SHARE = 0.1
"""The master is solved to this share of the present gap: exact enough to make progress, central enough to be stable."""


NEGLIGIBLE_WEIGHT = 1e-10
"""Atoms below this share of the mixture are left out of it; its worth is computed after that."""


LEAST_PATIENCE = 40
"""Planes in a row without progress that mean rounding has the last word; or twice q, if that is more."""

MOVED = 1e-3
"""Share of the gap whose closing counts as progress."""


def cutting_planes(search: Search, start: Real, *, atoms: int | None = None) -> tuple[Reason | None, Real]:
    """Add planes from `start`, and say where that got and why the search stops.

    There is no reason to stop where `atoms` planes were added, or where many in a row moved neither bound.
    """
    u, added, moved, gap = start, 0, 0, search.gap
    patience = max(LEAST_PATIENCE, 2 * start.size)
    while (reason := search.stopped()) is None and added != atoms and added - moved < patience:
        search.cut(u)
        u = _next(search, u)
        added += 1
        if search.gap < gap * (1 - MOVED):
            moved, gap = added, search.gap
    return reason, u


def _next(search: Search, u: Real) -> Real:
    """The next point; a better mixture comes with it, if need be by solving the master more exactly."""
    restricted = Restricted(
        np.array([atom.value for atom in search.atoms]),
        np.vstack([atom.gradient for atom in search.atoms]),
    )
    gap = search.gap
    for share in (CENTRAL_SHARE, CENTRAL_SHARE**2):
        point = central_point(restricted, u, accuracy=share * max(gap, ROUNDING * search.problem.magnitude))
        search.offer(_mixture(search, point))
        u = point.u
        if search.gap < gap * (1 - CENTRAL_SHARE):
            break
    return u


def _mixture(search: Search, point: CentralPoint) -> list[tuple[float, Atom]]:
    kept = np.flatnonzero(point.weights > NEGLIGIBLE_WEIGHT)
    total = float(point.weights[kept].sum())
    return [(float(point.weights[i]) / total, search.atoms[i]) for i in kept]
