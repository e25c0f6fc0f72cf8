import itertools

import numpy as np
import pytest

from app.domain import Context, FeaturesOption, InvalidInputError, Option, Preference, RefitPolicy, TrajectoryOption
from app.domain.arrays import ItemTable
from app.learning import Model
from app.policy import FiniteHorizonMDP
from app.serving import ServingRuntime
from app.serving.reference import ReferencePolicy, mdp_of, reference_of
from app.store import Database, load_model, load_preferences, put_environment, record_preferences
from tests.support.builders import mdp
from tests.support.feedback import NEVER_BY_ITSELF, define, record, refitted, walk_choices

pytestmark = pytest.mark.anyio

BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)
HORIZON = 3


async def learnt(db: Database, url: str, name: str, **settings: object) -> None:
    environment = mdp(name, refit=BY_HAND, rank=1, **settings)
    await define(db, environment)
    await record(db, name, walk_choices(environment, 40, 20))
    refit = await refitted(db, url, name)
    assert refit.error is None


def all_walks() -> list[TrajectoryOption]:
    return [
        TrajectoryOption((start, *actions[:-1]), actions)
        for start in range(2)
        for actions in itertools.product(range(2), repeat=HORIZON)
    ]


async def worth_of_walks(runtime: ServingRuntime, name: str, user: str) -> dict[TrajectoryOption, float]:
    walks = all_walks()
    answer = await runtime.rewards(name, user, walks)
    return {walk: one.reward for walk, one in zip(walks, answer.rewards, strict=True)}


