"""Large simulated populations, of which the true rewards are known: for benchmarks and for tests of scale."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.learning import Comparisons

BLOCK = 1_000_000
"""Comparisons drawn at a time: bounds the memory of drawing, which is not to be counted as the fit's."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Everybody's rewards are X (theta_0 + B w_i) plus the items' own appeal."""

    X: NDArray[np.float64]
    """(M, d1)"""
    theta_0: NDArray[np.float64]
    B: NDArray[np.float64]
    """(d1, k), orthonormal."""
    W: NDArray[np.float64]
    """(N, k)"""
    appeal: NDArray[np.float64]
    """(M,)"""


def draw_world(
    rng: np.random.Generator,
    *,
    users: int,
    items: int,
    dim: int,
    rank: int,
    spread: float = 1.0,
    appeal: float = 0.0,
) -> World:
    """Scores have about unit variance for everybody's part and `spread`^2 * rank / dim ... for the personal one."""
    return World(
        X=rng.standard_normal((items, dim)),
        theta_0=rng.standard_normal(dim) / np.sqrt(dim),
        B=np.linalg.qr(rng.standard_normal((dim, rank)))[0] if rank else np.zeros((dim, 0)),
        W=spread * rng.standard_normal((users, rank)),
        appeal=appeal * rng.standard_normal(items),
    )


def draw_choices(rng: np.random.Generator, world: World, per_user: int) -> Comparisons:
    """`per_user` choices of every user between two items drawn at random, by Bradley-Terry."""
    N, M = len(world.W), len(world.X)
    n = N * per_user
    common, projected = world.X @ world.theta_0 + world.appeal, world.X @ world.B
    user = np.repeat(np.arange(N), per_user)
    chosen, rejected = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for begin in range(0, n, BLOCK):
        part = slice(begin, min(begin + BLOCK, n))
        size = part.stop - part.start
        first = rng.integers(M, size=size)
        second = (first + rng.integers(1, M, size=size)) % M
        score = common[first] - common[second]
        score += np.einsum("nk,nk->n", projected[first] - projected[second], world.W[user[part]])
        wins = rng.random(size) < 1.0 / (1.0 + np.exp(-score))
        chosen[part], rejected[part] = np.where(wins, first, second), np.where(wins, second, first)
    return Comparisons.from_pairs(world.X, chosen, rejected, user=user, n_users=N)
