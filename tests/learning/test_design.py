from dataclasses import replace

import numpy as np
import pytest

from app.learning import Comparisons
from app.learning.adapters import _packed_places
from app.learning.design import design_of
from app.learning.features import feature_map_of
from tests.support.learning_references import dense_designs
from tests.support.learning_worlds import catalogue, in_contexts, tabular


def worlds() -> list[Comparisons]:
    rng = np.random.default_rng(3)
    return [
        catalogue(rng, n_users=5, per_user=7).comparisons,
        in_contexts(rng, n_users=4, per_user=9),
        tabular(rng, n_users=4, per_user=6).comparisons,
    ]


@pytest.mark.parametrize("comparisons", worlds(), ids=["catalogue", "contexts", "tabular"])
def test_operators_agree_with_dense_designs(comparisons: Comparisons) -> None:
    features, rng = feature_map_of(comparisons), np.random.default_rng(4)
    design = design_of(comparisons, features)
    D = dense_designs(comparisons, features)[design.order]
    n, d1, d2 = D.shape
    Theta, B, r, R = (rng.standard_normal(shape) for shape in ((d1, d2), (d1, 3), n, (n, 3, d2)))
    np.testing.assert_allclose(design.dense(np.arange(n)), D, atol=1e-12)
    np.testing.assert_allclose(design.scores(Theta), np.einsum("nab,ab->n", D, Theta), atol=1e-12)
    np.testing.assert_allclose(design.project(B), np.einsum("nab,ac->ncb", D, B), atol=1e-12)
    np.testing.assert_allclose(design.adjoint_scores(r), np.einsum("nab,n->ab", D, r), atol=1e-11)
    np.testing.assert_allclose(design.adjoint_project(R), np.einsum("nab,ncb->ac", D, R), atol=1e-11)
    np.testing.assert_allclose(design.grams(r**2), np.einsum("nab,neb,n->bae", D, D, r**2), atol=1e-11)


def test_users_have_as_many_comparisons_as_they_made() -> None:
    rng = np.random.default_rng(6)
    user = np.repeat(np.arange(5), [2, 0, 3, 1, 0])
    first = rng.integers(0, 4, len(user))
    c = Comparisons.from_pairs(rng.standard_normal((5, 2)), first, first + 1, user=user, n_users=5)
    assert design_of(c, feature_map_of(c)).counts().tolist() == [2, 0, 3, 1, 0]


@pytest.mark.parametrize("comparisons", worlds(), ids=["catalogue", "contexts", "tabular"])
def test_every_other_user_is_a_design_of_these_users(comparisons: Comparisons) -> None:
    rng = np.random.default_rng(8)
    c = comparisons.subset((comparisons.user != 1) & (rng.random(len(comparisons)) < 0.7))
    c = replace(c, label=rng.random(len(c)), weight=1 + rng.random(len(c)))
    features, users = feature_map_of(c), np.arange(0, c.n_users, 2)
    found, expected = design_of(c, features).thinned(2), design_of(c.of_users(users), features)
    Theta = rng.standard_normal((features.d1, features.d2))
    np.testing.assert_allclose(found.scores(Theta), expected.scores(Theta))
    for name in ("user", "label", "weight", "pointers"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(c.label[found.order], found.label)


def test_buckets_hold_every_comparison_once() -> None:
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(6), [1, 1000, 3, 0, 4, 40])
    first = rng.integers(0, 9, len(user))
    c = Comparisons.from_pairs(rng.standard_normal((10, 3)), first, first + 1, user=user, n_users=6)
    design = design_of(c, feature_map_of(c))
    rows = np.concatenate([bucket.index.ravel() for bucket in design.buckets])
    np.testing.assert_array_equal(np.sort(rows[rows < design.n]), np.arange(design.n))
    for bucket in design.buckets:
        for u, index in zip(bucket.users, bucket.index, strict=True):
            assert set(design.user[index[index < design.n]]) == {u}


