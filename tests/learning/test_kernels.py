"""The compiled loops' own arithmetic, beside NumPy's and SciPy's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from app.learning import kernels
from app.learning.adapters import posterior, predictive_moments
from app.learning.kernels import LOGISTIC_SHARES, LOGISTIC_VARIANCES
from tests.learning.test_estimators import prepared, with_repeated_items
from tests.support.learning_worlds import catalogue, in_contexts


@given(seed=st.integers(0, 2**32 - 1), p=st.integers(1, 13), n=st.integers(1, 17))
def test_inverses_and_volumes_are_those_of_lapack(seed: int, p: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((n, p, p + 2)) * 10.0 ** rng.uniform(-2, 2, (n, 1, 1))
    matrices = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(p)
    found, log = np.empty_like(matrices), np.empty(n)
    kernels.inverses(0, n, matrices, found, log)
    expected = np.linalg.inv(matrices)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8 * np.abs(other).max())
    np.testing.assert_allclose(log, -np.linalg.slogdet(matrices)[1], atol=1e-9)


def test_expectations_are_those_of_the_mixture() -> None:
    mean, variance = (a.ravel() for a in np.meshgrid(np.linspace(-40, 40, 161), [0.0, 0.1, 1.0, 30.0, 1e4]))
    low, slope, loss = (np.empty(len(mean)) for _ in range(3))
    kernels.expectations(len(mean), mean, variance, low, slope, loss)
    parts = [(p, np.sqrt(variance + v)) for p, v in zip(LOGISTIC_SHARES, LOGISTIC_VARIANCES, strict=True)]
    density = [p * np.exp(-0.5 * (mean / s) ** 2) / np.sqrt(2 * np.pi) for p, s in parts]
    tails = sum(p * ndtr(-np.abs(mean) / s) for p, s in parts)
    np.testing.assert_allclose(low, tails, atol=2e-7)
    np.testing.assert_allclose(slope, sum(d / s for d, (_, s) in zip(density, parts, strict=True)), rtol=1e-8)
    # The integral of the tails: E[log(1 + exp(eta))] less the larger of the mean and 0.
    missing = sum(d * s for d, (_, s) in zip(density, parts, strict=True)) - np.abs(mean) * tails
    np.testing.assert_allclose(loss, missing, atol=2e-7 * (1.0 + np.abs(mean).max()))


@pytest.mark.parametrize("per_user", [3, 40])
def test_a_user_settles_in_few_steps(per_user: int) -> None:
    """What is left of a step is mixed away: damped steps alone would take twice as many."""
    design, shared = prepared(catalogue(np.random.default_rng(27), n_users=100, per_user=per_user).comparisons, 2)
    found = posterior(design, shared)
    assert found.converged.all()
    assert np.quantile(found.iterations, 0.9) <= 13
    exact = posterior(design, shared, tolerance=1e-11)
    np.testing.assert_allclose(found.means, exact.means, atol=1e-5)


def test_who_said_nothing_has_the_prior() -> None:
    c = catalogue(np.random.default_rng(28), n_users=9, per_user=4).comparisons
    design, shared = prepared(c.subset(c.user != 3), 2)
    found = posterior(design, shared)
    np.testing.assert_array_equal(found.covariances[3], shared.T)
    assert not found.means[3].any()
    assert np.isnan(found.log_volume[3])
    assert found.converged[3]
    others = np.delete(np.arange(9), 3)
    assert np.isfinite(found.log_volume[others]).all()
    assert (found.log_volume[others] < np.linalg.slogdet(shared.T)[1]).all()


def test_predictions_know_what_is_not_known_of_items() -> None:
    """In contexts, an item's own loadings meet the adapter's constant column."""
    rng = np.random.default_rng(29)
    c, ids = with_repeated_items(in_contexts(rng, n_users=4, per_user=6), 7)
    design, shared = prepared(c, 2, ids)
    roots = rng.standard_normal((8, 2, 2))
    items = replace(shared.items, covariance=roots @ roots.transpose(0, 2, 1))
    p, d2 = len(shared.T), design.d2
    m, R = rng.standard_normal((4, p)), rng.standard_normal((4, p, p))
    V = R @ R.transpose(0, 2, 1)
    _, variance = predictive_moments(design, replace(shared, items=items), m, V)
    Z = design.project(shared.B, items.loadings).reshape(design.n, p)
    for j, user in enumerate(design.user):
        terms = slice(design.indptr[j], design.indptr[j + 1])
        place = design.item[design.rows[terms]]
        second = V[user, ::d2, ::d2] + np.outer(m[user, ::d2], m[user, ::d2])
        own = items.bias_variance[place].sum() + np.einsum("tkl,kl->", items.covariance[place], second)
        np.testing.assert_allclose(variance[j], Z[j] @ V[user] @ Z[j] + own, rtol=1e-5)
