from pathlib import Path

import numpy as np
import pytest

from app.evaluation import Simulation, draw_simulation, simulate
from app.evaluation.simulation import Point, _exponent, _mean_of, ladder_points, learn_back
from app.evaluation.truth import draw_catalogue, draw_mdp


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(users=96, comparisons=32, dim=6, rank=1, seed=1, draws=3)


def test_the_ladder_goes_along_users_and_along_comparisons() -> None:
    assert ladder_points(80, 40, 2) == [(20, 40), (40, 40), (80, 10), (80, 20), (80, 40)]


def test_a_drawn_truth_has_the_asked_rank_and_centred_rewards() -> None:
    world = draw_catalogue(np.random.default_rng(0), n_users=30, per_user=5, dim=8, rank=3)
    differences = world.truth.Theta[:, :, 0] - world.truth.Theta[:, :, 0].mean(axis=0)
    assert np.linalg.matrix_rank(differences, tol=1e-9) == 3
    np.testing.assert_allclose(world.truth.B.T @ world.truth.B, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(world.rewards.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(world.X.std(axis=0), 1)


def test_both_forms_of_a_trajectory_hold_the_same_visits() -> None:
    world = draw_mdp(np.random.default_rng(0), n_users=10, per_user=4, rank=1)
    c = world.comparisons
    for j in (0, 7, 20):
        design = np.zeros((10, 3))
        terms = slice(c.indptr[j], c.indptr[j + 1])
        np.add.at(design, (c.rows[terms], c.cols[terms]), c.signs[terms])
        pair = world.data.X[world.data.chosen[j]] - world.data.X[world.data.rejected[j]]
        np.testing.assert_array_equal(design.ravel(), pair)


def test_a_smaller_point_knows_the_first_comparisons_of_the_first_users() -> None:
    rng = np.random.default_rng(0)
    world = draw_catalogue(rng, n_users=12, per_user=5, dim=4, rank=1)
    smaller = world.first(4, 3)
    np.testing.assert_array_equal(smaller.data.user, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(smaller.data.chosen.reshape(4, 3), world.data.chosen.reshape(12, 5)[:4, :3])
    np.testing.assert_array_equal(smaller.rewards, world.rewards[:4])
    mdp = draw_mdp(rng, n_users=12, per_user=5, rank=1)
    fewer = mdp.first(4, 3)
    assert fewer.comparisons.n_users == 4
    np.testing.assert_array_equal(fewer.comparisons.user, fewer.data.user)
    assert np.bincount(fewer.data.user).max() == 3


def test_the_exponent_of_a_power_is_that_power() -> None:
    x = np.array([10.0, 20.0, 40.0])
    assert _exponent(x.tolist(), (3 * x**-0.5).tolist()) == pytest.approx(-0.5)


def test_sharing_beats_global_and_local(simulation: Simulation) -> None:
    top = max(simulation.points, key=lambda point: (point.users, point.comparisons))
    errors = {method: result.reward_error for method, result in top.catalogue.items()}
    assert errors["p_share_lora"] < errors["lora_local"]
    assert errors["p_share_lora"] < errors["lora_global"]
    assert top.mdp.regret["greedy"] < top.mdp.regret["lora_global"] < top.mdp.regret["reference"]


def test_the_subspace_comes_nearer_with_users_and_with_comparisons(simulation: Simulation) -> None:
    slopes = simulation.slopes["principal_angle_distance"]
    assert slopes["users"].predicted == pytest.approx(-0.5)
    assert slopes["comparisons"].predicted == pytest.approx(-0.5)
    assert -1.2 < slopes["users"].fitted < -0.15
    assert -1.2 < slopes["comparisons"].fitted < -0.15


def test_all_points_together_have_a_slope_in_the_product(simulation: Simulation) -> None:
    together = simulation.slopes["principal_angle_distance"]["together"]
    assert together.predicted == pytest.approx(-0.5)
    assert -1.2 < together.fitted < -0.15


def tiny_point(seed: int) -> Point:
    rng = np.random.default_rng(seed)
    catalogue = draw_catalogue(rng, n_users=16, per_user=8, dim=4, rank=1)
    return learn_back(catalogue, draw_mdp(rng, n_users=16, per_user=8, rank=1), 1, seed=seed)


def test_several_truths_are_averaged() -> None:
    one, other = tiny_point(1), tiny_point(2)
    both = _mean_of([one, other])
    for method, result in both.catalogue.items():
        errors = one.catalogue[method].reward_error, other.catalogue[method].reward_error
        assert result.reward_error == pytest.approx(np.mean(errors))
    assert both.catalogue["lora_global"].principal_angle_distance is None
    assert both.mdp.coverage == pytest.approx((one.mdp.coverage + other.mdp.coverage) / 2)
    assert both.mdp.planned_users == one.mdp.planned_users + other.mdp.planned_users


def test_the_picture_is_drawn(simulation: Simulation, tmp_path: Path) -> None:
    draw_simulation(simulation, tmp_path / "simulation.svg")
    drawn = (tmp_path / "simulation.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count('<g id="axes_') == 4


def test_the_same_truth_is_learnt_back_the_same() -> None:
    first, second = tiny_point(3), tiny_point(3)
    assert first.catalogue == second.catalogue
    assert first.mdp == second.mdp


def test_the_rivals_have_slopes_too(simulation: Simulation) -> None:
    assert set(simulation.rival_slopes) == {"lora_global", "lora_local", "full_parameter"}
    assert "principal_angle_distance" not in simulation.rival_slopes["lora_global"]
    # More users teach everybody nothing about one; more comparisons of each do.
    assert simulation.rival_slopes["full_parameter"]["reward_error"]["users"] == pytest.approx(0, abs=0.1)
    assert simulation.rival_slopes["full_parameter"]["reward_error"]["comparisons"] < -0.15
    top = max(simulation.points, key=lambda point: (point.users, point.comparisons))
    assert top.catalogue["p_share_lora"].reward_error < top.catalogue["full_parameter"].reward_error
