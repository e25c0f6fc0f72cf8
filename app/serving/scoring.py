"""Rewards of options for one user, as differences from the reference."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import norm

from app.domain import (
    CatalogEnvironment,
    Context,
    Environment,
    FeaturesOption,
    InvalidInputError,
    ItemOption,
    MdpEnvironment,
    Option,
    TextOption,
    TrajectoryOption,
)
from app.learning import Projection, ReferenceItem, RewardBelief, Taste
from app.serving.answers import By, ItemsAnswer, RankedItems, RankedOption, RewardAnswer
from app.serving.idtable import IdsInText
from app.serving.intervals import with_intervals
from app.serving.reference import ReferencePolicy
from app.serving.snapshot import Catalogue, Ground

Real = NDArray[np.float64]
Int = NDArray[np.int64]


def belief_about(ground: Ground, options: Sequence[Option], context: Context | None) -> RewardBelief:
    """What is believed about the rewards of these options.

    Raises
    ------
    InvalidInputError
        An option or context that this environment cannot have; the pointer says which.
    """
    if isinstance(ground.environment, MdpEnvironment):
        context_features(ground.environment, context)
        return belief_about_trajectories(ground, *_trajectories(ground.environment, options))
    return belief_about_items(ground, _features(ground.environment, ground.catalogue, options), context)


def belief_about_items(ground: Ground, items: Real, context: Context | None) -> RewardBelief:
    """Of items (m, d1), in a context."""
    raw = context_features(ground.environment, context)
    reference = ground.snapshot.reference
    assert isinstance(reference, ReferenceItem)
    return ground.model.rewards(ground.adapter, items, raw, reference=reference)


def belief_about_trajectories(ground: Ground, states: Int, actions: Int) -> RewardBelief:
    """Of trajectories with states and actions (m, H): the sum over their steps."""
    reference = ground.snapshot.reference
    assert isinstance(reference, ReferencePolicy)
    environment = ground.environment
    assert isinstance(environment, MdpEnvironment)
    table = table_belief(ground)
    n_states, n_actions = len(environment.states), len(environment.actions)
    rows = states + n_states * np.arange(environment.horizon) if environment.rewards == "per_step" else states
    steps = rows * n_actions + actions
    return replace(
        table,
        mean=table.mean[steps].sum(axis=1) - reference.visits @ table.mean,
        factor=table.factor[steps].sum(axis=1) - reference.visits @ table.factor,
        own=None if table.own is None else _sums_of_own(table.own, steps, reference.visits),
    )


def _sums_of_own(own: Real, steps: Int, visits: Real) -> Real:
    """(m,) the variances of sums over visited entries, less those visited on average; own (q,), steps (m, H)."""
    place = np.arange(len(steps))[:, None] + np.zeros_like(steps)
    counts = csr_array((np.ones(steps.size), (place.ravel(), steps.ravel())), shape=(len(steps), len(own)))
    twice, once = np.asarray(counts.power(2) @ own), np.asarray(counts @ (visits * own))
    return np.asarray(twice - 2.0 * once + float(visits**2 @ own))


def table_belief(ground: Ground) -> RewardBelief:
    """Of every state and action (S * A) of an MDP; (H * S * A) where rewards depend on the step."""
    tables = ground.snapshot.tables
    return ground.model.reward_table(ground.adapter, tables.states, tables.actions)


def context_features(environment: Environment, context: Context | None) -> Real | None:
    """(c,) raw; None stands for the average context."""
    if context is None:
        return None
    if isinstance(environment, MdpEnvironment) or environment.context_dim is None:
        raise InvalidInputError(f"context: environment {environment.name!r} has no contexts.", pointer="/context")
    if context.features.shape != (environment.context_dim,):
        raise InvalidInputError(
            f"context: it has {context.features.size} features; environment {environment.name!r} has "
            f"{environment.context_dim}.",
            pointer="/context",
        )
    return context.features.astype(np.float64)


def items_alone(options: Sequence[Option], context: Context | None) -> list[str] | None:
    """Their ids where options are a catalogue's items and nothing else, without a context."""
    ids = [option.item for option in options if isinstance(option, ItemOption)]
    return ids if context is None and len(ids) == len(options) else None


def reward_answers(belief: RewardBelief, confidence: float) -> tuple[RewardAnswer, ...]:
    return answers_of(with_intervals(np.array(belief.mean), np.array(belief.stderr), reach(confidence)))


def answers_of(numbers: Real) -> tuple[RewardAnswer, ...]:
    return tuple(RewardAnswer(*row) for row in numbers.tolist())


def ranking_of_items(found: RankedItems) -> tuple[RankedOption, ...]:
    places = [None] * len(found.ids) if found.index is None else found.index.tolist()
    return tuple(map(RankedOption, places, found.ids, answers_of(found.numbers)))


def ranking_of(
    belief: RewardBelief, confidence: float, *, by: By, top_n: int | None, ids: Sequence[str | None], given: bool
) -> tuple[RankedOption, ...]:
    """The best first; `ids` of the options that are items, `given` when they came with the request."""
    score = belief.mean if by == "mean" else belief.interval(confidence)[0]
    order = best_of(score, top_n)
    best = belief.take(order)
    return tuple(
        RankedOption(row if given else None, ids[row], reward)
        for row, reward in zip(order.tolist(), reward_answers(best, confidence), strict=True)
    )


