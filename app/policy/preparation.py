"""Compiling the loops before somebody waits for them."""

import numpy as np

from app.policy.factors import FullSpace
from app.policy.induction import backward_induction
from app.policy.mdp import FiniteHorizonMDP
from app.policy.occupancy import occupancy
from app.policy.robust import robust_policy


def prepare() -> None:
    """Compile what a plan needs, or load it compiled: seconds once an installation, then a fraction of one.

    The compiled loops lie beside the module, or in NUMBA_CACHE_DIR.
    """
    rng = np.random.default_rng(0)
    rows = np.array([[s, a, s2, 1 / 3] for s in range(3) for a in range(2) for s2 in range(3)])
    mdp = FiniteHorizonMDP.from_triples(3, 2, 2, rows, np.full(3, 1 / 3))
    mean = rng.standard_normal((3, 2))
    factors: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]] | FullSpace, ...] = (
        rng.standard_normal((6, 2)),
        FullSpace.of(mdp),
    )
    occupancy(mdp, backward_induction(mdp, mean).policy)
    for factor in factors:
        robust_policy(mdp, mean, factor, beta=3.0, reference="uniform", tolerance=1e-6)
