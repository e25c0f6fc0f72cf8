"""Every factor is the matrix that it stands for."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from app.policy import FullSpace
from app.policy.factors import EXPLICIT, MatrixFactor, OwnFactor

RNG = np.random.default_rng(0)
H, S, A = 3, 3, 2
TABLE, BY_STEP = RNG.normal(size=(S * A, 3)), RNG.normal(size=(H * S * A, 3))
OWN, OWN_BY_STEP = RNG.uniform(size=S * A), RNG.uniform(size=H * S * A)
X, X_BY_STEP, Y = RNG.normal(size=(S, 2)), RNG.normal(size=(H * S, 2)), RNG.normal(size=(A, 3))

FACTORS: list[tuple[Any, Any, int]] = [
    (MatrixFactor(TABLE, 1), TABLE, 1),
    (MatrixFactor(BY_STEP, H), BY_STEP, H),
    (OwnFactor(TABLE, OWN, 1), np.hstack([TABLE, np.diag(OWN)]), 1),
    (OwnFactor(BY_STEP, OWN_BY_STEP, H), np.hstack([BY_STEP, np.diag(OWN_BY_STEP)]), H),
    (FullSpace((S, A), None, None), np.eye(S * A), 1),
    (FullSpace((S, A), X, Y, 2.5), 2.5 * np.kron(X, Y), 1),
    (FullSpace((S, A), csr_array(X_BY_STEP), None, 0.5), 0.5 * np.kron(X_BY_STEP, np.eye(A)), H),
]


@pytest.mark.parametrize(("factor", "matrix", "steps"), FACTORS)
def test_a_factor_multiplies_as_its_matrix_does(factor: Any, matrix: Any, steps: int) -> None:
    assert (factor.dimension, factor.steps) == (matrix.shape[1], steps)
    u = RNG.normal(size=factor.dimension)
    np.testing.assert_allclose(factor.rewards(u), (matrix @ u).reshape(steps, S * A))
    change = RNG.normal(size=(H, S * A))
    whole = np.vstack([matrix] * (H // steps))
    np.testing.assert_allclose(factor.gradient(change), change.ravel() @ whole, atol=1e-12)
    if steps == 1:
        np.testing.assert_allclose(factor.gradient(change[:1]), change[0] @ matrix, atol=1e-12)
    if isinstance(factor, FullSpace):
        np.testing.assert_allclose(factor.as_matrix(), matrix)


def test_a_table_is_a_matrix_up_to_a_size() -> None:
    small, large = (MatrixFactor(np.ones((S * A, q)), 1) for q in (EXPLICIT, EXPLICIT + 1))
    assert small.matrix is small.table
    assert large.matrix is None
