"""The paper's estimator: the joint maximum of eq. (3.3) over Theta_0, B and all W_i.

The bound on ||W_i|| enters as its Lagrangian, a ridge. Blocks alternate, each exactly convex:
- given (Theta_0, B), every W_i by batched Newton steps (adapters.penalised_maximum);
- given the W_i, one truncated Newton step for Theta_0 and for B along the horizontal space (B^T dB = 0), with a line
  search on the loss at the retracted, orthonormal B. An unprojected dB would let B grow and W shrink until the ridge
  means nothing.

Starts: SI (Theta_0 = 0, random adapters), G (Theta_0 from a long global fit), WU (from a short one), each with random
adapters and a B fitted to them; `spectral` is G with the spectral B.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, assert_never

import numpy as np

from app.learning.adapters import penalised_maximum
from app.learning.arrays import Real, curvature, sigmoid
from app.learning.btl import fit_global
from app.learning.conjugate import Pair, conjugate_gradients
from app.learning.design import Design
from app.learning.evidence import user_moments
from app.learning.grams import grams_of
from app.learning.parameters import Ending, Shared
from app.learning.preconditioner import BlockPreconditioner
from app.learning.spectral import spectral_start
from app.learning.subspace import orthonormal

Start = Literal["spectral", "SI", "G", "WU"]

ADAPTER_VARIANCE = 1.0
"""The ridge on W_i as a prior variance, in squared log-odds of standardised features."""
WARM_UP_STEPS = 2
"""Newton steps of the short global fit of WU."""


def starting_point(
    design: Design, Theta_0: Real, ridge: Real, k: int, start: Start, rng: np.random.Generator
) -> Shared:
    """Where the alternation begins; Theta_0 is the long global fit."""
    d1, d2 = Theta_0.shape
    T = ADAPTER_VARIANCE * np.eye(k * d2)
    match start:
        case "spectral":
            return Shared(Theta_0, spectral_start(design, design.scores(Theta_0), k), T, ridge)
        case "SI":
            begin = np.zeros((d1, d2))
        case "G":
            begin = Theta_0
        case "WU":
            begin = fit_global(design, ridge, iterations=WARM_UP_STEPS)
        case _:
            assert_never(start)
    W = rng.standard_normal((design.n_users, k * d2))
    gradient = shared_gradient(design, begin, np.zeros((d1, k)), W, ridge)[1]
    return Shared(begin, orthonormal(gradient)[0], T, ridge)


def maximise_likelihood(
    design: Design,
    start: Shared,
    *,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None] | None = None,
) -> tuple[Shared, Ending]:
    """Alternate until the penalised log-likelihood's relative gain falls below `tolerance`, or `max_passes`."""
    shared, W, before = start, np.zeros((design.n_users, start.T.shape[0])), -np.inf
    for passes in range(1, max_passes + 1):
        offset, Z = design.scores(shared.Theta_0), design.project(shared.B)
        W = penalised_maximum(design, offset, Z, shared.T, start=W, iterations=5).means.reshape(design.n_users, -1)
        objective = -joint_loss(design, shared.Theta_0, shared.B, W, shared.ridge)
        if report is not None:
            report(passes, objective)
        if objective - before <= tolerance * abs(objective) and passes > 2:
            return shared, Ending(
                converged=True, passes=passes, reason="the likelihood stands still", objective=objective
            )
        shared, before = shared_step(design, shared, W), objective
    return shared, Ending(converged=False, passes=max_passes, reason="the pass limit was reached", objective=before)


def joint_loss(design: Design, Theta_0: Real, B: Real, W: Real, ridge: Real) -> float:
    """The negative penalised joint log-likelihood in nats, W (N, p)."""
    eta = joint_scores(design, Theta_0, B, W)
    fit = design.weight @ (np.logaddexp(0.0, eta) - design.label * eta)
    return float(fit) + 0.5 * float((ridge * Theta_0**2).sum()) + 0.5 * float((W**2).sum()) / ADAPTER_VARIANCE


def joint_scores(design: Design, Theta_0: Real, B: Real, W: Real) -> Real:
    Z = design.project(B).reshape(design.n, W.shape[1])
    return np.asarray(design.scores(Theta_0) + np.einsum("np,np->n", Z, W[design.user]))


def shared_step(design: Design, shared: Shared, W: Real) -> Shared:
    """One truncated Newton step for (Theta_0, B) on the horizontal space; never raises the loss."""
    Theta_0, B, ridge = shared.Theta_0, shared.B, shared.ridge
    w = design.weight * curvature(joint_scores(design, Theta_0, B, W))
    gradient = shared_gradient(design, Theta_0, B, W, ridge)
    rhs = (-gradient[0], -_horizontal(B, gradient[1]))
    moments = user_moments(design, w, W, np.zeros((design.n_users, W.shape[1], W.shape[1])), shared.k)
    blocks = BlockPreconditioner.of(grams_of(design, w), ridge, moments)

    def operator(pair: Pair) -> Pair:
        image = shared_hessian_product(design, w, W, ridge, pair)
        return image[0], _horizontal(B, image[1])

    def precondition(pair: Pair) -> Pair:
        change = blocks(pair)
        return change[0], _horizontal(B, change[1])

    step = conjugate_gradients(operator, precondition, rhs, iterations=20, tolerance=1e-2)
    before, length = joint_loss(design, Theta_0, B, W, ridge), 1.0
    for _ in range(30):
        new = Theta_0 + length * step[0], _retract(B + length * step[1])
        if joint_loss(design, *new, W, ridge) <= before:
            return replace(shared, Theta_0=new[0], B=new[1])
        length *= 0.5
    return shared


def shared_gradient(design: Design, Theta_0: Real, B: Real, W: Real, ridge: Real) -> Pair:
    """Gradient of the joint loss in Theta_0 (d1, d2) and B (d1, k)."""
    r = design.weight * (sigmoid(joint_scores(design, Theta_0, B, W)) - design.label)
    R = (r[:, None] * W[design.user]).reshape(design.n, B.shape[1], design.d2)
    return design.adjoint_scores(r) + ridge * Theta_0, design.adjoint_project(R)


def shared_hessian_product(design: Design, w: Real, W: Real, ridge: Real, pair: Pair) -> Pair:
    """The Hessian of the joint loss in (Theta_0, B), at curvatures w (n,), times a pair of directions."""
    own = W[design.user]
    r = w * (design.scores(pair[0]) + np.einsum("np,np->n", design.project(pair[1]).reshape(design.n, W.shape[1]), own))
    R = (r[:, None] * own).reshape(design.n, pair[1].shape[1], design.d2)
    return design.adjoint_scores(r) + ridge * pair[0], design.adjoint_project(R)


def _horizontal(B: Real, direction: Real) -> Real:
    return np.asarray(direction - B @ (B.T @ direction))


def _retract(B: Real) -> Real:
    """The nearest orthonormal matrix by QR with positive diagonal, so that columns keep their meaning."""
    Q, R = orthonormal(B)
    return np.asarray(Q * np.where(np.diagonal(R) < 0, -1.0, 1.0))