def test_items_own_loadings_add_to_the_constant_column() -> None:
    for c in worlds():
        features, rng = feature_map_of(c), np.random.default_rng(6)
        ids = np.arange(len(c.items)) % 3 - 1
        named = replace(c, item_ids=ids)
        design = design_of(named, features, item_ids=np.array([0, 1]))
        D = dense_designs(named, features)[design.order]
        n, d1, d2 = D.shape
        own, bias, B = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal((d1, 2))
        own[2] = bias[2] = 0.0
        signs = np.zeros((n, 2))
        for row, j in enumerate(design.order):
            for term in range(c.indptr[j], c.indptr[j + 1]):
                item = ids[c.rows[term]]
                if item >= 0:
                    signs[row, item] += c.signs[term]
        expected = np.einsum("nab,ac->ncb", D, B)
        expected[:, :, 0] += signs @ own[:2]
        np.testing.assert_allclose(design.project(B, own), expected, atol=1e-12)
        Theta = rng.standard_normal((d1, d2))
        scores = np.einsum("nab,ab->n", D, Theta) + signs @ bias[:2]
        np.testing.assert_allclose(design.scores(Theta, bias), scores, atol=1e-12)


@pytest.mark.parametrize("d2", [1, 2, 3])
def test_items_loadings_covariance_adds_to_the_constant_columns_part_of_a_packed_one(d2: int) -> None:
    rows, columns = np.tril_indices(3 * d2)
    constant = (rows % d2 == 0) & (columns % d2 == 0)
    np.testing.assert_array_equal(_packed_places(3, d2), np.flatnonzero(constant))


def test_options_that_recur_for_their_user_count_less() -> None:
    X = np.random.default_rng(7).standard_normal((6, 3))
    # User 0 meets option 0 three times and the others once; user 1 meets nothing twice.
    c = Comparisons.from_pairs(X, [0, 4, 0, 0, 0], [1, 5, 2, 3, 5], user=[0, 1, 0, 0, 2])
    weight = np.empty(5)
    design = design_of(c, feature_map_of(c), dependence=0.5)
    weight[design.order] = design.weight
    np.testing.assert_allclose(weight, [1 / 1.5, 1, 1 / 1.5, 1 / 1.5, 1])


def test_half_life_halves_the_weight_of_each_such_age() -> None:
    c = Comparisons.from_pairs(np.eye(3), [0, 1, 2], [1, 2, 0], user=[0, 0, 0], age_seconds=[0.0, 10.0, 20.0])
    design = design_of(c, feature_map_of(c), half_life_seconds=10.0)
    np.testing.assert_allclose(design.weight, [1.0, 0.5, 0.25])


def test_tabular_features_stay_exactly_as_they_are() -> None:
    c = tabular(np.random.default_rng(7), n_users=3, per_user=5).comparisons
    features = feature_map_of(c)
    np.testing.assert_array_equal(features.items(c.items), np.eye(8))
    np.testing.assert_array_equal(features.columns(c.Y), np.eye(2))


def test_a_constant_feature_is_centred_and_not_blown_up() -> None:
    X = np.column_stack([np.full(4, 3.0), np.arange(4.0)])
    c = Comparisons.from_pairs(X, [0, 1], [2, 3], user=[0, 0])
    features = feature_map_of(c)
    np.testing.assert_array_equal(features.items(c.items)[:, 0], np.zeros(4))
    np.testing.assert_array_equal(features.items(c.items + 1.0)[:, 0], np.ones(4))
    assert not features.has_contexts


def test_contexts_are_principal_columns_of_which_the_first_has_unit_spread() -> None:
    c = in_contexts(np.random.default_rng(8), n_users=4, per_user=20)
    columns = feature_map_of(c).columns(c.Y[np.unique(c.cols)])
    np.testing.assert_array_equal(columns[:, 0], np.ones(len(columns)))
    covariance = np.cov(columns[:, 1:].T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    assert covariance[0, 0] == pytest.approx(1.0)
    assert (np.diff(np.diag(covariance)) <= 0).all()


def test_what_is_rounding_beside_the_widest_direction_of_contexts_is_left_out() -> None:
    rng = np.random.default_rng(9)
    contexts = rng.standard_normal((20, 2)) * [1e8, 1e-3]
    first, context = rng.integers(0, 3, 40), np.arange(40) % 20
    c = Comparisons.from_pairs(np.eye(3), first, (first + 1) % 3, user=[0] * 40, contexts=contexts, context=context)
    assert feature_map_of(c).columns(contexts).shape == (20, 2)