def score_items(ground: Ground, items: IdsInText) -> ItemsAnswer | None:
    """Rewards of items by their ids, in their order; None where this is not a matter of projected items alone."""
    scored = _projected(ground, items)
    if scored is None:
        return None
    projection, taste, rows = scored
    return ItemsAnswer(
        model_version=ground.snapshot.version,
        feedback_seen=ground.user.feedback_seen,
        numbers=with_intervals(*projection.rewards(taste, rows), reach(ground.environment.confidence)),
    )


def rank_items(ground: Ground, items: Sequence[str] | None, *, top_n: int | None, by: By) -> RankedItems | None:
    """The best items first, of the catalogue or of those given; None as for `score_items`."""
    scored = _projected(ground, None if items is None else IdsInText.of(items))
    if scored is None:
        return None
    projection, taste, rows = scored
    confidence = ground.environment.confidence
    if by == "lower":
        mean, stderr = projection.rewards(taste, rows)
        score = mean - reach(confidence) * stderr
    else:
        score = projection.mean(taste) if items is None else projection.means[rows] @ taste.mean
    order = best_of(score, top_n)
    best = order if items is None else rows[order]
    ids = ground.catalogue.ids
    return RankedItems(
        model_version=ground.snapshot.version,
        feedback_seen=ground.user.feedback_seen,
        numbers=with_intervals(*projection.rewards(taste, best), reach(confidence)),
        ids=[ids[row] for row in best.tolist()],
        index=None if items is None else order,
    )


def best_of(score: Real, top_n: int | None) -> Int:
    """Places of the n largest, best first; of equals, the one that comes first.

    The n-th largest is found without sorting the rest, which for the ten best of 100,000 takes a tenth of the time.
    """
    if top_n is None or top_n >= len(score):
        return np.argsort(-score, kind="stable")
    worst = np.partition(score, len(score) - top_n)[len(score) - top_n]
    candidates = np.flatnonzero(score >= worst)
    return np.asarray(candidates[np.argsort(-score[candidates], kind="stable")[:top_n]])


@lru_cache(maxsize=64)
def reach(confidence: float) -> float:
    """How many standard errors an interval reaches to either side."""
    return float(norm.ppf(0.5 * (1.0 + confidence)))


def _projected(ground: Ground, items: IdsInText | None) -> tuple[Projection, Taste, Int] | None:
    projection, taste = ground.scene.projection, ground.user.taste
    if projection is None or projection.spreads is None or taste is None:
        return None
    if items is None:
        return projection, taste, np.arange(len(projection))
    rows = ground.catalogue.table.rows(items)
    return None if rows is None else (projection, taste, rows)


def item_ids(options: Sequence[Option]) -> list[str | None]:
    return [option.item if isinstance(option, ItemOption) else None for option in options]


def _features(environment: CatalogEnvironment, catalogue: Catalogue, options: Sequence[Option]) -> Real:
    """(m, d1) raw."""
    features = np.empty((len(options), environment.item_dim))
    for index, option in enumerate(options):
        features[index] = option_features(environment, catalogue, option, f"/options/{index}")
    return features


def option_features(
    environment: CatalogEnvironment, catalogue: Catalogue, option: Option, pointer: str
) -> NDArray[np.floating]:
    match option:
        case ItemOption():
            if option.item not in catalogue.rows:
                raise InvalidInputError(
                    f"{pointer}: environment {environment.name!r} has no item {option.item!r}.",
                    pointer=f"{pointer}/item",
                )
            row: Real = catalogue.features[catalogue.rows[option.item]]
            return row
        case FeaturesOption() | TextOption():
            if option.features.shape != (environment.item_dim,):
                raise InvalidInputError(
                    f"{pointer}: it has {option.features.size} features; environment {environment.name!r} has "
                    f"{environment.item_dim}.",
                    pointer=pointer,
                )
            return option.features
        case TrajectoryOption():
            raise InvalidInputError(
                f"{pointer}: a trajectory; environment {environment.name!r} is a catalogue.", pointer=pointer
            )
        case _:
            assert_never(option)


def _trajectories(environment: MdpEnvironment, options: Sequence[Option]) -> tuple[Int, Int]:
    """States and actions, (m, H) each."""
    for index, option in enumerate(options):
        if not isinstance(option, TrajectoryOption):
            raise InvalidInputError(
                f"/options/{index}: environment {environment.name!r} is an MDP; a trajectory was expected.",
                pointer=f"/options/{index}",
            )
        if not len(option.states) == len(option.actions) == environment.horizon:
            raise InvalidInputError(
                f"/options/{index}: it has {len(option.states)} steps; environment {environment.name!r} has "
                f"{environment.horizon}.",
                pointer=f"/options/{index}/trajectory",
            )
    pairs = [(option.states, option.actions) for option in options if isinstance(option, TrajectoryOption)]
    steps = np.array(pairs, dtype=np.int64).reshape(len(options), 2, environment.horizon)
    limits = np.array([len(environment.states), len(environment.actions)])
    outside = (steps < 0) | (steps >= limits[None, :, None])
    if outside.any():
        index = int(np.argwhere(outside)[0][0])
        raise InvalidInputError(
            f"/options/{index}: a state or action lies outside of environment {environment.name!r}, which has "
            f"{limits[0]} states and {limits[1]} actions.",
            pointer=f"/options/{index}/trajectory",
        )
    return steps[:, 0], steps[:, 1]
