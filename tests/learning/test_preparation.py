"""Nobody who asks waits for a compiler."""

from typing import Any

import numpy as np
import pytest

from app.learning import Model, fit, fold_in_users, kernels, prepare
from tests.support.learning_worlds import catalogue


@pytest.mark.parametrize("rank", [0, 1])
def test_the_fold_in_of_a_stored_model_was_compiled_before(rank: int) -> None:
    """Its arrays are read-only, which to the compiler is another type."""
    prepare()
    compiled = set(kernels.e_step.signatures)
    c = catalogue(np.random.default_rng(0), n_users=12, per_user=10).comparisons
    stored = Model.from_arrays(read_only(fit(c, rank=rank, calibrate=False).to_arrays()))
    fold_in_users(stored, c.of_users([0, 1]))
    assert set(kernels.e_step.signatures) == compiled


def read_only(arrays: dict[str, Any]) -> dict[str, Any]:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays
