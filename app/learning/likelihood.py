"""One user's penalised likelihood in their adapter, with the shared part held fixed."""

from dataclasses import dataclass

import numpy as np

from app.learning.adapters import penalised_maximum
from app.learning.arrays import Real, inverse
from app.learning.comparisons import Comparisons
from app.learning.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class UserLikelihood:
    """loss(w) = sum_j weight_j log(1 + exp(-z_j . w - o_j)) + (1/2) w^T precision w."""

    design: Real
    """(n, p + 1) rows [z_j, o_j]; a soft label is two rows, one each way."""
    weights: Real
    """(n,)"""
    estimate: Real
    """(p,) where the loss is least."""
    precision: Real
    """(p, p)"""


def user_likelihood(model: Model, comparisons: Comparisons) -> UserLikelihood:
    """The likelihood of one user's comparisons, p > 0."""
    design = model.design(comparisons)
    offset = design.scores(model.Theta_0, model.shared.items.bias)
    Z = design.project(model.B, model.shared.items.loadings)
    precision = inverse(model.T)
    if design.n == 0:
        return UserLikelihood(np.zeros((0, len(model.T) + 1)), np.zeros(0), np.zeros(len(model.T)), precision)
    rows = np.column_stack([Z.reshape(design.n, len(model.T)), offset])
    share = np.concatenate([design.label, 1.0 - design.label]) * np.tile(design.weight, 2)
    said = share > 0
    return UserLikelihood(
        np.ascontiguousarray(np.vstack([rows, -rows])[said]),
        share[said],
        penalised_maximum(design, offset, Z, model.T).means[0].ravel(),
        precision,
    )
