"""How rewards depend on what is uncertain: r = r_hat + L u, with L a matrix or too large to be one.

Errors that every reward has by itself are as many dimensions more (`OwnFactor`). The Frobenius ball of the paper's
(3.4), as printed, has a dimension for every entry of the reward parameters: r(s, a) = <Theta + U, x_s y_a^T>,
||U||_F <= radius. There L u is X U Y^T and its transpose X^T D Y, and neither L nor anything of its size is formed.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array

from app.policy.mdp import FiniteHorizonMDP, Real

Sparse = csr_array[Any, Any]

EXPLICIT = 32
"""Dimensions up to which Hessians are matrices, and so is L."""


class Factor(Protocol):
    @property
    def dimension(self) -> int:
        """The length of u, q."""

    @property
    def steps(self) -> int:
        """1, or H where L differs by step."""

    @property
    def matrix(self) -> Real | None:
        """L (steps * S * A, q), or nothing where it is too large."""

    def rewards(self, u: Real) -> Real:
        """Return L u, (steps, S * A)."""

    def gradient(self, change: Real) -> Real:
        """Return L^T (q,) of a change of visits (1 or H, S * A)."""


@dataclass(frozen=True, slots=True, eq=False)
class MatrixFactor:
    table: Real
    """(steps * S * A, q)"""
    steps: int

    @property
    def dimension(self) -> int:
        return int(self.table.shape[1])

    @property
    def matrix(self) -> Real | None:
        return self.table if self.dimension <= EXPLICIT else None

    def rewards(self, u: Real) -> Real:
        return np.asarray(self.table @ u).reshape(self.steps, -1)

    def gradient(self, change: Real) -> Real:
        flat = change.ravel() if self.steps == len(change) else change.sum(axis=0)
        return np.asarray(flat @ self.table)


@dataclass(frozen=True, slots=True, eq=False)
class OwnFactor:
    """L = [table, diag(own)]: beside what a table tells, every reward has an error of its own."""

    table: Real
    """(steps * S * A, q)"""
    own: Real
    """(steps * S * A,) standard errors."""
    steps: int

    @property
    def dimension(self) -> int:
        return int(self.table.shape[1]) + len(self.own)

    @property
    def matrix(self) -> Real | None:
        return None

    def rewards(self, u: Real) -> Real:
        q = self.table.shape[1]
        return np.asarray(self.table @ u[:q] + self.own * u[q:]).reshape(self.steps, -1)

    def gradient(self, change: Real) -> Real:
        flat = change.ravel() if self.steps == len(change) else change.sum(axis=0)
        return np.concatenate([flat @ self.table, flat * self.own])


@dataclass(frozen=True, slots=True, eq=False)
class FullSpace:
    """Every entry of the reward parameters is uncertain by itself: u is U (d1, d2), row by row."""

    shape: tuple[int, int]
    """(S, A)"""
    state_features: Real | Sparse | None
    """X (S, d1), or (H * S, d1) where rewards depend on the step; or the identity."""
    action_features: Real | None
    """Y (A, d2), or the identity."""
    scale: float = 1.0

    @classmethod
    def of(cls, mdp: FiniteHorizonMDP) -> "FullSpace":
        """Over the MDP's features, or its table of states and actions where it has none."""
        return cls((mdp.n_states, mdp.n_actions), mdp.state_features, mdp.action_features)

    @property
    def sizes(self) -> tuple[int, int]:
        """The shape (d1, d2) of U."""
        X, Y = self.state_features, self.action_features
        return self.shape[0] if X is None else X.shape[1], self.shape[1] if Y is None else Y.shape[1]

    @property
    def dimension(self) -> int:
        return self.sizes[0] * self.sizes[1]

    @property
    def steps(self) -> int:
        return 1 if self.state_features is None else self.state_features.shape[0] // self.shape[0]

    @property
    def matrix(self) -> Real | None:
        return None

    def since(self, rewards: int) -> "FullSpace":
        """The same of the last so many rewards, where they depend on the step."""
        X = self.state_features
        return self if X is None else replace(self, state_features=X[X.shape[0] - rewards // self.shape[1] :])

    def as_matrix(self) -> Real:
        """L (steps * S * A, q), for the sizes at which it may be one."""
        X = np.eye(self.shape[0]) if self.state_features is None else self.state_features
        X = X if isinstance(X, np.ndarray) else X.toarray()
        Y = np.eye(self.shape[1]) if self.action_features is None else self.action_features
        return np.asarray(self.scale * np.kron(X, Y))

    def rewards(self, u: Real) -> Real:
        table = self.scale * u.reshape(self.sizes)
        table = table if self.state_features is None else self.state_features @ table
        table = table if self.action_features is None else table @ self.action_features.T
        return np.asarray(table).reshape(self.steps, -1)

    def gradient(self, change: Real) -> Real:
        visits = change if self.steps == len(change) else change.sum(axis=0)
        table = self.scale * visits.reshape(-1, self.shape[1])
        table = table if self.state_features is None else self.state_features.T @ table
        table = table if self.action_features is None else table @ self.action_features
        return np.asarray(table).ravel()
