from dataclasses import replace

import numpy as np
import pytest

from app.learning import Adapter, Comparisons, Model, fit, fold_in, most_informative_pairs
from app.learning.adapters import expected_probability
from tests.support.learning_worlds import Real, catalogue

WORLD = catalogue(np.random.default_rng(91), n_users=100, per_user=25)
ITEMS = np.asarray(WORLD.comparisons.X)


@pytest.fixture(scope="module")
def model() -> Model:
    return fit(replace(WORLD.comparisons, item_ids=None), rank=2)


def test_pairs_are_distinct_and_never_asked_before(model: Model) -> None:
    asked = [(j, i) for i in range(80) for j in range(i + 1, 80) if (i + j) % 2]
    pairs = most_informative_pairs(model, model.population(), ITEMS, 30, asked=asked, rng=np.random.default_rng(0))
    found = {(p.first, p.second) for p in pairs}
    assert len(found) == 30
    assert not found & {(i, j) for j, i in asked}
    assert all(p.first < p.second for p in pairs)


def test_the_first_pair_teaches_most_of_all(model: Model) -> None:
    adapter = model.population()
    first = most_informative_pairs(model, adapter, ITEMS, 1, rng=np.random.default_rng(0))[0]
    x = model.features.items(ITEMS)
    best = 0.0
    for i in range(80):
        for j in range(i + 1, 80):
            z = model.B.T @ (x[i] - x[j])
            w = weight(model, adapter, z, float(((x[i] - x[j]) @ model.Theta_0)[0]))
            best = max(best, 0.5 * np.log1p(w * z @ adapter.covariance @ z))
    assert first.information == pytest.approx(best)


def weight(model: Model, adapter: Adapter, z: Real, eta: float) -> float:
    """E[sigmoid'] over the belief about the score, from the expected probability's definition by differences."""
    variance = np.array([z @ adapter.covariance @ z])
    above, below = (expected_probability(np.array([eta + step]), variance)[0] for step in (1e-5, -1e-5))
    return model.effective_weight * float(above - below) / 2e-5


def test_a_batchs_information_adds_up_to_the_joint_one(model: Model) -> None:
    adapter = model.population()
    pairs = most_informative_pairs(model, adapter, ITEMS, 5, rng=np.random.default_rng(0))
    x, precision = model.features.items(ITEMS), np.linalg.inv(adapter.covariance)
    gained = precision.copy()
    for p in pairs:
        z, eta = model.B.T @ (x[p.first] - x[p.second]), float(((x[p.first] - x[p.second]) @ model.Theta_0)[0])
        gained += weight(model, adapter, z, eta) * np.outer(z, z)
    joint = 0.5 * (np.linalg.slogdet(gained)[1] - np.linalg.slogdet(precision)[1])
    assert sum(p.information for p in pairs) == pytest.approx(joint)


def test_asking_well_teaches_more_than_asking_at_random(model: Model) -> None:
    rng = np.random.default_rng(92)
    errors: dict[str, list[float]] = {"informative": [], "random": []}
    for user in range(60):
        truth = WORLD.rewards[user]
        for how, taken in errors.items():
            taken.append(error_after(model, truth, 6, how, rng))
    assert np.mean(errors["informative"]) < 0.85 * np.mean(errors["random"])


def error_after(model: Model, truth: Real, answers: int, how: str, rng: np.random.Generator) -> float:
    asked: list[tuple[int, int]] = []
    chosen: list[int] = []
    rejected: list[int] = []
    adapter: Adapter = model.population()
    for _ in range(answers):
        if how == "informative":
            pair = most_informative_pairs(model, adapter, ITEMS, 1, asked=asked, rng=rng)[0]
            i, j = pair.first, pair.second
        else:
            i, j = (int(v) for v in rng.choice(len(ITEMS), 2, replace=False))
        asked.append((i, j))
        wins = rng.random() < 1 / (1 + np.exp(truth[j] - truth[i]))
        chosen.append(i if wins else j)
        rejected.append(j if wins else i)
        adapter = fold_in(model, Comparisons.from_pairs(ITEMS, chosen, rejected, user=np.zeros(len(chosen))))
    found = model.rewards(adapter, ITEMS).mean
    return float(np.mean((found - found.mean() - truth + truth.mean()) ** 2))


def test_a_large_catalogue_is_sampled(model: Model) -> None:
    items = np.random.default_rng(93).standard_normal((2000, 6))
    pairs = most_informative_pairs(model, model.population(), items, 3, rng=np.random.default_rng(1), pool=500)
    assert len({(p.first, p.second) for p in pairs}) == 3
    some = most_informative_pairs(model, model.population(), ITEMS[:40], 400, rng=np.random.default_rng(1), pool=500)
    assert {i for p in some for i in (p.first, p.second)} == set(range(40))


def test_nothing_left_to_ask_is_an_empty_batch(model: Model) -> None:
    rng = np.random.default_rng(0)
    assert most_informative_pairs(model, model.population(), ITEMS[:2], 5, asked=[(1, 0)], rng=rng) == []
    assert len(most_informative_pairs(model, model.population(), ITEMS[:3], 5, rng=rng)) == 3


def test_only_given_pairs_are_asked(model: Model) -> None:
    among = [(7, 3), (1, 2), (2, 1), (30, 60), (5, 6)]
    pairs = most_informative_pairs(
        model, model.population(), ITEMS, 9, among=among, asked=[(6, 5)], rng=np.random.default_rng(0)
    )
    assert {(p.first, p.second) for p in pairs} == {(3, 7), (1, 2), (30, 60)}
