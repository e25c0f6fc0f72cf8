"""What the compiled loops see of an MDP, and the loops as functions of arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.policy import kernels
from app.policy.mdp import FiniteHorizonMDP, Real

Actions = NDArray[np.int32]
NO_TABLE = np.empty((0, 0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    shape: tuple[int, int, int]
    """(H, S, A)"""
    initial: Real
    """(S,)"""
    indptr: NDArray[np.uint64]
    indices: NDArray[np.uint32]
    data: Real
    """The kernels of all steps as one CSR matrix, one below the other. Without signs: compiled loops would ask of every
    index whether it counts from the end, which makes them half as fast."""
    per_step: int
    """Rows from one step's kernel to the next step's; 0 where all share one."""
    allowed: NDArray[np.uint8]
    """(S * A,), or empty where every action can be taken everywhere."""

    @classmethod
    def of(cls, mdp: FiniteHorizonMDP) -> "Dynamics":
        starts = np.cumsum([0, *(kernel.nnz for kernel in mdp.kernels)])
        return cls(
            shape=(mdp.horizon, mdp.n_states, mdp.n_actions),
            initial=np.ascontiguousarray(mdp.initial, dtype=np.float64),
            indptr=np.concatenate(
                [[0], *(kernel.indptr[1:] + start for kernel, start in zip(mdp.kernels, starts[:-1], strict=True))]
            ).astype(np.uint64),
            indices=_joined([kernel.indices for kernel in mdp.kernels], np.uint32),
            data=_joined([kernel.data for kernel in mdp.kernels], np.float64),
            per_step=mdp.n_states * mdp.n_actions if len(mdp.kernels) > 1 else 0,
            allowed=np.empty(0, np.uint8) if mdp.available is None else mdp.available.ravel().astype(np.uint8),
        )

    @property
    def transitions(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32], Real, int]:
        return self.indptr, self.indices, self.data, self.per_step

    def induce(self, rewards: Real) -> Actions:
        """The best policy (H, S) for rewards (R, S * A), R = 1 or H."""
        H, S, A = self.shape
        policy = np.empty((H, S), dtype=np.int32)
        kernels.induce(*self.transitions, self.allowed, rewards, S, A, policy, np.empty((2, S)), NO_TABLE)
        return policy

    def soften(self, rewards: Real, tau: float, policy: Real) -> None:
        """Write the best policy (H, S, A) for rewards (R, S * A) where its entropy is worth tau."""
        kernels.soften(*self.transitions, self.allowed, rewards, tau, policy)

    def follow(self, policy: Actions, steps: int) -> Real:
        """Visits (`steps`, S * A) of a policy (H, S); over all steps together where `steps` is 1."""
        visits = np.zeros((steps, self.shape[1] * self.shape[2]))
        kernels.follow(*self.transitions, self.initial, policy, self.shape[2], visits)
        return visits

    def spread(self, policy: Real, steps: int) -> tuple[Real, Real]:
        """The same of a stochastic policy (H, S, A), and (H, S) how often it is in a state."""
        visits, present = np.zeros((steps, self.shape[1] * self.shape[2])), np.empty(self.shape[:2])
        kernels.spread(*self.transitions, self.initial, policy, present, visits)
        return visits, present

    def collect(self, policy: Actions, weight: float, measure: Real) -> None:
        """Add `weight` times the occupancy of a policy (H, S) to `measure` (H, S, A)."""
        kernels.collect(*self.transitions, self.initial, policy, weight, measure)


def _joined(parts: list[Any], dtype: type[np.generic]) -> NDArray[Any]:
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(whole, dtype=dtype)
