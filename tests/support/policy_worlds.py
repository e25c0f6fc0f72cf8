"""Small random planning problems, and obvious ways to solve them that share nothing with the planner."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.policy import FiniteHorizonMDP, occupancy

Real = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    mdp: FiniteHorizonMDP
    mean: Real
    """(S, A) or (H, S, A)"""
    factor: Real
    """(S * A, q) or (H * S * A, q)"""
    reference: Real
    """(H, S, A)"""


def random_world(
    seed: int,
    *,
    n_states: int = 4,
    n_actions: int = 3,
    horizon: int = 3,
    q: int = 3,
    successors: int = 3,
    stationary: bool = True,
) -> World:
    """Gaussian rewards and uncertainty, Dirichlet transitions, initial states and reference."""
    rng = np.random.default_rng(seed)
    steps = [
        _transitions(rng, n_states, n_actions, min(successors, n_states)) for _ in range(1 if stationary else horizon)
    ]
    mdp = FiniteHorizonMDP.from_triples(
        n_states, n_actions, horizon, steps[0] if stationary else steps, rng.dirichlet(np.ones(n_states))
    )
    return World(
        mdp=mdp,
        mean=rng.normal(size=(n_states, n_actions)),
        factor=rng.normal(size=(n_states * n_actions, q)) / np.sqrt(q),
        reference=rng.dirichlet(np.ones(n_actions), size=(horizon, n_states)),
    )


def _transitions(rng: np.random.Generator, n_states: int, n_actions: int, successors: int) -> Real:
    rows = [
        [state, action, following, probability]
        for state, action in product(range(n_states), range(n_actions))
        for following, probability in zip(
            rng.choice(n_states, successors, replace=False), rng.dirichlet(np.ones(successors)), strict=True
        )
    ]
    return np.array(rows)


def deterministic_policies(mdp: FiniteHorizonMDP) -> Iterator[Int]:
    """All A^(H S) of them, as (H, S)."""
    for actions in product(range(mdp.n_actions), repeat=mdp.horizon * mdp.n_states):
        yield np.array(actions, dtype=np.int64).reshape(mdp.horizon, mdp.n_states)


def policy_value(mdp: FiniteHorizonMDP, policy: Int, rewards: Real) -> float:
    """By stepping dense matrices through the states: an occupancy of its own."""
    present, total = mdp.initial, 0.0
    rows = np.arange(mdp.n_states)
    for step in range(mdp.horizon):
        total += float(present @ rewards[rows, policy[step]])
        moves = mdp.kernel(step).toarray()[rows * mdp.n_actions + policy[step]]
        present = present @ moves
    return total


def simulated_visits(mdp: FiniteHorizonMDP, policy: Real, n: int, rng: np.random.Generator) -> Real:
    """(H, S, A) shares of n simulated trajectories."""
    visits = np.zeros((mdp.horizon, mdp.n_states, mdp.n_actions))
    states = _drawn(np.tile(mdp.initial, (n, 1)), rng)
    for step in range(mdp.horizon):
        actions = _drawn(policy[step, states], rng)
        np.add.at(visits[step], (states, actions), 1.0 / n)
        states = _drawn(mdp.kernel(step).toarray()[states * mdp.n_actions + actions], rng)
    return visits


def _drawn(distributions: Real, rng: np.random.Generator) -> Int:
    """(n,) one index a row of (n, m) probabilities."""
    totals = np.cumsum(distributions, axis=1)
    drawn: Int = (rng.random(len(totals))[:, None] * totals[:, -1:] > totals).sum(axis=1)
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class ConicProgram:
    """The whole robust problem as Clarabel takes it."""

    cost: Real
    constraints: Any
    bounds: Real
    cones: list[Any]
    constant: float
    """What the reference is worth at the mean."""
    shape: tuple[int, int, int]
    """(H, S, A)"""

    def solver(self) -> Any:
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        none = sparse.csc_matrix((self.cost.size, self.cost.size))
        return clarabel.DefaultSolver(none, self.cost, self.constraints, self.bounds, self.cones, settings)

    def optimum(self, solution: Any) -> float:
        assert str(solution.status) in {"Solved", "AlmostSolved"}
        return float(-solution.obj_val - self.constant)


def conic_program(world: World, beta: float) -> ConicProgram:
    """Over d >= 0 and t: minimise beta t - <r_hat, d> subject to the flow equations and ||L^T (d - d_ref)|| <= t."""
    mdp = world.mdp
    H, S, A = mdp.horizon, mdp.n_states, mdp.n_actions
    n, q = H * S * A, world.factor.shape[1]
    visits = occupancy(mdp, world.reference).ravel()
    mean = np.broadcast_to(world.mean, (H, S, A)).ravel()
    factor = world.factor if len(world.factor) == n else np.tile(world.factor, (H, 1))
    blocks: list[list[Any]] = [[None] * H for _ in range(H)]
    leaving = sparse.kron(sparse.eye_array(S), np.ones((1, A)), format="csr")
    for step in range(H):
        blocks[step][step] = leaving
        if step:
            blocks[step][step - 1] = -mdp.kernel(step - 1).T
    flow = sparse.hstack([sparse.block_array(blocks), sparse.csc_array((H * S, 1))])
    positive = sparse.hstack([-sparse.eye_array(n), sparse.csc_array((n, 1))])
    bound = np.zeros((1 + q, n + 1))
    bound[0, n] = -1.0
    bound[1:, :n] = -factor.T
    return ConicProgram(
        cost=np.concatenate([-mean, [beta]]),
        constraints=sparse.csc_matrix(sparse.vstack([flow, positive, sparse.csr_array(bound)])),
        bounds=np.concatenate([mdp.initial, np.zeros((H - 1) * S + n + 1), -factor.T @ visits]),
        cones=[clarabel.ZeroConeT(H * S), clarabel.NonnegativeConeT(n), clarabel.SecondOrderConeT(q + 1)],
        constant=float(mean @ visits),
        shape=(H, S, A),
    )


def conic_optimum(world: World, beta: float) -> tuple[float, Real]:
    """The robust optimum and its occupancy (H, S, A), from the whole second-order cone program."""
    program = conic_program(world, beta)
    solution = program.solver().solve()
    return program.optimum(solution), np.maximum(np.array(solution.x[:-1]), 0.0).reshape(program.shape)


def worst_advantage(world: World, measure: Real, beta: float) -> float:
    """What an occupancy is worth over the reference's against the worst reward of the ellipsoid, in closed form."""
    change = measure - occupancy(world.mdp, world.reference)
    uncertain = change.ravel() if len(world.factor) == change.size else change.sum(axis=0).ravel()
    return float((world.mean * change).sum() - beta * np.linalg.norm(uncertain @ world.factor))
