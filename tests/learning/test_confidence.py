from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, norm

from app.evaluation import Coverage, catalogue_coverage
from app.evaluation.truth import draw_catalogue
from app.learning import Calibration, Model, RewardBelief, fit
from tests.support.learning_worlds import catalogue


def in_catalogues(n_users: int, per_user: int, dim: int, seed: int) -> Coverage:
    world = draw_catalogue(np.random.default_rng(seed), n_users=n_users, per_user=per_user, dim=dim, rank=2)
    model = fit(world.data.comparisons(n_users), rank=2, rng=np.random.default_rng(seed))
    return catalogue_coverage(model, world, ((i, model.adapter(i)) for i in range(0, n_users, 2)), level=0.95)


@pytest.mark.parametrize(("n_users", "per_user", "dim"), [(200, 20, 8), (250, 8, 16)])
def test_intervals_and_ellipsoids_cover(n_users: int, per_user: int, dim: int) -> None:
    found = [in_catalogues(n_users, per_user, dim, seed) for seed in range(2)]
    assert 0.91 <= np.mean([one.intervals for one in found]) <= 0.98
    assert 0.90 <= np.mean([one.ellipsoids for one in found]) <= 0.99
    # What is told of the errors is about their size, not only enough of it.
    assert 0.85 <= np.mean([one.reward_stderr / one.reward_error for one in found]) <= 1.2


def test_a_stored_model_keeps_its_calibration() -> None:
    world = catalogue(np.random.default_rng(3), n_users=20, per_user=5)
    model = replace(fit(world.comparisons, rank=1, calibrate=False), calibration=Calibration(1.5, 1.25, 2.0, 0.9))
    arrays = model.to_arrays()
    assert Model.from_arrays(arrays).calibration == model.calibration
    del arrays["calibration"]
    assert Model.from_arrays(arrays).calibration == Calibration(1.5)


def test_nobody_differs_and_errors_are_calibrated_all_the_same() -> None:
    world = catalogue(np.random.default_rng(4), n_users=40, per_user=10, spread=0.0)
    model = fit(world.comparisons, rank=0)
    assert model.calibration.joint == 1.0
    assert model.calibration.covered is not None
    assert model.diagnostics is not None
    assert 0.5 < model.calibration.covered <= 1.0
    assert model.diagnostics.coverage == model.calibration.covered
    assert 0.5 < model.inflation < 3.0


def test_interval_and_ellipsoid_reach_as_far_as_their_quantiles() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    np.testing.assert_allclose(belief.stderr, [5.0, 1.0])
    lower, upper = belief.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * norm.ppf(0.95) * belief.stderr)
    assert belief.beta(0.9) == pytest.approx(np.sqrt(chi2.ppf(0.9, 2)))
    assert replace(belief, joint=1.5).beta(0.9) == pytest.approx(1.5 * belief.beta(0.9))


def test_a_reference_is_certain_of_itself() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    relative = belief.minus(np.array([1.0, 0.0]))
    assert relative.mean[0] == 0.0
    assert relative.stderr[0] == 0.0
    np.testing.assert_allclose(relative.stderr[1], np.sqrt(18.0))
