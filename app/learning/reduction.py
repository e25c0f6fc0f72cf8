"""Fewer items than features: fit in the space that the items span, and put the result back.

With M rows of d1 > M features, the ridge keeps every parameter in the span of the (centred) rows: nothing that was
compared says anything about the rest. With V (d1, r) an orthonormal basis of the span, X V has r < M columns, and
Theta_0 = V theta_0, B = V b solve the original problem; a pass that costs O(d1^3) costs O(r^3). Otherwise the rows are
mapped once, for all designs of a fit to share.
"""

from dataclasses import replace

import numpy as np

from app.learning.arrays import Real, occurring, real
from app.learning.comparisons import Comparisons
from app.learning.features import WIDE, FeatureMap
from app.learning.model import Model, no_adapters
from app.learning.parameters import Shared
from app.learning.wide import in_few_directions

SMALLEST = 1e-9
"""Singular values below this share of the largest are rounding."""
OUTSIDE = 1e-6
"""Share of a subspace's size that may lie outside the span, for it to be taken over."""


def row_space(comparisons: Comparisons, features: FeatureMap) -> Real | None:
    """(d1, r) orthonormal basis of what the used rows span; None where that would save nothing."""
    if comparisons.tabular:
        return None
    used = occurring(comparisons.rows, len(comparisons.X))
    if len(used) >= features.d1 or len(used) > WIDE:
        return None
    _, s, Vt = np.linalg.svd(features.items(comparisons.items[used]), full_matrices=False)
    r = max(1, int((s > SMALLEST * s[0]).sum()))
    return real(Vt[:r].T)


def reduced_features(features: FeatureMap, V: Real | None) -> FeatureMap:
    """The map of rows that are already in the model's features, in the coordinates of V; without V in their own."""
    r = features.d1 if V is None else V.shape[1]
    return replace(features, centre=real(np.zeros(r)), scale=real(np.ones(r)))


def reduced_comparisons(comparisons: Comparisons, features: FeatureMap, V: Real | None) -> Comparisons:
    mapped = np.ascontiguousarray(features.items(comparisons.items))
    return replace(comparisons, X=mapped if V is None else mapped @ V)


def reduced_model(model: Model, features: FeatureMap, V: Real | None) -> Model | None:
    """The model in the coordinates of V, as a start; None where the span does not hold what it knows."""
    if V is None:
        return replace(model, features=features)
    for parameters in (model.shared.B, model.shared.Theta_0):
        inside = V.T @ parameters
        if (parameters**2).sum() - (inside**2).sum() > OUTSIDE * max((parameters**2).sum(), 1e-300):
            return None
    return _moved(model, features, V.T)


def restored_model(model: Model, features: FeatureMap, V: Real | None) -> Model:
    """The inverse of the reduction: the same rewards, of raw features."""
    if V is None:
        return replace(model, features=features)
    return _moved(model, features, V)


def _moved(model: Model, features: FeatureMap, onto: Real) -> Model:
    shared, error = _shared(model.shared, onto), model.shared_error
    if len(onto) > WIDE:
        error = in_few_directions(error)
    return replace(
        model,
        features=features,
        shared=shared,
        everybody=None if model.everybody is None else _shared(model.everybody, onto),
        shared_error=np.einsum("ab,bcr->acr", onto, error, optimize=True),
        adapters=model.adapters if len(model.adapters) else no_adapters(shared),
    )


def _shared(shared: Shared, onto: Real) -> Shared:
    return replace(shared, Theta_0=onto @ shared.Theta_0, B=onto @ shared.B)
