import numpy as np
import pytest

from app.learning import fit, principal_angle_distance
from app.learning.btl import fit_global
from app.learning.design import design_of
from app.learning.features import feature_map_of
from app.learning.subspace import canonical_rotation, procrustes_rotation
from tests.support.learning_worlds import World, catalogue


def test_distance_is_that_of_the_projectors() -> None:
    rng = np.random.default_rng(71)
    A, B = (np.linalg.qr(rng.standard_normal((7, 3)))[0] for _ in range(2))
    expected = np.linalg.norm(A @ A.T - B @ B.T) / np.sqrt(2)
    assert principal_angle_distance(A, B) == pytest.approx(expected)
    mixed = A @ rng.standard_normal((3, 3))
    assert principal_angle_distance(A, mixed) == pytest.approx(0.0, abs=1e-12)


def test_distances_between_different_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="found dimensions 3 and 4"):
        principal_angle_distance(np.eye(3), np.eye(4))


def test_procrustes_undoes_a_rotation() -> None:
    rng = np.random.default_rng(72)
    B, Q = (np.linalg.qr(rng.standard_normal((d, 3)))[0] for d in (6, 3))
    np.testing.assert_allclose(B @ Q @ procrustes_rotation(B @ Q, B), B, atol=1e-12)


def test_the_canonical_rotation_orders_the_second_moment() -> None:
    rng = np.random.default_rng(73)
    B, root = np.linalg.qr(rng.standard_normal((6, 3)))[0], rng.standard_normal((3, 3))
    Q = canonical_rotation(B, root @ root.T)
    turned = Q.T @ root @ root.T @ Q
    np.testing.assert_allclose(turned, np.diag(np.diagonal(turned)), atol=1e-12)
    assert (np.diff(np.diagonal(turned)) <= 0).all()


def local_distance(world: World) -> float:
    """Mean distance of each user's own direction, learnt from that user's comparisons alone."""
    c = world.comparisons
    features = feature_map_of(c)
    common = fit_global(design_of(c, features), np.ones(1))
    distances = []
    for user in range(0, c.n_users, max(1, c.n_users // 40)):
        offset = fit_global(design_of(c.of_users([user]), features), np.ones(1)) - common
        distances.append(principal_angle_distance(offset, world.B))
    return float(np.mean(distances))


def test_the_shared_subspace_sharpens_with_the_root_of_all_comparisons_and_local_ones_do_not() -> None:
    ladder, shared, local = (40, 120, 360, 1080), [], []
    for n_users in ladder:
        found, alone = [], []
        for seed in range(4):
            world = catalogue(np.random.default_rng(80 + seed), n_users=n_users, per_user=20, k=1)
            found.append(
                principal_angle_distance(fit(world.comparisons, rank=1, calibrate=False).raw_subspace(), world.B)
            )
            alone.append(local_distance(world))
        shared.append(np.mean(found))
        local.append(np.mean(alone))
    totals = np.log(np.array(ladder) * 20)
    assert -0.65 < np.polyfit(totals, np.log(shared), 1)[0] < -0.35
    assert abs(np.polyfit(totals, np.log(local), 1)[0]) < 0.1
