"""A robust choice of several items of a catalogue at once: the planner with one step and as many picks."""

import time

import numpy as np
from numpy.typing import NDArray

from app.domain import Context, InvalidInputError
from app.policy import FullSpace, robust_slate
from app.serving.answers import Pessimism, ShownSlate, SlateAnswer
from app.serving.doubt import doubt_of
from app.serving.planning import decision_of
from app.serving.snapshot import Ground

DOUBTED = ("credible", "ellipsoid", "frobenius")
"""The sets that slates are chosen against."""


def slate_answer(
    ground: Ground,
    pessimism: Pessimism,
    size: int,
    *,
    context: Context | None,
    seed: int | None,
    tolerance: float,
    seconds: float,
) -> SlateAnswer:
    """The mixture of slates with the best worst case; a slate is worth the mean reward of its items.

    Raises
    ------
    InvalidInputError
        The catalogue has fewer items, or the set is not one that slates are chosen against.
    """
    decision = decision_of(ground, context)
    n_items = len(decision.actions)
    if size > n_items:
        raise InvalidInputError(
            f"size: expected at most {n_items}, the items of the catalogue; found {size}.", pointer="/size"
        )
    if pessimism.set not in DOUBTED:
        raise InvalidInputError(
            f"set: slates are chosen against {', '.join(DOUBTED)}; found {pessimism.set}.", pointer="/set"
        )
    doubt = doubt_of(ground, decision.belief, pessimism, context=context)
    assert not isinstance(doubt.factor, FullSpace)
    beta = doubt.beta or 0.0
    found = robust_slate(
        doubt.mean,
        doubt.factor,
        size=size,
        beta=beta,
        tolerance=tolerance,
        time_budget_seconds=seconds,
        clock=time.monotonic,
    )
    names = np.array(decision.actions)
    greedy = np.full(n_items, -1.0 / n_items)
    greedy[np.argsort(-doubt.mean, kind="stable")[:size]] += 1.0 / size
    nominal = float(doubt.mean @ greedy)
    drawn = _drawn(found.slates[:, 0], found.weights, n_items, size, np.random.default_rng(seed))
    return SlateAnswer(
        **ground.grounds,
        set=pessimism.set,
        confidence=pessimism.confidence,
        lower=found.lower,
        upper=found.upper,
        nominal=found.nominal,
        greedy_nominal=nominal,
        greedy_lower=nominal + doubt.worst(greedy),
        beta=beta,
        converged=found.converged,
        reason=found.reason,
        slates=tuple(
            ShownSlate(tuple(names[items].tolist()), weight)
            for items, weight in zip(found.slates[:, 0], found.weights.tolist(), strict=True)
        ),
        any_items=max(0.0, 1.0 - float(found.weights.sum())),
        best=tuple(names[found.best[0]].tolist()),
        best_lower=found.best_lower,
        sampled=tuple(names[drawn].tolist()),
    )


def _drawn(
    slates: NDArray[np.int64], weights: NDArray[np.float64], n_items: int, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(m,) items: one slate of the mixture, or any items where the reference is part of it."""
    chances = np.append(weights, max(0.0, 1.0 - float(weights.sum())))
    part = int(rng.choice(len(chances), p=chances / chances.sum()))
    return np.asarray(slates[part] if part < len(slates) else rng.choice(n_items, size, replace=False))
