"""Fewer items than features: fit in the space that the items span, and put the result back.

With M rows of d1 > M features, the ridge keeps every parameter in the span of the (centred) rows: nothing that was
compared says anything about the rest. With V (d1, r) an orthonormal basis of the span, X V has r < M columns, and
Theta_0 = V theta_0, B = V b solve the original problem; a pass that costs O(d1^3) costs O(r^3).
"""

from dataclasses import replace

import numpy as np

from app.learning.arrays import Real, occurring, real
from app.learning.comparisons import Comparisons
from app.learning.features import FeatureMap
from app.learning.model import Model, no_adapters
from app.learning.parameters import Shared

SMALLEST = 1e-9
"""Singular values below this share of the largest are rounding."""
OUTSIDE = 1e-6
"""Share of a subspace's size that may lie outside the span, for it to be taken over."""


def row_space(comparisons: Comparisons, features: FeatureMap) -> Real | None:
    """(d1, r) orthonormal basis of what the used rows span; None where that would save nothing."""
    if comparisons.tabular:
        return None
    used = occurring(comparisons.rows, len(comparisons.X))
    if len(used) >= features.d1:
        return None
    _, s, Vt = np.linalg.svd(features.items(comparisons.items[used]), full_matrices=False)
    r = max(1, int((s > SMALLEST * s[0]).sum()))
    return real(Vt[:r].T)


def reduced_features(features: FeatureMap, V: Real) -> FeatureMap:
    """The map of rows that are already in the model's features, in the coordinates of V."""
    r = V.shape[1]
    return replace(features, centre=real(np.zeros(r)), scale=real(np.ones(r)))


def reduced_comparisons(comparisons: Comparisons, features: FeatureMap, V: Real) -> Comparisons:
    return replace(comparisons, X=features.items(comparisons.items) @ V)


def reduced_model(model: Model, features: FeatureMap, V: Real) -> Model | None:
    """The model in the coordinates of V, as a start; None where the span does not hold what it knows."""
    for parameters in (model.shared.B, model.shared.Theta_0):
        inside = V.T @ parameters
        if (parameters**2).sum() - (inside**2).sum() > OUTSIDE * max((parameters**2).sum(), 1e-300):
            return None
    return _moved(model, features, V.T)


def restored_model(model: Model, features: FeatureMap, V: Real) -> Model:
    """The inverse of the reduction: the same rewards, of raw features."""
    return _moved(model, features, V)


def _moved(model: Model, features: FeatureMap, onto: Real) -> Model:
    shared = _shared(model.shared, onto)
    return replace(
        model,
        features=features,
        shared=shared,
        everybody=None if model.everybody is None else _shared(model.everybody, onto),
        shared_error=np.einsum("ab,bcr->acr", onto, model.shared_error),
        adapters=model.adapters if len(model.adapters) else no_adapters(shared),
    )


def _shared(shared: Shared, onto: Real) -> Shared:
    return replace(shared, Theta_0=onto @ shared.Theta_0, B=onto @ shared.B)
