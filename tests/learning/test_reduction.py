"""Fewer items than features: the fit in the items' span is the fit."""

from dataclasses import replace

import numpy as np
import pytest

from app.learning import Comparisons, Model, fit, fitting


def wide(seed: int = 0, n_items: int = 12, dim: int = 40) -> Comparisons:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_items, dim))
    tastes = rng.normal(size=(30, 2)) @ rng.normal(size=(2, dim)) * 0.3
    user = np.repeat(np.arange(30), 15)
    pairs = np.array([rng.choice(n_items, 2, replace=False) for _ in user])
    margin = ((X[pairs[:, 0]] - X[pairs[:, 1]]) * tastes[user]).sum(axis=1)
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float)
    return Comparisons.from_pairs(X, pairs[:, 0], pairs[:, 1], user=user, label=label)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The same fit in all the features there are."""
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "row_space", lambda *_: None)
        return fit(wide(), rank=2, rng=np.random.default_rng(1), tolerance=1e-9)


def test_rewards_probabilities_and_errors_are_those_of_the_fit_in_all_features(whole: Model) -> None:
    said = wide()
    reduced = fit(said, rank=2, rng=np.random.default_rng(1), tolerance=1e-9)
    assert reduced.B.shape == whole.B.shape == (40, 2)
    np.testing.assert_allclose(reduced.predict(said), whole.predict(said), atol=2e-3)
    for user in (0, 7):
        one, other = (m.rewards(m.adapter(user), said.items) for m in (reduced, whole))
        np.testing.assert_allclose(one.mean - one.mean.mean(), other.mean - other.mean.mean(), atol=2e-2)


def test_a_model_of_few_items_values_others_and_outlives_being_stored() -> None:
    said = wide()
    model = fit(said, rank=2, rng=np.random.default_rng(1))
    again = Model.from_arrays(model.to_arrays())
    new = np.random.default_rng(9).normal(size=(5, 40))
    first, second = (m.rewards(model.adapter(3), new) for m in (model, again))
    np.testing.assert_allclose(first.mean, second.mean)
    assert np.ptp(first.mean) > 0.1
    assert model.diagnostics is not None
    assert (model.diagnostics.d1, model.features.d1) == (40, 40)


def test_a_refit_starts_from_the_model_and_is_soon_there() -> None:
    said = wide()
    cold = fit(said, rank=2, rng=np.random.default_rng(1), calibrate=False)
    warm = fit(said, rank=2, rng=np.random.default_rng(1), calibrate=False, warm_start=cold)
    assert warm.passes < cold.passes
    assert warm.diagnostics is not None
    assert warm.diagnostics.distance_to_previous is not None
    assert warm.diagnostics.distance_to_previous < 0.05


def test_a_model_whose_features_no_longer_fit_is_no_start() -> None:
    said = wide()
    cold = fit(said, rank=2, dependence=0.0, calibrate=False)
    wider = replace(said, X=10.0 * said.items)
    after, fresh = (
        fit(wider, rank=2, dependence=0.0, calibrate=False, max_passes=2, warm_start=warm) for warm in (cold, None)
    )
    assert after.features is not cold.features
    np.testing.assert_array_equal(after.Theta_0, fresh.Theta_0)


def test_items_outside_the_span_of_the_old_ones_begin_anew_without_a_fault() -> None:
    cold = fit(wide(), rank=2, rng=np.random.default_rng(1), calibrate=False)
    warm = fit(wide(5, n_items=14), rank=2, rng=np.random.default_rng(1), calibrate=False, warm_start=cold)
    assert warm.converged
