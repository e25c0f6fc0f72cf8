"""Compiling the loops before somebody waits for them."""

import numpy as np

from app.learning.comparisons import Comparisons
from app.learning.fitting import fit
from app.learning.influence import influences
from app.learning.model import fold_in_users
from app.learning.projection import project, taste_of


def prepare() -> None:
    """Compile what a fit, a fold-in, an explanation and rewards need, or load it compiled.

    It takes seconds once an installation, then a fraction of one. The compiled loops lie beside the module, or in
    NUMBA_CACHE_DIR.
    """
    rng = np.random.default_rng(0)
    first = rng.integers(6, size=40)
    second = (first + 1 + rng.integers(5, size=40)) % 6
    items, contexts, user = rng.standard_normal((6, 2)), rng.standard_normal((3, 2)), np.arange(40) % 4
    plain = Comparisons.from_pairs(items, first, second, user=user)
    placed = Comparisons.from_pairs(items, first, second, user=user, contexts=contexts, context=user % 3)
    for comparisons in (plain, placed):
        model = fit(comparisons, rank=1, dependence=0.5, max_passes=2)
        model.predict(comparisons)
        fold_in_users(model, comparisons)
        influences(model, comparisons.of_users([0]))
        if comparisons is plain:
            projection = project(model, items, model.mean_item(items))
            projection.rewards(taste_of(model.population(), model.inflation), np.arange(6))
