"""Dense tables with thousands of features: the answers of the matrices that are not made, and no such matrix."""

import tracemalloc

import numpy as np
import pytest

from app.learning import Comparisons, Model, fit, prepare, reduction
from app.learning import features as feature_maps
from app.learning.btl import fit_global_with_ridge
from app.learning.design import Design, design_of
from app.learning.features import feature_map_of
from app.learning.fitting import Estimator
from app.learning.grams import DenseGrams, KrylovGrams, grams_of
from app.learning.spectral import leftover_energy, rank_by_permutation
from tests.support.learning_worlds import in_contexts
from tests.support.preference_worlds import draw_choices, draw_world


def choices(*, users: int, items: int, dim: int, per_user: int) -> Comparisons:
    rng = np.random.default_rng(5)
    world = draw_world(rng, users=users, items=items, dim=dim, rank=2, appeal=0.3)
    return draw_choices(rng, world, per_user)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> tuple[Design, Design]:
    """The same design, once as one of few features and once as one of many."""
    c = choices(users=80, items=90, dim=70, per_user=20)
    narrow, wide = (design_of(c, feature_map_of(c)) for _ in "ab")
    monkeypatch.setattr(Design, "wide", property(lambda self: self is wide))
    return narrow, wide


def test_what_data_determine_and_preconditioners_are_about_those_of_the_matrices(both: tuple[Design, Design]) -> None:
    narrow, wide = both
    w, ridge = np.full(narrow.n, 0.2), np.array([30.0])
    exact, told = grams_of(narrow, w), grams_of(wide, w)
    assert isinstance(exact, DenseGrams)
    assert isinstance(told, KrylovGrams)
    np.testing.assert_allclose(told.determined(ridge), exact.determined(ridge), rtol=0.05)
    H, solve = exact.matrices[0] + ridge[0] * np.eye(70), told.solver(ridge)
    left = np.linalg.eigvals(np.hstack([solve(column[:, None]) for column in H.T])).real
    before = np.linalg.eigvalsh(H)
    assert left.max() / left.min() < 0.5 * before[-1] / before[0]


def test_whether_users_differ_is_told_alike(both: tuple[Design, Design]) -> None:
    scores = both[0].scores(fit_global_with_ridge(both[0])[0])
    assert [rank_by_permutation(d, scores, np.random.default_rng(0)) for d in both] == [2, 2]


def test_what_is_left_over_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    world = draw_world(rng, users=1500, items=120, dim=80, rank=20, spread=0.3)
    c = draw_choices(rng, world, 50)
    design, subspace = design_of(c, feature_map_of(c)), world.B[:, :10]
    scores = design.scores(fit_global_with_ridge(design)[0])
    exact = [leftover_energy(design, scores, B) for B in (np.zeros((80, 0)), subspace)]
    monkeypatch.setattr(feature_maps, "WIDE", 20)
    about = [leftover_energy(design, scores, B) for B in (np.zeros((80, 0)), subspace)]
    np.testing.assert_allclose(about, exact, rtol=0.25)


@pytest.mark.parametrize(("estimator", "world"), [("evidence", "plain"), ("evidence", "contexts"), ("mle", "plain")])
def test_a_fit_is_the_same_with_and_without_matrices_of_features(
    monkeypatch: pytest.MonkeyPatch, estimator: Estimator, world: str
) -> None:
    plain = world == "plain"
    c = (
        choices(users=120, items=100, dim=40, per_user=20)
        if plain
        else in_contexts(np.random.default_rng(1), n_users=120, per_user=20, d1=30)
    )

    def fitted() -> Model:
        rank, passes = (2, 200) if plain else (1, 40)
        return fit(
            c,
            rank=rank,
            dependence=0.0,
            estimator=estimator,
            calibrate=False,
            tolerance=1e-7,
            max_passes=passes,
        )

    dense = fitted()
    monkeypatch.setattr(feature_maps, "WIDE", 20)
    wide = fitted()
    assert wide.converged == dense.converged
    assert wide.ending.objective == pytest.approx(dense.ending.objective, rel=1e-4)
    np.testing.assert_allclose(wide.predict(c), dense.predict(c), atol=0.02)
    if plain:
        one, other = (m.rewards(m.adapter(3), c.items[:30]).stderr for m in (dense, wide))
        np.testing.assert_allclose(other, one, rtol=0.3)


def test_errors_of_few_items_with_many_features_are_told_by_few_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    c = choices(users=60, items=60, dim=200, per_user=20)

    def fitted() -> Model:
        return fit(c, rank=2, dependence=0.0, calibrate=False, max_passes=3)

    exact = fitted()
    monkeypatch.setattr(reduction, "WIDE", 100)
    about = fitted()
    assert about.shared_error.size < 0.5 * exact.shared_error.size
    one, other = (m.rewards(m.adapter(3), c.items).stderr for m in (exact, about))
    np.testing.assert_allclose(other, one, rtol=0.3)
    assert np.sqrt((other**2).mean()) == pytest.approx(np.sqrt((one**2).mean()), rel=0.05)


def test_a_fit_of_many_features_takes_no_more_than_three_times_its_table() -> None:
    prepare()
    c = choices(users=40, items=1200, dim=1024, per_user=15)
    tracemalloc.start()
    model = fit(c, rank=2, dependence=0.0, calibrate=False, max_passes=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(model.predict(c)).all()
    assert peak < 3 * c.items.nbytes