def chance(walk: TrajectoryOption, policy: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Of a trajectory under a policy (H, S, A) in the builders' MDP, by hand."""
    begin = (0.25, 0.75)[walk.states[0]]
    return begin * float(
        np.prod([policy[h, s, a] for h, (s, a) in enumerate(zip(walk.states, walk.actions, strict=True))])
    )


@pytest.mark.parametrize("reference", ["uniform", "feedback", "given"])
async def test_the_reference_policy_is_worth_nothing(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime, reference: str
) -> None:
    given = np.array([[0.9, 0.1], [0.3, 0.7]])
    settings = {"reference_policy": given if reference == "given" else reference}
    await learnt(db, database_url, environment_name, **settings)
    table = await load_preferences(db, environment_name)
    nothing = ItemTable((), np.zeros((0, 0), np.float32))
    model = Model.from_arrays((await load_model(db, environment_name, 1)).arrays)
    found = reference_of(mdp(environment_name, **settings), nothing, table, model)
    assert isinstance(found, ReferencePolicy)
    if reference == "given":
        assert found.policy.tolist() == [given.tolist()] * HORIZON
    if reference == "feedback":
        steps = np.vstack([table.chosen_steps, table.rejected_steps])
        went = np.mean(steps[:, HORIZON:][steps[:, :HORIZON] == 0])
        assert found.policy[0, 0, 1] == pytest.approx(went, abs=0.02)

    for user in ("user-3", "nobody"):
        worth = await worth_of_walks(runtime, environment_name, user)
        assert sum(chance(walk, found.policy) * reward for walk, reward in worth.items()) == pytest.approx(0, abs=1e-9)


async def test_the_policy_is_worth_what_it_says(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    worth = await worth_of_walks(runtime, environment_name, "user-3")
    answer = await runtime.policy(environment_name, "user-3", confidence=0.3)
    assert answer.policy.shape == (HORIZON, 2, 2)
    assert (answer.states, answer.actions) == (("calm", "busy"), ("wait", "go"))
    assert sum(chance(walk, answer.policy) * reward for walk, reward in worth.items()) == pytest.approx(answer.nominal)
    assert answer.nominal > 0.01
    assert 0 <= answer.lower <= answer.upper
    assert answer.lower <= answer.nominal <= answer.greedy_nominal + 1e-9
    assert answer.greedy_lower <= answer.upper + 1e-9
    assert answer.converged
    # Where nothing is certain to be better than the reference, the gap is measured by what greed would promise.
    assert answer.gap <= 1e-4 * max(answer.upper, 0.01 * answer.greedy_nominal)
    assert answer.beta > 0


async def test_no_confidence_is_the_ordinary_optimum(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    worth = await worth_of_walks(runtime, environment_name, "user-3")
    best = sum(
        (0.25, 0.75)[start] * max(reward for walk, reward in worth.items() if walk.states[0] == start)
        for start in range(2)
    )
    answer = await runtime.policy(environment_name, "user-3", confidence=0.0)
    assert answer.lower == answer.upper == answer.nominal == pytest.approx(best)
    assert answer.beta == 0
    assert set(np.unique(answer.policy)) == {0.0, 1.0}


async def test_more_confidence_promises_less(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    lower = [
        (await runtime.policy(environment_name, "user-3", confidence=level)).lower for level in (0.0, 0.3, 0.9, 0.999)
    ]
    assert lower == sorted(lower, reverse=True)
    assert lower[-1] >= 0


async def test_states_go_by_name_index_or_digits(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    answers = [await runtime.actions(environment_name, "user-3", state, 1, seed=5) for state in ("busy", 1, "1")]
    policy = await runtime.policy(environment_name, "user-3")
    for one in answers:
        assert (one.state, one.step, one.actions) == ("busy", 1, ("wait", "go"))
        if one.planned_from == "start":
            assert one.distribution.tolist() == policy.policy[1, 1].tolist()
        assert one.sampled == answers[0].sampled
        assert one.greedy == int(np.argmax(one.distribution))


async def test_the_seed_draws_from_the_distribution(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    draws = [
        await runtime.actions(environment_name, "nobody", "calm", 0, confidence=0.999, seed=seed) for seed in range(200)
    ]
    share = np.mean([one.sampled for one in draws])
    assert share == pytest.approx(draws[0].distribution[1], abs=0.12)
    assert 0 < share < 1
    assert (await runtime.actions(environment_name, "nobody", 0, 0)).sampled in {0, 1}


async def test_where_the_plan_never_comes_the_rest_is_planned_from_there(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    for user in (f"user-{index}" for index in range(40)):
        plan = await runtime.policy(environment_name, user, confidence=0.0)
        elsewhere = {0, 1} - {int(plan.greedy[0, state]) for state in (0, 1)}
        if elsewhere:  # the best first action is the same in both states
            break
    (state,) = elsewhere
    answer = await runtime.actions(environment_name, user, state, 1, confidence=0.0)
    assert answer.planned_from == "state"
    worth = await worth_of_walks(runtime, environment_name, user)
    # The same first step, so that what differs is what the rest is worth.
    rest = {walk: reward for walk, reward in worth.items() if walk.states[:2] == (0, state)}
    best = max(rest, key=lambda walk: rest[walk])
    assert answer.greedy == best.actions[1]


async def test_questions_are_trajectories_that_can_happen_and_were_not_asked(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    asked = set()
    for _ in range(4):
        (query,) = (await runtime.queries(environment_name, "curious", 1)).queries
        first, second = (TrajectoryOption(*zip(*one["trajectory"], strict=True)) for one in (query.first, query.second))
        assert {first, second} <= set(all_walks())
        assert frozenset({first, second}) not in asked
        asked.add(frozenset({first, second}))
        await record_preferences(db, environment_name, [Preference("curious", first, second)])
    batch = (await runtime.queries(environment_name, "curious", 10)).queries
    pairs = {str(sorted([one.first["trajectory"], one.second["trajectory"]])) for one in batch}
    assert len(pairs) == len(batch)
    assert all(one.information > 0 for one in batch)
    again = (await runtime.queries(environment_name, "curious", 10)).queries
    assert again == batch


async def test_answers_shrink_what_is_left_to_learn(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    (before,) = (await runtime.queries(environment_name, "curious", 1)).queries
    first, second = (TrajectoryOption(*zip(*one["trajectory"], strict=True)) for one in (before.first, before.second))
    await record_preferences(db, environment_name, [Preference("curious", first, second)] * 4)
    (after,) = (await runtime.queries(environment_name, "curious", 1)).queries
    assert after.information < before.information


async def test_other_transitions_are_planned_with_at_once(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    before = await runtime.policy(environment_name, "user-3", confidence=0.0)
    stuck = np.array([[s, a, s, 1.0] for s in range(2) for a in range(2)])
    await put_environment(db, mdp(environment_name, refit=BY_HAND, rank=1, transitions=(stuck,)))
    after = await runtime.policy(environment_name, "user-3", confidence=0.0)
    assert after.model_version == before.model_version
    assert after.nominal != before.nominal


async def test_what_an_mdp_cannot_have_gets_a_sentence(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    context = Context(np.zeros(2, dtype=np.float32))
    wrong: dict[str, list[Option]] = {
        "a trajectory was expected": [FeaturesOption(np.zeros(2, dtype=np.float32))],
        "it has 2 steps": [TrajectoryOption((0, 0), (0, 0))],
        "lies outside": [TrajectoryOption((0, 0, 2), (0, 0, 0))],
    }
    for sentence, options in wrong.items():
        with pytest.raises(InvalidInputError, match=sentence) as refused:
            await runtime.rewards(environment_name, "user-3", options)
        assert str(refused.value.pointer).startswith("/options/0")
    for question in (
        runtime.policy(environment_name, "user-3", context=context),
        runtime.rewards(environment_name, "user-3", all_walks(), context),
    ):
        with pytest.raises(InvalidInputError, match="has no contexts"):
            await question
    with pytest.raises(InvalidInputError, match="nothing to rank"):
        await runtime.rank(environment_name, "user-3")
    for state in ("asleep", 2, -1, "2", None):
        with pytest.raises(InvalidInputError, match="has no state"):
            await runtime.actions(environment_name, "user-3", state)
    for step in (-1, 3):
        with pytest.raises(InvalidInputError, match=r"step: it is -?\d; it must be from 0 to 2"):
            await runtime.actions(environment_name, "user-3", 0, step)


def test_an_environment_becomes_the_planners_mdp() -> None:
    steps = tuple(np.array([[s, a, (a + h) % 2, 1.0] for s in range(2) for a in range(2)]) for h in range(HORIZON))
    built = mdp_of(mdp("x", transitions=steps))
    assert isinstance(built, FiniteHorizonMDP)
    assert (built.n_states, built.n_actions, built.horizon, len(built.kernels)) == (2, 2, HORIZON, HORIZON)
