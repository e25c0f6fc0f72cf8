from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from app.evaluation import Dataset, Part, fit_global, fit_per_user, read_dataset
from app.evaluation.baselines import DifferenceMap, ridge_logistic
from tests.support.datasets import write_reference_folder


def learnt_and_tested(folder: Path) -> tuple[Dataset, Dataset]:
    dataset = read_dataset(folder)
    return dataset.part(Part.LEARN), dataset.part(Part.TEST)


@pytest.mark.parametrize("strength", [0.1, 30.0])
def test_ridge_logistic_agrees_with_a_general_solver(strength: float) -> None:
    rng = np.random.default_rng(3)
    D, offset = rng.normal(size=(60, 5)), rng.normal(size=60)

    def objective(theta: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return float(np.log1p(np.exp(-(offset + D @ theta))).sum() + strength / 2 * theta @ theta)

    independent = minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(ridge_logistic(D, offset, strength), independent.x, atol=1e-6)


def test_ridge_logistic_ends_on_separable_data() -> None:
    D = np.ones((200, 1)) * 50
    theta = ridge_logistic(D, np.zeros(200), 1e-2)
    assert np.isfinite(theta).all()
    assert theta[0] > 0


def test_per_user_beats_global_where_people_differ(tmp_path: Path) -> None:
    learn, test = learnt_and_tested(write_reference_folder(tmp_path, per_user=60))
    everybody = fit_global(learn, seed=0).predict(test)
    own = fit_per_user(learn, n_users=18, seed=0).predict(test)
    assert -np.log(own).mean() < -np.log(everybody).mean() - 0.05


def test_per_user_falls_back_to_global_where_people_do_not_differ(tmp_path: Path) -> None:
    learn, test = learnt_and_tested(write_reference_folder(tmp_path, spread=0.0, per_user=30))
    everybody = fit_global(learn, seed=0).predict(test)
    own = fit_per_user(learn, n_users=18, seed=0).predict(test)
    assert -np.log(own).mean() == pytest.approx(-np.log(everybody).mean(), abs=0.02)


def test_a_new_user_without_comparisons_is_the_global_model(tmp_path: Path) -> None:
    learn, test = learnt_and_tested(write_reference_folder(tmp_path))
    model = fit_per_user(learn, n_users=18, seed=0)
    nothing = learn.take(np.arange(0))
    np.testing.assert_allclose(model.predict_after(nothing, test, n_users=18), model.base.predict(test))


def test_a_user_is_served_the_same_fitted_or_met_later(tmp_path: Path) -> None:
    learn, test = learnt_and_tested(write_reference_folder(tmp_path, n_contexts=4))
    model = fit_per_user(learn, n_users=18, seed=0)
    user = np.array([5])
    met = model.predict_after(learn.renumbered(user), test.renumbered(user), n_users=1)
    np.testing.assert_allclose(met, model.predict(test.take(np.flatnonzero(test.user == 5))), atol=1e-6)


def test_differences_with_contexts_hold_main_effects_and_interactions(tmp_path: Path) -> None:
    learn, _ = learnt_and_tested(write_reference_folder(tmp_path, n_contexts=4))
    differences = DifferenceMap.of(learn)
    D = differences(learn)
    assert D.shape == (len(learn), 4 * 3)
    assert learn.context is not None
    j = 7
    x = differences.X[learn.chosen[j]] - differences.X[learn.rejected[j]]
    np.testing.assert_allclose(D[j].reshape(4, 3), np.outer(x, differences.Y[learn.context[j]]))


def test_a_feature_that_never_varies_is_left_out(tmp_path: Path) -> None:
    write_reference_folder(tmp_path)
    with np.load(tmp_path / "items.npz") as stored:
        features = stored["features"].copy()
    features[:, 2] = 7.0
    np.savez(tmp_path / "items.npz", features=features)
    learn, test = learnt_and_tested(tmp_path)
    model = fit_global(learn, seed=0)
    assert model.theta[2] == 0
    assert np.isfinite(model.predict(test)).all()
