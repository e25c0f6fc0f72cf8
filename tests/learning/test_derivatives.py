"""Gradients and Hessian products against central differences."""

import numpy as np
import pytest

from app.learning import Comparisons
from app.learning.arrays import Real, curvature
from app.learning.btl import global_hessian_product, global_loss
from app.learning.design import Design, design_of
from app.learning.features import feature_map_of
from app.learning.mle import joint_loss, joint_scores, shared_gradient, shared_hessian_product
from tests.support.learning_worlds import catalogue, in_contexts, tabular

STEP = 1e-5


def designs() -> list[Design]:
    rng = np.random.default_rng(11)
    made: list[Comparisons] = [
        catalogue(rng, n_users=4, per_user=6).comparisons,
        in_contexts(rng, n_users=4, per_user=6),
        tabular(rng, n_users=4, per_user=6).comparisons,
    ]
    return [design_of(c, feature_map_of(c), dependence=0.7) for c in made]


@pytest.mark.parametrize("design", designs(), ids=["catalogue", "contexts", "tabular"])
def test_global_derivatives(design: Design) -> None:
    rng = np.random.default_rng(12)
    Theta, direction = rng.standard_normal((2, design.d1, design.d2))
    ridge = rng.random(design.d2) + 0.5
    up, down = (global_loss(design, Theta + sign * STEP * direction, ridge) for sign in (1, -1))
    gradient = global_loss(design, Theta, ridge)[1]
    np.testing.assert_allclose((up[0] - down[0]) / (2 * STEP), np.vdot(gradient, direction), rtol=1e-7)
    product = global_hessian_product(design, Theta, ridge, direction)
    np.testing.assert_allclose((up[1] - down[1]) / (2 * STEP), product, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("design", designs(), ids=["catalogue", "contexts", "tabular"])
def test_joint_derivatives_in_the_shared_parameters(design: Design) -> None:
    rng, k = np.random.default_rng(13), 2
    Theta, dTheta = rng.standard_normal((2, design.d1, design.d2))
    B, dB = rng.standard_normal((2, design.d1, k))
    W, ridge = rng.standard_normal((design.n_users, k * design.d2)), rng.random(design.d2) + 0.5

    def at(step: float) -> tuple[float, Real, Real]:
        moved = Theta + step * dTheta, B + step * dB
        return (joint_loss(design, *moved, W, ridge), *shared_gradient(design, *moved, W, ridge))

    up, down, here = at(STEP), at(-STEP), at(0.0)
    slope = np.vdot(here[1], dTheta) + np.vdot(here[2], dB)
    np.testing.assert_allclose((up[0] - down[0]) / (2 * STEP), slope, rtol=1e-6)
    w = design.weight * curvature(joint_scores(design, Theta, B, W))
    product = shared_hessian_product(design, w, W, ridge, (dTheta, dB))
    np.testing.assert_allclose((up[1] - down[1]) / (2 * STEP), product[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((up[2] - down[2]) / (2 * STEP), product[1], rtol=1e-5, atol=1e-5)
