"""Scoring by a projection agrees with `Model.rewards`, which forms the factor of the joint covariance."""

import numpy as np
import pytest

from app.learning import Model, fit, project, projection, taste_of
from app.learning.items import content_ids
from tests.support.learning_worlds import catalogue, in_contexts

WORLD = catalogue(np.random.default_rng(5), n_users=30, per_user=20, d1=6, k=2)
X = np.asarray(WORLD.comparisons.X)


@pytest.fixture(scope="module", params=[0, 1, 3])
def model(request: pytest.FixtureRequest) -> Model:
    return fit(WORLD.comparisons, rank=request.param, calibrate=False, rng=np.random.default_rng(0))


def test_rewards_and_standard_errors_are_those_of_the_model(model: Model) -> None:
    rng = np.random.default_rng(1)
    items = np.vstack([X[::3], rng.standard_normal((5, X.shape[1]))])
    reference = model.mean_item(X[:40])
    projected = project(model, items, reference)
    rows = rng.permutation(len(items))[:20]
    for adapter in (model.population(), model.adapter(3), model.adapter(17)):
        belief = model.rewards(adapter, items, reference=reference)
        taste = taste_of(adapter, model.inflation)
        mean, stderr = projected.rewards(taste, rows)
        np.testing.assert_allclose(mean, belief.mean[rows], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(stderr, belief.stderr[rows], rtol=1e-9)
        np.testing.assert_allclose(projected.mean(taste), belief.mean, rtol=1e-9, atol=1e-12)


def test_the_calibration_scales_standard_errors(model: Model) -> None:
    projected, rows = project(model, X, model.mean_item(X)), np.arange(len(X))
    _, one = projected.rewards(taste_of(model.adapter(0), 1.0), rows)
    _, two = projected.rewards(taste_of(model.adapter(0), 2.0), rows)
    np.testing.assert_allclose(two, 2 * one)


def test_items_too_wide_for_quadratic_forms_have_means_only(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_WORK", 1.0)
    projected = project(model, X, model.mean_item(X), content_ids(X))
    taste = taste_of(model.adapter(0), 1.0)
    expected = model.rewards(model.adapter(0), X, reference=model.mean_item(X)).mean
    np.testing.assert_allclose(projected.mean(taste), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="no quadratic forms"):
        projected.rewards(taste, np.arange(2))


def test_contexts_are_refused() -> None:
    comparisons = in_contexts(np.random.default_rng(2), n_users=10, per_user=10)
    model = fit(comparisons, rank=1, calibrate=False, rng=np.random.default_rng(0))
    items = np.asarray(comparisons.X)
    with pytest.raises(ValueError, match="each context"):
        project(model, items, model.mean_item(items))
