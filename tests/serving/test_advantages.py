import asyncio
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from app.domain import InvalidInputError
from app.domain.doubt import SetKind
from app.policy import FullSpace, occupancy
from app.serving import ServingRuntime, planning
from app.serving.answers import Pessimism
from app.serving.doubt import doubt_of
from app.serving.planning import DEFAULT_PESSIMISM
from app.serving.scoring import table_belief
from app.serving.snapshot import comparisons_of
from app.store import Database, export_user, user_comparisons
from tests.serving.test_mdp import HORIZON, chance, learnt, worth_of_walks

pytestmark = pytest.mark.anyio


async def test_an_explanation_adds_up(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    kinds: tuple[SetKind, ...] = ("credible", "ellipsoid")
    level = 0.9
    for kind in kinds:
        why = await runtime.explain_action(environment_name, "user-3", "calm", 0, kind=kind, confidence=level, n=1000)
        action = await runtime.actions(environment_name, "user-3", "calm", 0, kind=kind, confidence=level)
        assert (why.set, why.confidence, why.lower, why.beta) == (kind, level, action.lower, action.beta)
        assert why.action == action.actions[action.greedy]
        assert why.next_best != why.action
        assert why.probability == action.distribution[action.greedy]
        assert why.over_next_best is not None
        for advantage in (why.over_reference, why.over_next_best):
            assert advantage.robust == pytest.approx(advantage.estimate - advantage.caution)
            # The worst case lies in the set: caution is never more than its radius allows.
            assert abs(advantage.caution) <= why.beta * advantage.stderr + 1e-9
        # What is taken with certainty is not worse than what is not, in the worst case that was guarded against.
        assert why.over_next_best.robust >= -1e-3
        assert why.population + why.own == pytest.approx(why.over_reference.estimate)
        said = await export_user(db, environment_name, "user-3")
        assert len(why.comparisons) == len(said) == why.feedback_seen
        assert all(one.preference in said for one in why.comparisons)
        weights = [abs(one.over_next_best or 0.0) for one in why.comparisons]
        assert weights == sorted(weights, reverse=True)


async def test_without_doubt_an_explanation_is_the_estimate(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    why = await runtime.explain_action(environment_name, "user-3", 0, 0, confidence=0.0)
    other = await runtime.explain_action(environment_name, "user-3", 0, 0, confidence=0.0, action=why.next_best)
    worth = await worth_of_walks(runtime, environment_name, "user-3")
    best = {
        walk.actions[0]: max(worth[one] for one in worth if one.states[0] == 0 and one.actions[0] == walk.actions[0])
        for walk in worth
    }
    assert why.over_next_best is not None
    assert other.over_next_best is not None
    assert why.over_next_best.caution == 0
    assert why.over_next_best.estimate == pytest.approx(abs(best[0] - best[1]))
    assert other.over_next_best.estimate == pytest.approx(-why.over_next_best.estimate)
    reference = np.full((HORIZON, 2, 2), 0.5)
    at_the_reference = sum(4 * chance(walk, reference) * r for walk, r in worth.items() if walk.states[0] == 0)
    assert why.over_reference.estimate == pytest.approx(max(best.values()) - at_the_reference)


async def test_a_stranger_is_explained_by_the_population(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    why = await runtime.explain_action(environment_name, "nobody", "busy", 1)
    assert (why.own, why.comparisons, why.feedback_seen) == (0.0, (), 0)
    assert (why.set, why.confidence) == (DEFAULT_PESSIMISM.set, DEFAULT_PESSIMISM.confidence)
    assert why.population == pytest.approx(why.over_reference.estimate)


async def test_a_stranger_is_served_the_populations_robust_policy(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    ground = await runtime._ground(environment_name, "nobody", None)
    answer = await runtime.policy(environment_name, "nobody", kind="ellipsoid", confidence=0.9)
    belief = ground.model.reward_table(ground.model.population())
    assert ground.snapshot.mdp is not None
    reference = occupancy(ground.snapshot.mdp, np.full((HORIZON, 2, 2), 0.5))
    change = (occupancy(ground.snapshot.mdp, answer.policy) - reference).sum(axis=0).ravel()
    beta = belief.beta(0.9)
    assert answer.feedback_seen == 0
    assert answer.lower == pytest.approx(
        float(belief.mean @ change) - beta * float(np.linalg.norm(change @ belief.factor)), abs=1e-9
    )


async def test_every_set_is_a_true_worst_case(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    rng = np.random.default_rng(0)
    for user in ("user-3", "nobody"):
        ground = await runtime._ground(environment_name, user, None)
        assert ground.snapshot.mdp is not None
        said = await user_comparisons(db, environment_name, user)
        heard = comparisons_of(ground.snapshot, said) if ground.user.feedback_seen else None
        belief = table_belief(ground)
        reference = occupancy(ground.snapshot.mdp, np.full((HORIZON, 2, 2), 0.5))
        lowers = {}
        for kind in get_args(SetKind):
            answer = await runtime.policy(environment_name, user, kind=kind, confidence=0.9)
            assert answer.converged
            assert 0 <= answer.lower <= answer.upper <= answer.greedy_nominal + 1e-9
            doubt = doubt_of(ground, belief, Pessimism(kind, 0.9), said=heard)
            change = (occupancy(ground.snapshot.mdp, answer.policy) - reference).sum(axis=0).ravel()
            assert answer.nominal == pytest.approx(float(doubt.mean @ change), abs=1e-9)
            q = doubt.factor.dimension if isinstance(doubt.factor, FullSpace) else doubt.factor.shape[1]
            for u in rng.normal(size=(200, q)):
                point = (
                    u * ((doubt.beta or 0.0) / np.linalg.norm(u))
                    if doubt.within is None
                    else doubt.within.inside(9 * u)
                )
                assert float((doubt.mean + doubt.change(point)) @ change) >= answer.lower - 1e-9
            lowers[kind] = answer.lower
        assert lowers["credible"] >= lowers["ellipsoid"]


async def test_several_states_are_answered_by_one_plan(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    places: list[tuple[int | str | None, int]] = [("calm", 0), (1, 0), ("busy", 2), ("calm", 1)]
    together = await runtime.actions_at(environment_name, "user-5", places, seed=3)
    for place, one in zip(places, together, strict=True):
        alone = await runtime.actions(environment_name, "user-5", *place, seed=3)
        np.testing.assert_array_equal(one.distribution, alone.distribution)
        assert (one.state, one.step, one.sampled, one.lower) == (alone.state, alone.step, alone.sampled, alone.lower)


async def test_a_policy_too_large_for_one_answer_is_asked_for_by_state(
    db: Database,
    database_url: str,
    environment_name: str,
    runtime: ServingRuntime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await learnt(db, database_url, environment_name)
    monkeypatch.setattr(planning, "LARGEST_POLICY", 11)
    with pytest.raises(InvalidInputError, match="has 12 probabilities; at most 11"):
        await runtime.policy(environment_name, "user-3")
    assert (await runtime.actions(environment_name, "user-3", "calm")).step == 0


async def test_out_of_time_the_best_certified_plan_is_the_answer_and_is_not_kept(
    db: Database, database_url: str, environment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await learnt(db, database_url, environment_name)
    hurried = ServingRuntime(db, plan_seconds=1e-9, plan_tolerance=1e-12)
    patient = ServingRuntime(db)
    try:
        rushed = await hurried.policy(environment_name, "user-3", confidence=0.9)
        exact = await patient.policy(environment_name, "user-3", confidence=0.9)
        assert (rushed.converged, rushed.reason) == (False, "time")
        assert rushed.lower <= exact.upper + 1e-9
        assert rushed.upper >= exact.lower - 1e-9
        assert rushed.gap > 0
        assert len(hurried._plans._plans) == 0
        assert len(patient._plans._plans) == 1
        # Waiting for other plans counts, but some time is left to everybody.
        planned, seconds = planning.plan, list[float]()

        def timed(*given: Any) -> Any:
            seconds.append(given[5])
            return planned(*given)

        async def crowded(work: Callable[[], Any]) -> Any:
            await asyncio.sleep(0.3)
            return work()

        monkeypatch.setattr(planning, "plan", timed)
        monkeypatch.setattr(patient._plans, "_compute", crowded)
        monkeypatch.setattr(patient._plans, "_seconds", 0.2)
        await patient.policy(environment_name, "user-3", confidence=0.91)
        assert seconds == [pytest.approx(0.01)]
    finally:
        await hurried.aclose()
        await patient.aclose()
