"""Newton's direction where a Hessian may span more orders of magnitude than a double has digits."""

import numpy as np

from app.policy.mdp import Real

RIDGE = 1e-14
"""Added to the unit diagonal: it decides where rounding has left nothing else to decide."""


def newton_direction(hessian: Real, gradient: Real) -> Real:
    """Solve H x = -g for a positive definite H with a positive diagonal, scaled to a unit diagonal first."""
    scale = 1.0 / np.sqrt(np.diagonal(hessian))
    scaled = hessian * np.outer(scale, scale) + RIDGE * np.eye(scale.size)
    return np.asarray(scale * np.linalg.solve(scaled, -scale * gradient), dtype=np.float64)
