"""How many backward inductions plans take. What only makes the planner quick shows in nothing else."""

from typing import Any

import numpy as np
import pytest

from app.policy import FullSpace, RobustPolicy, RobustSlate, logistic_level_set, robust_policy, robust_slate
from tests.support.policy_worlds import random_world

SLACK = 1.05
"""Of what it took when this was written; rounding differs a little from machine to machine."""


def work(plans: list[RobustPolicy] | list[RobustSlate]) -> int:
    assert all(plan.converged for plan in plans)
    return sum(plan.iterations for plan in plans)


def drawn(seed: int, **sizes: int) -> Any:
    return random_world(
        seed, **{"n_states": 8, "n_actions": 4, "horizon": 5, "q": 6, **sizes}, stationary=seed % 2 == 0
    )


@pytest.mark.parametrize(("beta", "most"), [(0.05, 20), (0.7, 44), (10.0, 350), (1e4, 465)])
def test_of_an_ellipsoid(beta: float, most: int) -> None:
    worlds = [drawn(seed) for seed in range(6)]
    plans = [robust_policy(one.mdp, one.mean, one.factor, beta=beta, reference=one.reference) for one in worlds]
    assert work(plans) <= SLACK * most


@pytest.mark.parametrize(("beta", "most"), [(0.05, 9), (0.7, 28), (10.0, 156), (1e4, 194)])
def test_of_the_full_space(beta: float, most: int) -> None:
    worlds = [random_world(seed, n_states=7, n_actions=6, horizon=5) for seed in range(3)]
    plans = [
        robust_policy(one.mdp, one.mean, FullSpace.of(one.mdp), beta=beta, reference=one.reference) for one in worlds
    ]
    assert work(plans) <= SLACK * most


@pytest.mark.parametrize(("excess", "most"), [(0.01, 138), (1.0, 157), (50.0, 158)])
def test_of_a_level_set(excess: float, most: int) -> None:
    rng = np.random.default_rng(0)
    worlds = [random_world(seed, n_states=8, n_actions=4, horizon=5, q=6) for seed in range(3)]
    sets = [
        logistic_level_set(rng.normal(size=(12, 4)), estimate=np.zeros(4), prior_precision=np.eye(4), excess=excess)
        for _ in worlds
    ]
    plans = [
        robust_policy(one.mdp, one.mean, one.factor, within=within, reference=one.reference)
        for one, within in zip(worlds, sets, strict=True)
    ]
    assert work(plans) <= SLACK * most


@pytest.mark.parametrize(("beta", "most"), [(0.05, 10), (0.7, 22), (10.0, 128), (1e4, 148)])
def test_of_slates(beta: float, most: int) -> None:
    draws = [np.random.default_rng(seed) for seed in range(3)]
    plans = [robust_slate(rng.normal(size=(1, 200)), rng.normal(size=(200, 8)) / 3, size=4, beta=beta) for rng in draws]
    assert work(plans) <= SLACK * most


@pytest.mark.parametrize(("beta", "most"), [(0.7, 18), (10.0, 174)])
def test_of_a_plan_taken_up_again(beta: float, most: int) -> None:
    worlds = [drawn(seed) for seed in range(6)]
    plans = []
    for one in worlds:
        first = robust_policy(one.mdp, one.mean, one.factor, beta=beta, reference=one.reference)
        mean = one.mean + 0.01 * np.random.default_rng(1).normal(size=one.mean.shape)
        plans.append(robust_policy(one.mdp, mean, one.factor, beta=beta, reference=one.reference, warm_start=first))
    assert work(plans) <= SLACK * most
