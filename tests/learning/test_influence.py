"""What a comparison did to an adapter: beside the fold-in without it."""

from typing import Literal

import numpy as np
import pytest

from app.learning import Comparisons, Model, fit, fold_in, influences
from tests.support.learning_worlds import Real, catalogue, in_contexts, tabular

USER = 3


def without(comparisons: Comparisons, index: int) -> Comparisons:
    return comparisons.subset(np.arange(len(comparisons)) != index)


def of_user(comparisons: Comparisons, user: int) -> Comparisons:
    return comparisons.of_users(np.array([user]))


def by_leaving_out(model: Model, mine: Comparisons) -> Real:
    whole = fold_in(model, mine).mean.ravel()
    return np.stack([whole - fold_in(model, without(mine, index)).mean.ravel() for index in range(len(mine))])


@pytest.mark.parametrize("estimator", ["evidence", "mle"])
@pytest.mark.parametrize("world", ["catalogue", "contexts", "tabular"])
def test_influence_is_what_leaving_a_comparison_out_changes(world: str, estimator: Literal["evidence", "mle"]) -> None:
    rng = np.random.default_rng(17)
    said = {
        "catalogue": lambda: catalogue(rng, n_users=25, per_user=15).comparisons,
        "contexts": lambda: in_contexts(rng, n_users=25, per_user=25),
        "tabular": lambda: tabular(rng, n_users=25, per_user=15).comparisons,
    }[world]()
    model = fit(said, rank=1, estimator=estimator, calibrate=False)
    mine = of_user(said, USER)
    found, exact = influences(model, mine), by_leaving_out(model, mine)
    assert found.shape == exact.shape
    size = float(np.abs(exact).max())
    assert size > 1e-3
    # The other comparisons' weights would change a little too.
    assert np.abs(found - exact).max() <= 0.25 * size
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


def test_of_nothing_there_is_no_influence() -> None:
    said = catalogue(np.random.default_rng(5), n_users=20, per_user=10).comparisons
    assert influences(fit(said, rank=0), of_user(said, 0)).shape == (10, 0)
