"""The model that is the same for everybody: ridge-regularised Bradley-Terry-Luce, its ridge estimated from the data.

    minimise  sum_j a_j (log(1 + exp(eta_j)) - label_j eta_j) + 1/2 sum_b ridge_b ||Theta[:, b]||^2,
    eta_j = <DPhi_j, Theta>,

by Newton steps whose systems are solved by conjugate gradients. The ridge maximises the Laplace evidence by MacKay's
fixed point ridge_b = gamma_b / ||Theta[:, b]||^2 with gamma_b the effective number of parameters of column b.
"""

import numpy as np

from app.learning.arrays import Real, curvature, sigmoid
from app.learning.conjugate import Pair, conjugate_gradients
from app.learning.design import Design
from app.learning.grams import Apply, Grams, grams_of
from app.learning.preconditioner import RIDGE_BOUNDS

GRAM_COMPARISONS = 20_000
"""Comparisons that stand for all in the Newton systems' preconditioner."""
EVIDENCE_COMPARISONS = 50_000
"""Comparisons that stand for all in the ridge's estimate."""
STEP_TOLERANCE = 1e-2
"""Relative error of a Newton step, which the next one mends."""


def global_loss(design: Design, Theta: Real, ridge: Real) -> tuple[float, Real]:
    """The penalised loss in nats and its gradient (d1, d2)."""
    eta = design.scores(Theta)
    loss = design.weight @ (np.logaddexp(0.0, eta) - design.label * eta) + 0.5 * float((ridge * Theta**2).sum())
    gradient = design.adjoint_scores(design.weight * (sigmoid(eta) - design.label)) + ridge * Theta
    return float(loss), gradient


def global_hessian_product(design: Design, Theta: Real, ridge: Real, direction: Real) -> Real:
    """The Hessian of the penalised loss times `direction` (d1, d2)."""
    w = design.weight * curvature(design.scores(Theta))
    return design.adjoint_scores(w * design.scores(direction)) + ridge * direction


def fit_global(
    design: Design,
    ridge: Real,
    *,
    start: Real | None = None,
    grams: Grams | None = None,
    tolerance: float = 1e-9,
    iterations: int = 100,
) -> Real:
    """(d1, d2) the minimiser at this ridge (d2,).

    Parameters
    ----------
    grams
        Weighted Gram matrices of the designs, about; only the speed depends on them.
    tolerance
        Largest absolute gradient entry, relative to 1 + the sum of the weights, at which to stop.
    """
    if grams is None:
        grams = grams_of(design, 0.25 * design.weight, at_most=GRAM_COMPARISONS)
    solve = grams.solver(ridge)
    Theta = np.zeros((design.d1, design.d2)) if start is None else start.copy()
    scale = 1.0 + float(design.weight.sum())
    loss, gradient = global_loss(design, Theta, ridge)
    for _ in range(iterations):
        if np.abs(gradient).max() <= tolerance * scale:
            break
        step = _newton_step(design, Theta, ridge, gradient, solve)
        slope, length = float(np.vdot(gradient, step)), 1.0
        for _ in range(40):
            new_loss, new_gradient = global_loss(design, Theta - length * step, ridge)
            if new_loss <= loss - 1e-4 * length * slope + 1e-14 * abs(loss):
                break
            length *= 0.5
        else:
            break
        Theta, loss, gradient = Theta - length * step, new_loss, new_gradient
    return Theta


def _newton_step(design: Design, Theta: Real, ridge: Real, gradient: Real, solve: Apply) -> Real:
    w = design.weight * curvature(design.scores(Theta))
    nothing = np.zeros((design.d1, 0))

    def operator(pair: Pair) -> Pair:
        return design.adjoint_scores(w * design.scores(pair[0])) + ridge * pair[0], nothing

    def precondition(pair: Pair) -> Pair:
        return solve(pair[0]), nothing

    return conjugate_gradients(operator, precondition, (gradient, nothing), iterations=200, tolerance=STEP_TOLERANCE)[0]


def fit_global_with_ridge(
    design: Design, *, rounds: int = 8, tolerance: float = 1e-9, start: tuple[Real, Real] | None = None
) -> tuple[Real, Real]:
    """(Theta (d1, d2), ridge (d2,)) at the maximum of the approximate evidence.

    Parameters
    ----------
    rounds
        Most updates of the ridge.
    tolerance
        As of `fit_global`.
    """
    Theta, ridge = (np.zeros((design.d1, design.d2)), np.ones(design.d2)) if start is None else start
    grams = grams_of(design, 0.25 * design.weight, at_most=EVIDENCE_COMPARISONS)
    for _ in range(rounds):
        Theta = fit_global(design, ridge, start=Theta, grams=grams, tolerance=max(tolerance, 1e-6))
        w = design.weight * curvature(design.scores(Theta))
        grams = grams_of(design, w, at_most=EVIDENCE_COMPARISONS)
        new = np.clip(grams.determined(ridge) / np.maximum((Theta**2).sum(axis=0), 1e-12), *RIDGE_BOUNDS)
        settled = bool(np.allclose(new, ridge, rtol=0.05))
        ridge = new
        if settled:
            break
    return fit_global(design, ridge, start=Theta, grams=grams, tolerance=tolerance), ridge
