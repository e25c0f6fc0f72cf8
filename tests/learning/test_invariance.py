"""What must not matter: the order of users and items, which side is called chosen, the basis of the subspace."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.learning import Comparisons, Model, fit, fold_in_users
from app.learning.fitting import Estimator
from app.learning.model import solve_adapters
from app.learning.parameters import rotated
from tests.support.learning_worlds import Real, catalogue, tabular

WORLD = catalogue(np.random.default_rng(31), n_users=12, per_user=12)
X = np.asarray(WORLD.comparisons.X)
CHOSEN, REJECTED = WORLD.comparisons.rows[::2], WORLD.comparisons.rows[1::2]
EXACT = settings(derandomize=True, max_examples=4, deadline=None)


def fitted(comparisons: Comparisons) -> Model:
    return fit(
        comparisons,
        rank=2,
        dependence=0.0,
        calibrate=False,
        tolerance=1e-9,
        max_passes=400,
        rng=np.random.default_rng(0),
    )


def reward_table(model: Model, user: int, items: Real) -> tuple[Real, Real]:
    belief = model.rewards(model.adapter(user), items).minus(np.full(len(items), 1 / len(items)))
    return belief.mean, belief.stderr


@pytest.fixture(scope="module")
def base() -> Model:
    return fitted(WORLD.comparisons)


@EXACT
@given(st.integers(0, 1000))
def test_permuting_users_permutes_their_rewards(seed: int) -> None:
    base = fitted(WORLD.comparisons)
    order = np.random.default_rng(seed).permutation(12)
    c = WORLD.comparisons
    other = fitted(replace(c, user=order[c.user]))
    assert other.dependence == base.dependence
    for user in range(12):
        for mine, theirs in zip(reward_table(base, user, X), reward_table(other, int(order[user]), X), strict=True):
            np.testing.assert_allclose(theirs, mine, atol=2e-4)


@EXACT
@given(st.integers(0, 1000))
def test_permuting_items_permutes_rewards(seed: int) -> None:
    base = fitted(WORLD.comparisons)
    order = np.random.default_rng(seed).permutation(len(X))
    position = np.argsort(order)
    other = fitted(Comparisons.from_pairs(X[order], position[CHOSEN], position[REJECTED], user=WORLD.comparisons.user))
    for mine, theirs in zip(reward_table(base, 3, X), reward_table(other, 3, X), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=2e-4)


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_swapping_sides_and_label_changes_nothing(estimator: Estimator) -> None:
    c = WORLD.comparisons
    rng = np.random.default_rng(32)
    label, swap = rng.random(len(c)), rng.random(len(c)) < 0.5
    whole = replace(c, label=label)
    other = Comparisons.from_pairs(
        X,
        np.where(swap, REJECTED, CHOSEN),
        np.where(swap, CHOSEN, REJECTED),
        user=c.user,
        label=np.where(swap, 1 - label, label),
    )
    mine, theirs = (fit(d, rank=2, estimator=estimator, calibrate=False) for d in (whole, other))
    assert mine.dependence == theirs.dependence
    for a, b in zip(reward_table(mine, 5, X), reward_table(theirs, 5, X), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_users_who_said_nothing_change_nobody(base: Model) -> None:
    silent = fitted(replace(WORLD.comparisons, n_users=15))
    for mine, theirs in zip(reward_table(base, 4, X), reward_table(silent, 4, X), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)
    assert silent.diagnostics is not None
    assert silent.diagnostics.n_users == 12


def test_rotating_the_subspace_with_the_adapters_changes_no_reward(base: Model) -> None:
    Q = np.linalg.qr(np.random.default_rng(33).standard_normal((2, 2)))[0]
    a = base.adapters
    shared, means, covariances = rotated(base.shared, a.means.reshape(12, 2), a.covariances, Q)
    turned = replace(base, shared=shared, adapters=replace(a, means=means.reshape(12, 2, 1), covariances=covariances))
    turned = replace(turned, shared_error=base.shared_error[:, :, :0])
    plain = replace(base, shared_error=base.shared_error[:, :, :0])
    for mine, theirs in zip(reward_table(plain, 4, X), reward_table(turned, 4, X), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-10)
    solved = solve_adapters(shared, turned.design(WORLD.comparisons), "evidence")
    np.testing.assert_allclose(solved.means.reshape(12, 2), means, atol=1e-6)


def test_a_weight_of_two_is_the_same_comparison_twice(base: Model) -> None:
    c = tabular(np.random.default_rng(34), n_users=4, per_user=8).comparisons
    model = fit(c, rank=1, calibrate=False)
    doubled = replace(c, weight=np.full(len(c), 2.0))
    twice = c.subset(np.tile(np.arange(len(c)), 2))
    mine, theirs = fold_in_users(model, doubled), fold_in_users(model, twice)
    np.testing.assert_allclose(mine.means, theirs.means, atol=1e-7)
    np.testing.assert_allclose(mine.covariances, theirs.covariances, atol=1e-7)


def test_the_same_seed_gives_the_same_model() -> None:
    first, second = (fit(WORLD.comparisons, rank=2, rng=np.random.default_rng(7)) for _ in range(2))
    assert first.inflation == second.inflation
    np.testing.assert_array_equal(first.B, second.B)
    np.testing.assert_array_equal(first.adapters.means, second.adapters.means)
