"""No one user moves what all share by more than the noise, whatever they send."""

from dataclasses import replace

import numpy as np
import pytest

from app.learning import Comparisons, Model, bounded, fit, fold_in_users, largest_share
from app.learning.arrays import Real, real
from tests.support.learning_worlds import World, catalogue


def totals(comparisons: Comparisons) -> Real:
    return real(np.bincount(comparisons.user, comparisons.weight, minlength=comparisons.n_users))


def with_counts(counts: list[int]) -> Comparisons:
    user = np.repeat(np.arange(len(counts)), counts)
    chosen = np.arange(len(user)) % 3
    return Comparisons.from_pairs(np.eye(3), chosen, (chosen + 1) % 3, user=user, n_users=len(counts))


@pytest.mark.parametrize("seed", range(20))
def test_nobody_has_more_than_the_share_and_nobody_below_it_loses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 300))
    counts = np.minimum(rng.zipf(1.3, n), 20_000)
    before = totals(with_counts(counts.tolist()))
    after = totals(bounded(with_counts(counts.tolist())))
    most = largest_share(n) * after.sum()
    assert after.max() <= most * (1 + 1e-9)
    cut = after < before - 1e-9
    # Whoever was cut is at the bound, and no lower.
    np.testing.assert_allclose(after[cut], most, rtol=1e-9)


def test_who_answers_as_often_as_others_loses_nothing() -> None:
    for counts in ([7] * 9, [1, 2, 3, 2, 1] * 2, [30, 20, 10] * 10, [4, 0, 5, 6, 5] * 4, [1, 1000, 30]):
        given = with_counts(counts)
        assert bounded(given) is given


def test_fewer_than_eight_people_are_no_crowd_to_be_measured_by() -> None:
    few, crowd = (with_counts([1000] + [1] * others) for others in (6, 7))
    assert bounded(few) is few
    assert totals(bounded(crowd))[0] == pytest.approx(7 / 3)


def adversary(rng: np.random.Generator, world: World, n: int, kind: str, *, each: int = 1) -> Comparisons:
    """The world's people, and one more who answers n times, each `each` times over: by chance, or always against what
    most people want.
    """
    X, said = world.comparisons.X, world.comparisons
    assert isinstance(X, np.ndarray)
    first = rng.integers(0, len(X), n)
    second = (first + rng.integers(1, len(X), n)) % len(X)
    worth = world.rewards.mean(axis=0)
    swap = worth[first] > worth[second] if kind == "against" else rng.random(n) < 0.5
    chosen, rejected = np.where(swap, second, first), np.where(swap, first, second)
    pairs = said.rows.reshape(-1, 2)
    return Comparisons.from_pairs(
        X,
        np.append(pairs[:, 0], chosen),
        np.append(pairs[:, 1], rejected),
        user=np.append(said.user, np.full(n, said.n_users)),
        n_users=said.n_users + 1,
        weight=np.append(said.weight, np.full(n, float(each))),
    )


def drawn_again(said: Comparisons, rng: np.random.Generator) -> Comparisons:
    """The bootstrap over users: as many of the same kind, drawn with replacement."""
    times = np.bincount(rng.integers(0, said.n_users, said.n_users), minlength=said.n_users)
    kept = said.subset(times[said.user] > 0)
    return replace(kept, weight=kept.weight * times[kept.user])


def shared_by(comparisons: Comparisons) -> Model:
    return fit(comparisons, rank=2, dependence=0.0, calibrate=False)


def predictions(model: Model, said: Comparisons, asked: Comparisons) -> Real:
    """(n,) log-odds of what people would answer, from their own answers at the model's shared parameters."""
    p = np.clip(model.predict(asked, fold_in_users(model, said)), 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p))


def distance(a: Real, b: Real) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("kind", ["by chance", "against"])
def test_one_user_of_a_hundred_thousand_answers_moves_others_less_than_noise(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    world = catalogue(rng, n_users=100, per_user=25)
    said, asked = world.comparisons, catalogue(rng, n_users=100, per_user=15).comparisons
    base = predictions(shared_by(said), said, asked)
    noise = [distance(base, predictions(shared_by(drawn_again(said, rng)), said, asked)) for _ in range(3)]
    crowd = adversary(rng, world, 5_000, kind, each=20)
    moved = distance(base, predictions(shared_by(crowd), said, asked))
    assert moved < min(noise)

    monkeypatch.setattr("app.learning.fitting.user_shares", lambda given: np.ones(given.n_users))
    unbounded = distance(base, predictions(shared_by(crowd), said, asked))
    assert unbounded > 1.5 * max(noise)


def test_the_heavy_users_own_adapter_rests_on_all_they_said() -> None:
    rng = np.random.default_rng(5)
    world = catalogue(rng, n_users=40, per_user=20)
    crowd = adversary(rng, world, 2000, "by chance")
    model = shared_by(crowd)
    folded = fold_in_users(model, crowd)
    np.testing.assert_allclose(model.adapters.means[40], folded.means[40], atol=1e-5)
    np.testing.assert_allclose(model.adapters.covariances[40], folded.covariances[40], atol=1e-6)
