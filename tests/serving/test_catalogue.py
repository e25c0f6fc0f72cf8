import asyncio

import numpy as np
import psycopg
import pytest

from app.domain import (
    Context,
    CorruptModelError,
    FeaturesOption,
    InvalidInputError,
    ItemOption,
    ModelNotReadyError,
    NotFoundError,
    Option,
    Preference,
    RefitPolicy,
    TextOption,
    TrajectoryOption,
)
from app.serving import RewardsAnswer, ServingRuntime
from app.store import (
    Database,
    delete_environment,
    erase_user,
    promote_model,
    record_preferences,
    retire_item,
    upsert_items,
)
from tests.support.builders import DIM, catalog, items, prefers
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, record, refitted

pytestmark = pytest.mark.anyio

BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)
ALL = [ItemOption(f"item-{index}") for index in range(12)]


async def learnt(db: Database, url: str, name: str, *, appeal: float = 0.0, **settings: object) -> None:
    catalogue = await define(db, catalog(name, refit=BY_HAND, rank=2, **settings))
    await record(db, name, choices(catalogue, 60, 15, appeal=appeal))
    await refitted(db, url, name)


def numbers(answer: RewardsAnswer) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([[one.reward, one.stderr, one.lower, one.upper] for one in answer.rewards])


async def test_the_mean_item_of_the_catalogue_is_worth_nothing(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    for user in ("user-3", "a-stranger"):
        answer = await runtime.rewards(environment_name, user, ALL)
        assert np.mean([one.reward for one in answer.rewards]) == pytest.approx(0, abs=1e-9)


async def test_an_item_is_known_by_its_own_record_and_an_option_by_its_features_alone(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name, appeal=2.0)
    named, alike = items(12)[0], FeaturesOption(items(12)[0].features + np.float32(1e-4))
    options: list[Option] = [ItemOption(named.id), FeaturesOption(named.features), alike]
    item, same, other = (await runtime.rewards(environment_name, "user-3", options)).rewards
    assert item == same
    assert other.stderr > item.stderr
    assert other.reward != pytest.approx(item.reward, abs=0.1)


async def test_the_zero_stays_where_it_was_when_the_catalogue_changes(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    before = await runtime.rewards(environment_name, "user-3", ALL[:5])
    await upsert_items(db, environment_name, items(30, seed=9)[20:])
    await retire_item(db, environment_name, "item-11")
    after = await runtime.rewards(environment_name, "user-3", ALL[:5])
    assert numbers(after) == pytest.approx(numbers(before))
    ranked = await runtime.rank(environment_name, "user-3")
    assert "item-25" in {one.item for one in ranked.ranking}
    assert "item-11" not in {one.item for one in ranked.ranking}


async def test_a_preference_is_in_the_next_answer_of_another_process(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime, other_runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    before = [await one.rewards(environment_name, "user-3", ALL) for one in (runtime, other_runtime)]
    assert numbers(before[0]) == pytest.approx(numbers(before[1]))
    for round_ in range(1, 4):
        await record_preferences(db, environment_name, [prefers("user-3", "item-1", "item-2")])
        after = [await one.rewards(environment_name, "user-3", ALL) for one in (runtime, other_runtime)]
        assert [one.feedback_seen for one in after] == [15 + round_] * 2
        assert numbers(after[0]) == pytest.approx(numbers(after[1]))
        margins = [one.rewards[1].reward - one.rewards[2].reward for one in (before[0], after[0])]
        assert margins[1] > margins[0]
        before = after


async def test_a_stranger_is_served_the_population_until_they_say_something(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    strangers = [await runtime.rewards(environment_name, user, ALL) for user in ("nobody", "no-one")]
    assert numbers(strangers[0]).tolist() == numbers(strangers[1]).tolist()
    assert strangers[0].feedback_seen == 0
    known = await runtime.rewards(environment_name, "user-3", ALL)
    assert numbers(known)[:, 1].mean() < numbers(strangers[0])[:, 1].mean()

    await record_preferences(db, environment_name, [prefers("nobody", "item-1", "item-2")])
    heard = await runtime.rewards(environment_name, "nobody", ALL)
    assert heard.feedback_seen == 1
    assert numbers(heard)[:, 0].tolist() != numbers(strangers[0])[:, 0].tolist()


async def test_folding_in_gives_what_the_refit_stored(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime, other_runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    stored = await runtime.rewards(environment_name, "user-3", ALL)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("DELETE FROM adapters")
    folded = await other_runtime.rewards(environment_name, "user-3", ALL)
    assert folded.feedback_seen == stored.feedback_seen == 15
    assert numbers(folded) == pytest.approx(numbers(stored), abs=1e-6)


async def test_erased_users_are_strangers_again(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    await runtime.rewards(environment_name, "user-3", ALL)
    await erase_user(db, environment_name, "user-3")
    erased = await runtime.rewards(environment_name, "user-3", ALL)
    stranger = await runtime.rewards(environment_name, "nobody", ALL)
    assert erased.feedback_seen == 0
    assert numbers(erased).tolist() == numbers(stranger).tolist()
    # Back with as many preferences as before, but with other ones.
    await record_preferences(db, environment_name, [prefers("user-3", "item-1", "item-2")] * 15)
    back = await runtime.rewards(environment_name, "user-3", ALL)
    assert back.feedback_seen == 15
    assert back.rewards[1].reward > erased.rewards[1].reward


async def test_rank_orders_by_the_mean_or_by_the_lower_end(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    rewards = (await runtime.rewards(environment_name, "user-3", ALL)).rewards
    by_mean = await runtime.rank(environment_name, "user-3", ALL)
    assert [one.index for one in by_mean.ranking] == sorted(range(12), key=lambda i: -rewards[i].reward)
    assert [one.item for one in by_mean.ranking] == [f"item-{one.index}" for one in by_mean.ranking]
    by_lower = await runtime.rank(environment_name, "user-3", ALL, by="lower", top_n=4)
    assert [one.index for one in by_lower.ranking] == sorted(range(12), key=lambda i: -rewards[i].lower)[:4]
    whole = await runtime.rank(environment_name, "user-3", top_n=3)
    assert [one.item for one in whole.ranking] == [one.item for one in by_mean.ranking[:3]]
    assert [one.index for one in whole.ranking] == [None] * 3


async def test_options_may_be_given_by_their_features(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    features = items(12)[4].features
    options: list[Option] = [ItemOption("item-4"), FeaturesOption(features), TextOption("words", features)]
    answer = await runtime.rewards(environment_name, "user-3", options)
    assert numbers(answer)[1].tolist() == numbers(answer)[2].tolist()
    assert numbers(answer)[0] == pytest.approx(numbers(answer)[1], abs=1e-9)


async def test_a_context_changes_what_options_are_worth(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND, context_dim=2))
    rng = np.random.default_rng(3)
    said = []
    for index in range(400):
        where = rng.normal(size=2).astype(np.float32)
        first, second = rng.choice(12, size=2, replace=False)
        gap = 3 * float(where[0]) * float(catalogue[first].features[0] - catalogue[second].features[0])
        if rng.random() > 1 / (1 + np.exp(-gap)):
            first, second = second, first
        chosen, rejected = (ItemOption(f"item-{one}") for one in (first, second))
        said.append(
            Preference(f"user-{index % 8}", chosen, rejected, context=None if index % 9 == 0 else Context(where))
        )
    await record(db, environment_name, said)
    refit = await refitted(db, database_url, environment_name)
    assert refit.error is None

    there, back = (Context(np.array([sign, 0], dtype=np.float32)) for sign in (1, -1))
    for user in ("user-3", "nobody"):
        ranked = [
            [one.item for one in (await runtime.rank(environment_name, user, context=context)).ranking]
            for context in (there, back, None)
        ]
        assert ranked[0] != ranked[1]
    await record_preferences(db, environment_name, [prefers("nobody", "item-1", "item-2")])
    assert (await runtime.rewards(environment_name, "nobody", ALL, there)).feedback_seen == 1
    asked = await runtime.queries(environment_name, "user-3", 2, context=there)
    assert len(asked.queries) == 2
    plan = await runtime.policy(environment_name, "user-3", context=there)
    assert plan.policy.shape == (1, 1, 12)
    with pytest.raises(InvalidInputError, match=r"context: it has 3 features; .* has 2") as refused:
        await runtime.rewards(environment_name, "user-3", ALL, Context(np.zeros(3, dtype=np.float32)))
    assert refused.value.pointer == "/context"


async def test_a_choice_from_the_catalogue_is_planned_like_any_other(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    rewards = [one.reward for one in (await runtime.rewards(environment_name, "user-3", ALL)).rewards]
    plain = await runtime.actions(environment_name, "user-3", confidence=0.0)
    best = f"item-{int(np.argmax(rewards))}"
    assert plain.actions[plain.greedy] == plain.actions[plain.sampled] == best
    assert plain.lower == plain.upper == pytest.approx(max(rewards), abs=1e-9)
    robust = await runtime.actions(environment_name, "user-3", confidence=0.5)
    assert 0 <= robust.lower <= robust.upper <= plain.upper
    assert robust.nominal <= robust.greedy_nominal == pytest.approx(max(rewards), abs=1e-9)
    assert robust.greedy_lower <= robust.upper + 1e-9
    assert robust.gap <= 1e-3 * max(1, robust.upper)
    with pytest.raises(InvalidInputError, match="is a catalogue and has no state 'home'"):
        await runtime.actions(environment_name, "user-3", "home")


async def test_promotion_is_in_the_next_answer(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    first = await runtime.rewards(environment_name, "user-3", ALL)
    await record(db, environment_name, choices(items(12), 60, 10, seed=4))
    await refitted(db, database_url, environment_name)
    await promote_model(db, environment_name, 2)
    second = await runtime.rewards(environment_name, "user-3", ALL)
    assert (first.model_version, second.model_version, second.feedback_seen) == (1, 2, 25)
    await promote_model(db, environment_name, 1)
    again = await runtime.rewards(environment_name, "user-3", ALL)
    assert (again.model_version, again.feedback_seen) == (1, 25)


async def test_an_environment_that_was_deleted_and_defined_again_starts_from_nothing(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    await runtime.rewards(environment_name, "user-3", ALL)
    await delete_environment(db, environment_name)
    with pytest.raises(NotFoundError):
        await runtime.rewards(environment_name, "user-3", ALL)
    await define(db, catalog(environment_name, refit=BY_HAND))
    with pytest.raises(ModelNotReadyError, match="no preferences are stored"):
        await runtime.rewards(environment_name, "user-3", ALL)
    assert await runtime.user_summary(environment_name, "user-3") is None
    await record_preferences(db, environment_name, [prefers("a", "item-1", "item-2")])
    with pytest.raises(ModelNotReadyError, match="1 preference is stored"):
        await runtime.rank(environment_name, "user-3")


async def test_other_confidence_takes_effect_at_once(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    wide = numbers(await runtime.rewards(environment_name, "user-3", ALL))
    await define(db, catalog(environment_name, refit=BY_HAND, rank=2, confidence=0.5))
    narrow = numbers(await runtime.rewards(environment_name, "user-3", ALL))
    assert narrow[:, :2] == pytest.approx(wide[:, :2])
    assert (narrow[:, 2] > wide[:, 2]).all()


async def test_questions_are_never_those_already_answered(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    asked = set()
    for _ in range(6):
        (query,) = (await runtime.queries(environment_name, "curious", 1)).queries
        pair = frozenset({query.first["item"], query.second["item"]})
        assert pair not in asked
        assert query.information > 0
        asked.add(pair)
        await record_preferences(db, environment_name, [prefers("curious", query.second["item"], query.first["item"])])
    batch = (await runtime.queries(environment_name, "curious", 100)).queries
    pairs = {frozenset({one.first["item"], one.second["item"]}) for one in batch}
    assert len(pairs) == len(batch) == 12 * 11 // 2 - 6
    assert not pairs & asked
    assert batch[0].information == max(one.information for one in batch)


async def test_many_at_once_get_the_same_answer(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    answers = await asyncio.gather(*(runtime.policy(environment_name, "user-3") for _ in range(30)))
    assert all(one.policy is answers[0].policy for one in answers)


async def test_without_contexts_items_or_sense_there_is_a_sentence(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await learnt(db, database_url, environment_name)
    wrong: dict[str, list[Option]] = {
        "has no item 'item-99'": [ItemOption("item-1"), ItemOption("item-99")],
        "it has 3 features": [ItemOption("item-1"), FeaturesOption(np.zeros(3, dtype=np.float32))],
        "a trajectory": [ItemOption("item-1"), TrajectoryOption((0,), (0,))],
    }
    for sentence, options in wrong.items():
        with pytest.raises(InvalidInputError, match=sentence) as refused:
            await runtime.rewards(environment_name, "user-3", options)
        assert str(refused.value.pointer).startswith("/options/1")
    with pytest.raises(InvalidInputError, match="has no contexts"):
        await runtime.rewards(environment_name, "user-3", ALL, Context(np.zeros(2, dtype=np.float32)))
    for confidence in (-0.1, 1.0, float("nan")):
        with pytest.raises(InvalidInputError, match="confidence"):
            await runtime.policy(environment_name, "user-3", confidence=confidence)
    with pytest.raises(InvalidInputError, match="from 0 to 0"):
        await runtime.actions(environment_name, "user-3", step=1)
    for index in range(12):
        await retire_item(db, environment_name, f"item-{index}")
    with pytest.raises(InvalidInputError, match="nothing to rank"):
        await runtime.rank(environment_name, "user-3")
    with pytest.raises(InvalidInputError, match="no items to choose from"):
        await runtime.policy(environment_name, "user-3")
    assert (await runtime.queries(environment_name, "user-3", 3)).queries == ()
    assert (
        len((await runtime.rewards(environment_name, "user-3", [FeaturesOption(np.ones(DIM, np.float32))])).rewards)
        == 1
    )


async def test_a_catalogue_without_items_takes_the_mean_of_what_was_compared(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime
) -> None:
    await define(db, catalog(environment_name, refit=BY_HAND), n_items=0)
    features = [FeaturesOption(item.features) for item in items(6)]
    said = [Preference(f"user-{i % 3}", features[i % 6], features[(i + 1 + i % 4) % 6]) for i in range(60)]
    await record(db, environment_name, said)
    assert (await refitted(db, database_url, environment_name)).error is None
    answer = await runtime.rewards(environment_name, "user-1", features)
    assert np.mean([one.reward for one in answer.rewards]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("damage", ["DELETE FROM model_arrays WHERE name = 'theta_0'", "DELETE FROM model_arrays"])
async def test_a_model_with_missing_arrays_is_corrupt_and_the_next_refit_replaces_it(
    db: Database, database_url: str, environment_name: str, runtime: ServingRuntime, damage: str
) -> None:
    await learnt(db, database_url, environment_name)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(damage.encode())
    with pytest.raises(CorruptModelError, match="version 1 of environment"):
        await runtime.rewards(environment_name, "user-3", ALL)
    assert (await refitted(db, database_url, environment_name)).model_version == 2
    assert (await runtime.rewards(environment_name, "user-3", ALL)).model_version == 2
