"""Simulated users with known rewards, for the tests of the numeric core."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.learning import Comparisons

Real = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    comparisons: Comparisons
    B: Real
    """(d1, k)"""
    rewards: Real
    """(N, M) of a catalogue, (N, S, A) of a tabular environment."""


def catalogue(
    rng: np.random.Generator,
    *,
    n_users: int,
    per_user: int,
    d1: int = 6,
    k: int = 2,
    n_items: int = 80,
    spread: float = 1.0,
    left: float = 0.0,
) -> World:
    """Rewards x^T (theta + B w_i + e_i), w_i ~ N(0, spread^2 I), e_i ~ N(0, left^2 I), answered by Bradley-Terry."""
    X = rng.standard_normal((n_items, d1))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    B = np.linalg.qr(rng.standard_normal((d1, k)))[0]
    theta = rng.standard_normal(d1) / np.sqrt(d1)
    tastes = theta + spread * rng.standard_normal((n_users, k)) @ B.T
    if left:
        tastes += left * rng.standard_normal((n_users, d1))
    rewards = tastes @ X.T
    user = np.repeat(np.arange(n_users), per_user)
    first = rng.integers(0, n_items, len(user))
    second = (first + rng.integers(1, n_items, len(user))) % n_items
    chosen, rejected = _answers(rng, rewards[user, first] - rewards[user, second], first, second)
    return World(Comparisons.from_pairs(X, chosen, rejected, user=user, n_users=n_users), B, rewards)


def in_contexts(
    rng: np.random.Generator, *, n_users: int, per_user: int, d1: int = 5, n_contexts: int = 40
) -> Comparisons:
    """Users who differ in how much a context turns one direction of taste around."""
    X, Y = rng.standard_normal((60, d1)), rng.standard_normal((n_contexts, 3))
    B = np.linalg.qr(rng.standard_normal((d1, 1)))[0][:, 0]
    user = np.repeat(np.arange(n_users), per_user)
    context = rng.integers(0, n_contexts, len(user))
    first = rng.integers(0, 60, len(user))
    second = (first + rng.integers(1, 60, len(user))) % 60
    taste = rng.standard_normal((n_users, 2))
    eta = ((X[first] - X[second]) @ B) * (taste[user, 0] + 2.0 * taste[user, 1] * Y[context, 0])
    chosen, rejected = _answers(rng, eta, first, second)
    return Comparisons.from_pairs(X, chosen, rejected, user=user, n_users=n_users, contexts=Y, context=context)


def tabular(
    rng: np.random.Generator, *, n_users: int, per_user: int, S: int = 8, A: int = 2, H: int = 4, k: int = 1
) -> World:
    """Rewards Theta_0 + B W_i of states and actions, answered on pairs of random trajectories."""
    B = np.linalg.qr(rng.standard_normal((S, k)))[0]
    rewards = 0.3 * rng.standard_normal((S, A)) + np.einsum(
        "sk,nka->nsa", 2.0 * B, rng.standard_normal((n_users, k, A))
    )
    user = np.repeat(np.arange(n_users), per_user)
    states, actions = rng.integers(0, S, (len(user), 2, H)), rng.integers(0, A, (len(user), 2, H))
    actions[(states[:, 0] == states[:, 1]).all(axis=1) & (actions[:, 0] == actions[:, 1]).all(axis=1), 0, 0] ^= 1
    returns = rewards[user[:, None, None], states, actions].sum(axis=2)
    trajectories = np.concatenate([states, actions], axis=2)
    swap = rng.random(len(user)) > 1 / (1 + np.exp(returns[:, 1] - returns[:, 0]))
    chosen = np.where(swap[:, None], trajectories[:, 1], trajectories[:, 0])
    rejected = np.where(swap[:, None], trajectories[:, 0], trajectories[:, 1])
    return World(Comparisons.from_trajectories(S, A, chosen, rejected, user=user, n_users=n_users), B, rewards)


def _answers(
    rng: np.random.Generator, eta: Real, first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    swap = rng.random(len(eta)) > 1 / (1 + np.exp(-eta))
    return np.where(swap, second, first), np.where(swap, first, second)
