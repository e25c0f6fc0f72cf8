"""Thousands of states without features: nothing of size S x S, and what stands in for it is true."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator
from scipy.special import expit

from app.learning import Comparisons, fit, fitting, fold_in, prepare
from app.learning import features as feature_maps
from app.learning.arrays import Real
from app.learning.design import Design, design_of
from app.learning.features import feature_map_of
from app.learning.grams import DenseGrams, SparseGrams, grams_of
from app.learning.spectral import _between, _own
from app.learning.wide import WideStatistic, entry_variances, leading_eigenvectors, score_variances


def trajectories(states: int, n_users: int, per_user: int, *, actions: int = 4, horizon: int = 6) -> Comparisons:
    rng = np.random.default_rng(3)
    Theta, n = rng.normal(size=(states, actions)), n_users * per_user
    sides = [
        np.hstack([rng.integers(states, size=(n, horizon)), rng.integers(actions, size=(n, horizon))]) for _ in "ab"
    ]
    worth = [Theta[side[:, :horizon], side[:, horizon:]].sum(axis=1) for side in sides]
    wins = rng.random(n) < expit(worth[0] - worth[1])
    chosen, rejected = np.where(wins[:, None], *sides), np.where(wins[:, None], *sides[::-1])
    user = np.repeat(np.arange(n_users), per_user)
    return Comparisons.from_trajectories(states, actions, chosen, rejected, user=user, n_users=n_users)


def both(c: Comparisons, monkeypatch: pytest.MonkeyPatch) -> tuple[Design, Design]:
    """The same design with a dense table and with a sparse one."""
    dense = design_of(c, feature_map_of(c))
    monkeypatch.setattr(feature_maps, "DENSE_GRAMS", 0)
    sparse = design_of(c, feature_map_of(c))
    assert isinstance(dense.X, np.ndarray)
    assert not isinstance(sparse.X, np.ndarray)
    return dense, sparse


def test_no_array_of_states_by_states_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "REFIT_PASSES", 2)
    prepare()
    states = 3_000
    c = trajectories(states, n_users=30, per_user=8)
    tracemalloc.start()
    model = fit(c, rank=2, dependence=0.0, max_passes=5)
    adapter = fold_in(model, c.of_users([4]))
    belief = model.reward_table(adapter)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * states**2 / 5
    assert belief.mean.shape == (states * 4,)
    assert belief.stderr.min() > 0
    seen = np.unique(c.rows * 4 + c.cols)
    never = np.setdiff1d(np.arange(states * 4), seen)
    assert model.entry_errors is not None
    errors = model.entry_errors[:, :4].ravel()
    for action in range(4):  # each has a ridge of its own
        assert errors[seen[seen % 4 == action]].mean() < errors[never[never % 4 == action]].mean()


def test_scores_and_adjoints_do_not_depend_on_how_the_table_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, sparse = both(trajectories(30, 10, 5), monkeypatch)
    rng = np.random.default_rng(0)
    Theta, r = rng.normal(size=(30, 4)), rng.normal(size=dense.n)
    np.testing.assert_allclose(sparse.scores(Theta), dense.scores(Theta))
    np.testing.assert_allclose(sparse.adjoint_scores(r), dense.adjoint_scores(r))
    np.testing.assert_allclose(sparse.project(Theta[:, :2]), dense.project(Theta[:, :2]))


def test_spectra_are_summarised_without_the_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, sparse = both(trajectories(400, 40, 10), monkeypatch)
    w, ridge = np.full(dense.n, 0.2), np.array([0.1, 0.5, 2.0, 10.0])
    exact, told = grams_of(dense, w), grams_of(sparse, w)
    assert isinstance(exact, DenseGrams)
    assert isinstance(told, SparseGrams)
    np.testing.assert_allclose(told.determined(ridge), exact.determined(ridge), rtol=0.15)
    np.testing.assert_allclose(told.diagonal, np.diagonal(exact.matrices, axis1=1, axis2=2))
    inverses = np.linalg.inv(exact.matrices + ridge[:, None, None] * np.eye(400))
    variances = np.diagonal(inverses, axis1=1, axis2=2).T
    found = entry_variances(told, ridge, np.zeros(0))
    np.testing.assert_allclose(found.sum(axis=0), variances.sum(axis=0), rtol=0.1)
    assert np.corrcoef(found[:, 0], variances[:, 0])[0, 1] > 0.9


def test_users_differ_along_the_same_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, sparse = both(trajectories(30, 10, 5), monkeypatch)
    rng = np.random.default_rng(1)
    residual, w = rng.normal(size=dense.n), np.full(dense.n, 0.2)
    wide = WideStatistic.of(sparse, residual, w)
    U = _between(dense, residual, dense.user, _own(dense, residual)) / np.outer(wide.root, wide.root)
    v = rng.normal(size=30)
    D: Real = dense.dense(np.arange(dense.n))
    information = np.einsum("nab,n->a", D**2, w)
    np.testing.assert_allclose(wide.root**2, information, atol=1e-3 * information.mean())
    np.testing.assert_allclose(wide.between(sparse.user).matvec(v), U @ v)
    np.testing.assert_allclose(wide.leading(sparse.user, 2, rng)[0], np.linalg.eigvalsh(U)[:-3:-1], rtol=0.05)
    B = np.linalg.qr(rng.normal(size=(30, 2)))[0]
    outside, moved = np.eye(30) - B @ B.T, U / np.outer(wide.root, wide.root)
    np.testing.assert_allclose(wide.outside(B), np.trace(outside @ moved), rtol=1e-6)


def test_errors_of_scores_add_up_over_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, sparse = both(trajectories(30, 10, 5), monkeypatch)
    rng = np.random.default_rng(2)
    grams = grams_of(sparse, np.full(sparse.n, 0.2))
    assert isinstance(grams, SparseGrams)
    variances = entry_variances(grams, np.ones(4), np.array([0.5, 2.0]))
    rows, W = np.array([3, 17, 29]), rng.normal(size=(3, 2, 4))
    D: Real = dense.dense(rows)
    loaded = np.concatenate([D, D @ np.swapaxes(W, 1, 2)], axis=2)
    expected = np.einsum("nac,ac->n", loaded**2, variances)
    np.testing.assert_allclose(score_variances(sparse, rows, W, variances), expected)


def test_eigenvalues_that_are_next_to_nothing_need_no_vectors_of_their_own() -> None:
    """A few users leave so many directions without a difference that the solver ends with a fault."""
    rng = np.random.default_rng(3)
    size = np.concatenate([[3.0, 2.0, 1.0], 1e-9 * rng.standard_normal(577), -np.linspace(0.5, 2.0, 20)])
    U = LinearOperator((600, 600), matvec=lambda v: size * v.ravel(), dtype=np.float64)
    values, vectors = leading_eigenvectors(U, 8, rng, tolerance=1e-2)
    np.testing.assert_allclose(values, [3, 2, 1, 0, 0, 0, 0, 0], atol=1e-2)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-10)
    np.testing.assert_allclose(np.abs(vectors[:3, :3]), np.eye(3), atol=2e-2)
