"""Subspaces: their distance and the gauge that makes a factorisation B W unique."""

import numpy as np

from app.learning.arrays import Real


def principal_angle_distance(B1: Real, B2: Real) -> float:
    """||P1 - P2||_F / sqrt(2) of the orthogonal projectors on the two column spaces.

    Source: Liu et al. 2025, Def. A.1.
    """
    Q1, Q2 = np.linalg.qr(B1)[0], np.linalg.qr(B2)[0]
    if Q1.shape[0] != Q2.shape[0]:
        raise ValueError(
            f"subspaces of the same space were expected; found dimensions {Q1.shape[0]} and {Q2.shape[0]}."
        )
    # ||P1 - P2||_F^2 = k1 + k2 - 2 ||Q1^T Q2||_F^2, from the parts outside so that small distances keep their digits.
    outside = np.linalg.norm(Q1 - Q2 @ (Q2.T @ Q1)) ** 2 + np.linalg.norm(Q2 - Q1 @ (Q1.T @ Q2)) ** 2
    return float(np.sqrt(0.5 * outside))


def orthonormal(B: Real) -> tuple[Real, Real]:
    """(Q, R) with B = Q R, Q^T Q = I."""
    Q, R = np.linalg.qr(B)
    return np.ascontiguousarray(Q), R


def canonical_rotation(B: Real, second_moment: Real) -> Real:
    """(k, k) orthogonal Q so that B Q has adapters with a diagonal, descending second moment and fixed signs.

    Parameters
    ----------
    second_moment
        (k, k) mean over users of E[W_i W_i^T].
    """
    _, Q = np.linalg.eigh(0.5 * (second_moment + second_moment.T))
    Q = Q[:, ::-1]
    rotated = B @ Q
    largest = rotated[np.abs(rotated).argmax(axis=0), np.arange(rotated.shape[1])] if rotated.size else np.ones(0)
    return Q * np.where(largest < 0, -1.0, 1.0)


def procrustes_rotation(B: Real, target: Real) -> Real:
    """(k, k) orthogonal Q that brings B Q nearest to `target` (d1, k)."""
    U, _, Vt = np.linalg.svd(B.T @ target)
    return np.asarray(U @ Vt)
