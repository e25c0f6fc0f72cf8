import numpy as np
import pytest
from scipy.stats import chi2, norm

from app.learning import RewardBelief, fit
from tests.support.learning_worlds import World, catalogue


def covered(world: World, level: float, seed: int) -> tuple[int, int]:
    """How many of all users' rewards, less their mean item's, lie in their intervals."""
    model = fit(world.comparisons, rank=2, rng=np.random.default_rng(seed))
    items, weights = np.asarray(world.comparisons.X), np.full(world.rewards.shape[1], 1 / world.rewards.shape[1])
    hits = 0
    for user in range(0, len(world.rewards), 2):
        lower, upper = model.rewards(model.adapter(user), items).minus(weights).interval(level)
        truth = world.rewards[user] - world.rewards[user].mean()
        hits += int(((lower <= truth) & (truth <= upper)).sum())
    return hits, len(range(0, len(world.rewards), 2)) * len(weights)


@pytest.mark.parametrize(("n_users", "per_user", "d1"), [(200, 20, 8), (300, 30, 12)])
def test_intervals_cover_within_two_points(n_users: int, per_user: int, d1: int) -> None:
    counts = []
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        counts.append(covered(catalogue(rng, n_users=n_users, per_user=per_user, d1=d1, k=2), 0.95, seed))
    hits, total = np.sum(counts, axis=0)
    assert 0.93 <= hits / total <= 0.97


def test_interval_and_ellipsoid_reach_as_far_as_their_quantiles() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    np.testing.assert_allclose(belief.stderr, [5.0, 1.0])
    lower, upper = belief.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * norm.ppf(0.95) * belief.stderr)
    assert belief.beta(0.9) == pytest.approx(np.sqrt(chi2.ppf(0.9, 2)))


def test_a_reference_is_certain_of_itself() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    relative = belief.minus(np.array([1.0, 0.0]))
    assert relative.mean[0] == 0.0
    assert relative.stderr[0] == 0.0
    np.testing.assert_allclose(relative.stderr[1], np.sqrt(18.0))
