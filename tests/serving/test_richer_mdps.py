"""Terminal states, unavailable actions, features and rewards by step, from the definition to the answer."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.special import expit

from app.domain import InvalidInputError, MdpEnvironment, Preference, RefitPolicy, TrajectoryOption
from app.domain.arrays import reward_tables
from app.learning import Comparisons, fit
from app.serving import ServingRuntime, mdp_of
from app.store import Database, get_environment
from tests.support.feedback import NEVER_BY_ITSELF, define, record, refitted

pytestmark = pytest.mark.anyio

Real = NDArray[np.float64]
BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)


def lesson(name: str, **settings: object) -> MdpEnvironment:
    """Study or rest, awake or drowsy; stopping ends the lesson, and who is drowsy cannot study."""
    moves = [[0, 0, 0, 0.5], [0, 0, 1, 0.5], [0, 1, 0, 1.0], [0, 2, 2, 1.0], [1, 1, 0, 1.0], [1, 2, 2, 1.0]]
    given: dict[str, object] = {
        "states": ("awake", "drowsy", "over"),
        "actions": ("study", "rest", "stop"),
        "horizon": 3,
        "initial": np.array([1.0, 0.0, 0.0]),
        "transitions": (np.array(moves),),
        "terminal": (2,),
        "unavailable": ((1, 0),),
        "rank": 1,
        "refit": BY_HAND,
        **settings,
    }
    return MdpEnvironment(name=name, **given)  # type: ignore[arg-type]


def courses(environment: MdpEnvironment) -> list[TrajectoryOption]:
    """All trajectories that can happen; who is over stays over."""
    mdp = mdp_of(environment)
    ended, kernel, S, A = mdp.terminal, mdp.kernel(0).toarray(), mdp.n_states, mdp.n_actions
    found = []
    for states, actions in product(product(range(S), repeat=3), product(range(A), repeat=3)):
        steps = list(zip(states, actions, strict=True))
        can = states[0] == 0 and all(
            action == 0 if ended[state] else mdp.available is None or mdp.available[state, action]
            for state, action in steps
        )
        for (state, action), following in zip(steps, states[1:], strict=False):
            can = can and (following == state if ended[state] else kernel[state * A + action, following] > 0)
        if can:
            found.append(TrajectoryOption(states, actions))
    return found


def said_by(environment: MdpEnvironment, worth: Real, per_user: int, seed: int = 0) -> list[Preference]:
    """Of users who all have these rewards (3, S, A), between courses drawn at random."""
    rng, options = np.random.default_rng(seed), courses(environment)
    value = [sum(worth[h, s, a] for h, (s, a) in enumerate(zip(o.states, o.actions, strict=True))) for o in options]
    said = []
    for number in range(40 * per_user):
        one, other = rng.choice(len(options), 2, replace=False)
        if rng.random() > expit(value[one] - value[other]):
            one, other = other, one
        said.append(Preference(f"user-{number % 40}", options[one], options[other]))
    return said


async def test_an_episode_that_ends_is_planned_and_learnt(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    environment = lesson(environment_name)
    await define(db, environment)
    assert (await get_environment(db, environment_name)).meaning == environment.meaning
    worth = np.tile([[2.0, 0.0, -1.0], [0.0, -4.0, 1.0], [0.0, 0.0, 0.0]], (3, 1, 1))
    await record(db, environment_name, said_by(environment, worth, 15))
    assert (await refitted(db, database_url, environment_name)).error is None

    plan = await runtime.policy(environment_name, "user-1", confidence=0.0)
    # Study while awake, stop when drowsy; nothing is done once it is over, and nobody studies drowsily.
    assert plan.greedy[:, :2].tolist() == [[0, 2]] * 3
    assert not plan.policy[:, 2].any()
    assert not plan.policy[:, 1, 0].any()
    robust = await runtime.policy(environment_name, "user-1", confidence=0.9)
    assert 0 <= robust.lower <= plan.nominal

    # What a trajectory is worth does not depend on how long it has been over.
    short, long = TrajectoryOption((0, 2, 2), (2, 0, 0)), TrajectoryOption((0, 0, 2), (1, 2, 0))
    one, other = (await runtime.rewards(environment_name, "user-1", [short, long])).rewards
    assert one.reward != other.reward
    (query,) = (await runtime.queries(environment_name, "fresh", 1)).queries
    options = {(tuple(map(tuple, side["trajectory"]))) for side in (query.first, query.second)}
    known = {tuple(zip(option.states, option.actions, strict=True)) for option in courses(environment)}
    assert options <= known
    why = await runtime.explain_action(environment_name, "user-1", "drowsy", 1, confidence=0.0)
    assert (why.action, why.next_best) == ("stop", "rest")
    with pytest.raises(InvalidInputError, match="'over' is terminal"):
        await runtime.actions(environment_name, "user-1", "over", 1)
    with pytest.raises(InvalidInputError, match="'study' cannot be taken in state 'drowsy'"):
        await runtime.explain_action(environment_name, "user-1", "drowsy", 1, action="study")


async def test_rewards_by_step_change_what_is_best(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    environment = lesson(environment_name, rewards="per_step")
    await define(db, environment)
    worth = np.zeros((3, 3, 3))
    worth[:, 0, 0], worth[:, 0, 1] = [3.0, -3.0, -3.0], [-3.0, 3.0, 3.0]
    await record(db, environment_name, said_by(environment, worth, 25))
    assert (await refitted(db, database_url, environment_name)).error is None
    plan = await runtime.policy(environment_name, "user-1", confidence=0.0)
    assert plan.greedy[:, 0].tolist() == [0, 1, 1]
    walks = courses(environment)
    values = [one.reward for one in (await runtime.rewards(environment_name, "user-1", walks)).rewards]
    best = walks[int(np.argmax(values))]
    assert best.actions == (0, 1, 1)
    # The policy is worth what its courses are: study leads to either state, by halves.
    chance = {walk: plan_chance(walk, plan.policy, environment) for walk in walks}
    assert sum(chance.values()) == pytest.approx(1)
    value = sum(chance[walk] * reward for walk, reward in zip(walks, values, strict=True))
    assert value == pytest.approx(plan.nominal)
    why = await runtime.explain_action(environment_name, "user-1", "awake", 1, n=3)
    assert why.population + why.own == pytest.approx(why.over_reference.estimate)
    whole = await runtime.policy(environment_name, "user-1", kind="frobenius_full", confidence=0.5)
    assert whole.converged
    assert 0 <= whole.lower <= whole.nominal
    await runtime.actions(environment_name, "user-1", "drowsy", 2, kind="frobenius_full", confidence=0.5)


def plan_chance(walk: TrajectoryOption, policy: Real, environment: MdpEnvironment) -> float:
    kernel, A = mdp_of(environment).kernel(0).toarray(), len(environment.actions)
    chance = 1.0
    for step, (state, action) in enumerate(zip(walk.states, walk.actions, strict=True)):
        if state not in environment.terminal:
            chance *= policy[step, state, action]
            if step + 1 < environment.horizon:
                chance *= kernel[state * A + action, walk.states[step + 1]]
    return float(chance)


def test_with_features_rewards_extend_to_pairs_nobody_compared() -> None:
    """Half of the states, and one action of three, occur in no comparison; their features say what they are worth."""
    rng = np.random.default_rng(0)
    S, A, H = 20, 3, 2
    state_features, action_features = rng.normal(size=(S, 2)), np.array([[-1.0], [0.0], [1.0]])
    moves = np.array([[s, a, t, 1.0 / S] for s, a, t in product(range(S), range(A), range(S))])
    environment = MdpEnvironment(
        "features", tuple(map(str, range(S))), ("a", "b", "c"), H, np.full(S, 1 / S), (moves,),
        state_features=state_features, action_features=action_features,
    )  # fmt: skip
    truth = 0.5 * state_features[:, :1] + state_features[:, 1:] * action_features.T + 0.8 * action_features.T
    n, users = 1500, 10
    states, actions = rng.integers(0, S // 2, (2, n, H)), rng.integers(0, 2, (2, n, H))
    value = truth[states, actions].sum(axis=2)
    first = rng.random(n) < expit(value[0] - value[1])
    paths = np.concatenate([states, actions], axis=2)
    distinct = (paths[0] != paths[1]).any(axis=1)
    tables = reward_tables(environment)
    chosen, rejected = np.where(first[:, None], paths[0], paths[1]), np.where(first[:, None], paths[1], paths[0])
    c = Comparisons.from_trajectories(
        S, A, chosen[distinct], rejected[distinct], user=np.arange(n)[distinct] % users,
        state_table=tables.states, action_table=tables.actions,
    )  # fmt: skip
    model = fit(c, rank=1, rng=np.random.default_rng(1))
    belief = model.reward_table(model.population(), tables.states, tables.actions)
    found = belief.mean.reshape(S, A)
    unseen = np.ones((S, A), dtype=np.bool_)
    unseen[: S // 2, :2] = False
    assert np.corrcoef(found[unseen], truth[unseen])[0, 1] > 0.95
    # Without features nothing is known of states that were not compared.
    plain = fit(replace(c, X=np.eye(S), Y=np.eye(A)), rank=1, rng=np.random.default_rng(1))
    alone = plain.reward_table(plain.population()).mean.reshape(S, A)
    np.testing.assert_allclose(alone[S // 2 :], 0.0, atol=1e-9)
    assert np.abs(found[S // 2 :]).max() > 0.5


def test_a_table_of_indicators_is_no_table() -> None:
    rng = np.random.default_rng(2)
    steps = rng.integers(0, 2, (2, 60, 6))
    differ = (steps[0] != steps[1]).any(axis=1)
    user = np.arange(60)[differ] % 5
    c = Comparisons.from_trajectories(2, 2, steps[0][differ], steps[1][differ], user=user)
    model = fit(c, rank=1, calibrate=False)
    adapter = model.adapter(2)
    plain, same = model.reward_table(adapter), model.reward_table(adapter, np.eye(2), np.eye(2))
    np.testing.assert_allclose(plain.mean, same.mean)
    np.testing.assert_allclose(plain.factor @ plain.factor.T, same.factor @ same.factor.T)


def test_features_are_scaled_and_terminal_states_are_worth_nothing() -> None:
    features = np.array([[10.0, 5.0], [30.0, 5.0], [999.0, 7.0]])
    tables = reward_tables(lesson("x", state_features=features))
    assert isinstance(tables.states, np.ndarray)
    np.testing.assert_allclose(tables.states, [[1, -1, 0], [1, 1, 0], [0, 0, 0]])
    by_step = reward_tables(lesson("x", rewards="per_step")).states
    assert issparse(by_step)
    assert by_step.shape == (9, 12)
    # What is common to all steps, and each step's own.
    np.testing.assert_array_equal(by_step.toarray()[1 * 3 + 0], [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
