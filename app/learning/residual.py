"""The personal residual: how users differ outside the shared subspace.

    Theta_i = Theta_0 + B W_i + E_i,    vec(E_i) ~ N(0, s^2 I)  outside span(B),

a factor-analytic prior: what a low rank leaves over is not put down to noise. s = 0 is the paper's model, whose tail
term Sigma_tail is what E_i stands for. With Q an orthonormal basis of what B leaves of the features, E_i = Q V_i, so
that [B, Q] is a B with more columns, and W_i and V_i are one adapter with the prior covariance diag(R, s^2 I) (x) S:
everything that is done with adapters is done with these as they are. Items have no loadings along Q.

That Q turns with B changes no stationary point: with the evidence's derivative G in the covariance of Theta_i, B is at
rest where Q^T G B = 0, whether or not Q follows.

Source: Rubin & Thayer 1982 for the EM of a factor-analytic prior; isotropic as in Tipping & Bishop 1999.
"""

from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from app.learning.arrays import Real
from app.learning.items import narrowed, widened
from app.learning.parameters import Shared

MAX_RESIDUAL_SIZE = 24
"""Largest d1 * d2: a user's solve takes its square for each comparison, and its cube. It is where features are few that
a low rank leaves something over; where they are many, a higher rank is found that leaves nothing."""
MAX_ITEM_NUMBERS = 5_000_000
"""Numbers of the items' covariances, at most, which the residual's columns widen."""
INITIAL_SHARE = 0.1
"""Of the prior variance along a direction of B, before the first pass."""


def residual_columns(d1: int, d2: int, rank: int, n_items: int) -> int:
    """How many columns the residual of this rank has; 0 where there is no room for it, or it would take too long."""
    if not 0 < rank < d1 or d1 * d2 > MAX_RESIDUAL_SIZE or n_items * d1**2 > MAX_ITEM_NUMBERS:
        return 0
    return d1 - rank


def with_residual(shared: Shared) -> Shared:
    """The same start of the passes with a small residual."""
    spread = INITIAL_SHARE * np.trace(shared.T) / len(shared.T)
    return _joined(shared, 1.0, spread * np.eye((len(shared.B) - shared.k) * shared.d2))


def without_residual(shared: Shared) -> Shared:
    """(Theta_0, B, T) of the shared directions alone."""
    if not shared.residual:
        return shared
    k = shared.rank
    p = k * shared.d2
    B, T = np.ascontiguousarray(shared.B[:, :k]), np.ascontiguousarray(shared.T[:p, :p])
    return replace(shared, B=B, T=T, items=narrowed(shared.items, k), residual=0)


def beside(shared: Shared, before: Shared) -> Shared:
    """The shared directions as they are now, and the residual of `before` outside them, as large as it was."""
    return _joined(shared, _size(before), _tail(before)) if before.residual else shared


def in_gauge_beside(shared: Shared, before: Shared) -> Shared:
    """The same in the gauge of a model: the residual's columns are orthonormal, and T takes their spread."""
    return _joined(shared, 1.0, _size(before) ** 2 * _tail(before))


def _size(shared: Shared) -> float:
    """The length of each of the residual's columns."""
    return float(np.linalg.norm(shared.B[:, -1]))


def _tail(shared: Shared) -> Real:
    """(r * d2, r * d2) the residual's part of T."""
    return shared.T[shared.rank * shared.d2 :, shared.rank * shared.d2 :]


def _joined(shared: Shared, size: float, tail: Real) -> Shared:
    """What is shared, and a residual outside it with columns of this length and this covariance along them."""
    k = shared.k
    Q = np.linalg.qr(shared.B, mode="complete")[0][:, k:]
    B, T = np.hstack([shared.B, size * Q]), block_diag(shared.T, tail)
    return replace(shared, B=B, T=T, items=widened(shared.items, Q.shape[1]), residual=Q.shape[1])


def residual_spread(shared: Shared) -> float:
    """s, of a model in its gauge; 0 without a residual."""
    return float(np.sqrt(np.diag(_tail(shared)).mean())) if shared.residual else 0.0


def factor_analytic(R: Real, residual: int) -> Real:
    """The nearest (k, k) covariance of which the last `residual` directions are alike, and independent of all others.

    It maximises the bound among these at the second moment R.
    """
    if not residual:
        return R
    k = len(R) - residual
    out = np.zeros_like(R)
    out[:k, :k] = R[:k, :k]
    out[range(k, len(R)), range(k, len(R))] = np.diag(R)[k:].mean()
    return out
