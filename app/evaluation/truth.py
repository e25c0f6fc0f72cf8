"""Known truths to learn back: users whose rewards differ inside a low-rank subspace.

Theta_i = Theta_0 + B W_i with an orthonormal B (d1, k) and W_i of independent normal entries, so that the paper's
condition number nu is `spread`^2 and its tail energy 0.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from app.evaluation.dataset import Dataset, Int, Part, Real
from app.learning import Comparisons
from app.policy import FiniteHorizonMDP

CATALOGUE_ITEMS = 150
SPREAD = 1.0
"""Standard deviation of an adapter's entry, in log-odds a unit of a feature."""

MDP_STATES, MDP_ACTIONS, MDP_HORIZON = 10, 3, 6
MDP_SUCCESSORS = 3
"""States that a state and action can lead to."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """N users' parameters."""

    Theta: Real
    """(N, d1, d2)"""
    B: Real
    """(d1, k), orthonormal columns."""

    def first(self, n_users: int) -> "Truth":
        return replace(self, Theta=self.Theta[:n_users])


def draw_truth(rng: np.random.Generator, *, n_users: int, d1: int, d2: int, rank: int) -> Truth:
    B = np.linalg.qr(rng.normal(size=(d1, rank)))[0]
    Theta_0 = rng.normal(size=(d1, d2)) / np.sqrt(d1)
    W = SPREAD * rng.normal(size=(n_users, rank, d2))
    return Truth(Theta=Theta_0 + np.einsum("dk,nkc->ndc", B, W), B=B)


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueWorld:
    X: Real
    """(M, d1), every column with mean 0 and spread 1, so that learnt and true coordinates are the same."""
    truth: Truth
    data: Dataset

    @property
    def rewards(self) -> Real:
        """(N, M), as differences from the mean item."""
        rewards = self.truth.Theta[:, :, 0] @ self.X.T
        centred: Real = rewards - rewards.mean(axis=1, keepdims=True)
        return centred

    def first(self, n_users: int, per_user: int) -> "CatalogueWorld":
        """The first comparisons of the first users: points of a ladder differ by what is known, not by the draw."""
        rows = _first_rows(self.data.user, n_users, per_user)
        return replace(self, truth=self.truth.first(n_users), data=self.data.take(rows))


def draw_catalogue(rng: np.random.Generator, *, n_users: int, per_user: int, dim: int, rank: int) -> CatalogueWorld:
    X = rng.normal(size=(CATALOGUE_ITEMS, dim))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    truth = draw_truth(rng, n_users=n_users, d1=dim, d2=1, rank=rank)
    user = np.repeat(np.arange(n_users), per_user)
    first = rng.integers(len(X), size=len(user))
    second = (first + rng.integers(1, len(X), size=len(user))) % len(X)
    eta = np.einsum("nd,nd->n", X[first] - X[second], truth.Theta[user, :, 0])
    return CatalogueWorld(X=X, truth=truth, data=_choices(rng, X, user, first, second, eta))


@dataclass(frozen=True, slots=True, eq=False)
class MdpWorld:
    mdp: FiniteHorizonMDP
    truth: Truth
    """d1 states, d2 actions."""
    reference: Real
    """(H, S, A), the uniform policy, which also drew the trajectories."""
    comparisons: Comparisons
    data: Dataset
    """The same comparisons for the baselines: an item is a trajectory, its features are its visit counts (S * A)."""

    def first(self, n_users: int, per_user: int) -> "MdpWorld":
        rows = _first_rows(self.data.user, n_users, per_user)
        return replace(
            self,
            truth=self.truth.first(n_users),
            comparisons=self.comparisons.subset(rows).of_users(np.arange(n_users)),
            data=self.data.take(rows),
        )


def draw_mdp(rng: np.random.Generator, *, n_users: int, per_user: int, rank: int) -> MdpWorld:
    P = _draw_transitions(rng)
    reference = np.full((MDP_HORIZON, MDP_STATES, MDP_ACTIONS), 1 / MDP_ACTIONS)
    truth = draw_truth(rng, n_users=n_users, d1=MDP_STATES, d2=MDP_ACTIONS, rank=rank)
    user = np.repeat(np.arange(n_users), per_user)
    states, actions = _draw_trajectories(rng, P, 2 * len(user))
    visits = np.zeros((2 * len(user), MDP_STATES, MDP_ACTIONS))
    np.add.at(visits, (np.arange(2 * len(user))[:, None], states, actions), 1.0)
    first = np.arange(len(user))
    second = first + len(user)
    same = (visits[first] == visits[second]).all(axis=(1, 2))
    user, first, second = user[~same], first[~same], second[~same]
    eta = np.einsum("nsa,nsa->n", visits[first] - visits[second], truth.Theta[user])
    data = _choices(rng, visits.reshape(len(visits), -1), user, first, second, eta)
    paths = np.hstack([states, actions])
    comparisons = Comparisons.from_trajectories(
        MDP_STATES, MDP_ACTIONS, paths[data.chosen], paths[data.rejected], user=user, n_users=n_users
    )
    return MdpWorld(mdp=_mdp_of(P), truth=truth, reference=reference, comparisons=comparisons, data=data)


def _first_rows(user: Int, n_users: int, per_user: int) -> Int:
    """Rows of the first comparisons of the first users; `user` ascends."""
    place = np.arange(len(user)) - np.searchsorted(user, user)
    rows: Int = np.flatnonzero((user < n_users) & (place < per_user))
    return rows


def _choices(rng: np.random.Generator, X: Real, user: Int, first: Int, second: Int, eta: Real) -> Dataset:
    """Bradley-Terry choices between rows of X with log-odds eta for the first."""
    wins = rng.random(len(user)) < expit(eta)
    return Dataset(
        name="simulated",
        X=X,
        contexts=None,
        user=user,
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        context=None,
        split=np.full(len(user), int(Part.LEARN)),
        split_rule="all to learn from",
    )


def _draw_transitions(rng: np.random.Generator) -> Real:
    """(S, A, S), a few successors for each state and action."""
    P = np.zeros((MDP_STATES, MDP_ACTIONS, MDP_STATES))
    for state, action in np.ndindex(MDP_STATES, MDP_ACTIONS):
        successors = rng.choice(MDP_STATES, MDP_SUCCESSORS, replace=False)
        P[state, action, successors] = rng.dirichlet(np.ones(MDP_SUCCESSORS))
    return P


def _mdp_of(P: Real) -> FiniteHorizonMDP:
    rows = np.column_stack([*np.nonzero(P), P[P > 0]])
    initial = np.full(MDP_STATES, 1 / MDP_STATES)
    return FiniteHorizonMDP.from_triples(MDP_STATES, MDP_ACTIONS, MDP_HORIZON, rows, initial=initial)


def _draw_trajectories(rng: np.random.Generator, P: Real, n: int) -> tuple[Int, Int]:
    """(n, H) states and actions under the uniform policy, from a uniformly drawn state."""
    states, actions = np.empty((n, MDP_HORIZON), dtype=np.int64), np.empty((n, MDP_HORIZON), dtype=np.int64)
    state = rng.integers(MDP_STATES, size=n)
    for step in range(MDP_HORIZON):
        action = rng.integers(MDP_ACTIONS, size=n)
        states[:, step], actions[:, step] = state, action
        reached = rng.random(n)[:, None] > P[state, action].cumsum(axis=1)
        state = np.minimum(reached.sum(axis=1), MDP_STATES - 1)
    return states, actions
