"""Any shape of data is fitted, with nothing in memory that grows faster than the data."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from app.learning import Comparisons, Model, fit
from app.learning.adapters import posterior
from app.learning.arrays import Int
from app.learning.design import design_of
from app.learning.features import feature_map_of
from app.learning.parameters import Shared

FIXED_BYTES = 64 * 2**20
"""Blocks that are worked on at a time, whatever the data's size."""


def test_few_and_very_many_comparisons_a_user_in_one_fit() -> None:
    counts = np.ones(400, dtype=np.int64)
    counts[0], counts[1:200] = 10_000, 150
    comparisons = pairs(np.random.default_rng(0), counts, items=400, features=256)

    model = fit_within_memory(comparisons)

    # An array of comparisons by features, or of users by comparisons, would not have fitted.
    assert 8 * len(comparisons) * min(256, comparisons.n_users) > limit(comparisons)
    assert model.adapters.n_comparisons[0] == 10_000
    assert np.trace(model.adapters.covariances[0]) < np.trace(model.adapters.covariances[-1])


def test_contexts_soft_labels_ties_weights_and_ages_in_one_fit() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 40, size=300)
    n = int(counts.sum())
    comparisons = pairs(
        rng,
        counts,
        items=200,
        features=12,
        contexts=rng.standard_normal((20, 3)),
        context=rng.integers(20, size=n),
        label=rng.choice([0.0, 0.3, 0.5, 1.0], size=n),
        weight=rng.uniform(0.5, 2.0, size=n),
        age_seconds=rng.uniform(0.0, 1e6, size=n),
    )

    fit_within_memory(comparisons, half_life_seconds=5e5)


def test_items_that_appear_once() -> None:
    rng = np.random.default_rng(2)
    rows = rng.permutation(20_000).reshape(-1, 2)
    items = rng.standard_normal((20_000, 16))

    fit_within_memory(Comparisons.from_pairs(items, rows[:, 0], rows[:, 1], user=np.repeat(np.arange(500), 20)))


@pytest.mark.parametrize("n_contexts", [0, 5])
def test_blocks_of_a_long_user_and_neighbours_in_a_vector_change_nothing(n_contexts: int) -> None:
    """A user's posterior is the same alone as beside others with more or fewer comparisons."""
    rng = np.random.default_rng(3)
    counts = np.array([3000, 0, 1, 7, 7, 7, 40, 41, 42, 900])
    n = int(counts.sum())
    more: dict[str, Any] = {}
    if n_contexts:
        more = {"contexts": rng.standard_normal((n_contexts, 2)), "context": rng.integers(n_contexts, size=n)}
    comparisons = pairs(rng, counts, items=30, features=6, **more)
    features = feature_map_of(comparisons)
    design = design_of(comparisons, features)
    B = np.linalg.qr(rng.standard_normal((6, 3)))[0]
    shared = Shared(rng.standard_normal((6, design.d2)), B, 0.5 * np.eye(3 * design.d2), np.ones(design.d2))

    together = posterior(design, shared)

    for user in range(len(counts)):
        own = comparisons.of_users([user])
        alone = posterior(design_of(own, features), shared)
        np.testing.assert_allclose(alone.means[0], together.means[user], atol=1e-9)
        np.testing.assert_allclose(alone.covariances[0], together.covariances[user], atol=1e-9)
        assert alone.iterations[0] == together.iterations[user]


def pairs(rng: np.random.Generator, counts: Int, *, items: int, features: int, **more: Any) -> Comparisons:
    X, user = rng.standard_normal((items, features)), np.repeat(np.arange(len(counts)), counts)
    chosen = rng.integers(items, size=len(user))
    rejected = (chosen + rng.integers(1, items, size=len(user))) % items
    return Comparisons.from_pairs(X, chosen, rejected, user=user, n_users=len(counts), **more)


def limit(c: Comparisons) -> int:
    arrays = (c.items, c.Y, c.indptr, c.rows, c.cols, c.signs, c.user, c.label, c.weight)
    return 3 * sum(a.nbytes for a in arrays) + FIXED_BYTES


def fit_within_memory(comparisons: Comparisons, half_life_seconds: float | None = None) -> Model:
    tracemalloc.start()
    model = fit(comparisons, rank=4, dependence=0.0, calibrate=False, half_life_seconds=half_life_seconds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.converged
    assert np.isfinite(model.predict(comparisons)).all()
    assert peak < limit(comparisons)
    return model
