"""Why a user's reward is what it is: which of their own comparisons moved it, and how they differ from the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from app.domain import Context, InvalidInputError, MdpEnvironment, Option
from app.domain.arrays import PreferenceTable
from app.learning import Adapter, ReferenceItem, influences
from app.serving.answers import Grounded
from app.serving.reference import ReferencePolicy
from app.serving.scoring import context_features, option_features
from app.serving.snapshot import Ground, comparisons_of

Real = NDArray[np.float64]
Wire = dict[str, Any]
"""An option as preferences take it; of an MDP {"state", "action"}."""

SHOWN_OPTIONS = 3
"""Options at each end of a direction."""


@dataclass(frozen=True, slots=True)
class Moved:
    preference: Mapping[str, Any]
    """As the user said it."""
    by: float
    """Log-odds that the reward would lose without it."""


@dataclass(frozen=True, slots=True)
class Direction:
    number: int
    """From 1, in the order of how much users differ along it."""
    position: float
    """The user's place along it, in standard deviations of the population."""
    stderr: float
    beyond: float
    """The share of users who stand less far out, 0..1."""
    moved: float
    """What it adds to the reward, in log-odds."""
    towards: tuple[Wire, ...]
    """Options that the user likes more than others do, because of it."""
    away: tuple[Wire, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Grounded):
    option: Wire
    reward: float
    population: float
    """The same reward for somebody nobody has heard of."""
    moved: tuple[Moved, ...]
    """Most first."""
    directions: tuple[Direction, ...]
    """Where the user stands out most first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Options:
    """Options with their rewards' parts, as differences from the reference."""

    names: Sequence[Wire]
    shared: Real
    """(m,) the population's rewards."""
    projected: Real
    """(m, p) what the adapter's entries add."""


def explanation(
    ground: Ground,
    said: Sequence[Mapping[str, Any]],
    table: PreferenceTable,
    *,
    option: Option | Wire | None = None,
    context: Context | None = None,
    n: int,
) -> Explanation:
    """Of one option's reward; without one, of the option that the user likes most, or most unlike others.

    Parameters
    ----------
    said
        What the user said, oldest first, as it is exported; `table` holds the same as columns.
    n
        How many comparisons to name.
    """
    known = _known(ground, said, table, context)
    target = known if option is None else _one(ground, option, context)
    if not len(target.names):
        raise InvalidInputError("item: there is no option to explain; name an item of the catalogue or a text.")
    adapter = ground.adapter
    rewards = target.shared + target.projected @ adapter.mean.ravel()
    at = int(rewards.argmax())
    g = target.projected[at]
    return Explanation(
        **ground.grounds,
        option=target.names[at],
        reward=float(rewards[at]),
        population=float(target.shared[at]),
        moved=_moved(ground, said, table, g, n),
        directions=_directions(ground, adapter, known, g),
    )


def _moved(
    ground: Ground, said: Sequence[Mapping[str, Any]], table: PreferenceTable, g: Real, n: int
) -> tuple[Moved, ...]:
    by = influences(ground.model, comparisons_of(ground.snapshot, table)) @ g
    order = np.argsort(-np.abs(by), kind="stable")[:n]
    return tuple(Moved(said[index], float(by[index])) for index in order.tolist() if index < len(said))


def _directions(ground: Ground, adapter: Adapter, known: _Options, g: Real) -> tuple[Direction, ...]:
    model = ground.model
    d2 = model.features.d2
    weights = known.projected.reshape(-1, model.width, d2)
    found = []
    for number in range(model.rank):
        own = slice(number * d2, (number + 1) * d2)
        W, T, V = adapter.mean[number], model.T[own, own], adapter.covariance[own, own]
        position, stderr = _place(W, T, V, tabular=model.features.tabular)
        effect = weights[:, number] @ W
        order = np.argsort(-effect, kind="stable")
        shown = min(SHOWN_OPTIONS, len(order) // 2)
        found.append(
            Direction(
                number=number + 1,
                position=position,
                stderr=stderr,
                beyond=float(2.0 * norm.cdf(abs(position)) - 1.0),
                moved=float(g[own] @ W),
                towards=tuple(known.names[i] for i in order[:shown].tolist()),
                away=tuple(known.names[i] for i in order[::-1][:shown].tolist()),
            )
        )
    return tuple(sorted(found, key=lambda one: -abs(one.position)))


def _place(W: Real, T: Real, V: Real, *, tabular: bool) -> tuple[float, float]:
    """In the average context; in a decision process the length over all actions, which has no sign."""
    if not tabular:
        spread = float(np.sqrt(T[0, 0]))
        return float(W[0]) / spread, float(np.sqrt(V[0, 0])) / spread
    length = float(np.sqrt(W @ np.linalg.pinv(T) @ W / len(W)))
    return length, float(np.sqrt(np.trace(np.linalg.pinv(T) @ V) / len(W)))


def _known(
    ground: Ground, said: Sequence[Mapping[str, Any]], table: PreferenceTable, context: Context | None
) -> _Options:
    """All steps of a decision process; the catalogue, or where there is none what the user compared."""
    if isinstance(ground.environment, MdpEnvironment):
        return _steps(ground)
    if ground.catalogue.ids:
        return _items(ground, ground.catalogue.features, [{"item": one} for one in ground.catalogue.ids], context)
    names: dict[int, Wire] = {}
    for one, chosen, rejected in zip(said, table.chosen.tolist(), table.rejected.tolist(), strict=False):
        names[chosen], names[rejected] = one["chosen"], one["rejected"]
    rows = sorted(names)
    return _items(ground, table.items[rows].astype(np.float64), [names[row] for row in rows], context)


def _one(ground: Ground, option: Option | Wire, context: Context | None) -> _Options:
    environment = ground.environment
    if isinstance(option, dict):
        steps = _steps(ground)
        if option not in steps.names:
            raise InvalidInputError("state: expected a state and an action of this environment, by their names.")
        at = [steps.names.index(option)]
        return _Options([option], steps.shared[at], steps.projected[at])
    if isinstance(environment, MdpEnvironment):
        raise InvalidInputError("item: this environment is an MDP; name a state and an action.")
    features = option_features(environment, ground.catalogue, option, "item")
    name = {"item": option.item} if hasattr(option, "item") else {"text": getattr(option, "text", None)}
    return _items(ground, np.asarray(features, dtype=np.float64)[None], [name], context)


def _items(ground: Ground, features: Real, names: Sequence[Wire], context: Context | None) -> _Options:
    model, reference = ground.model, ground.snapshot.reference
    assert isinstance(reference, ReferenceItem)
    raw = context_features(ground.environment, context)
    y = model.features.context(raw)
    population = model.population()
    if not len(features):
        return _Options([], np.zeros(0), np.zeros((0, len(model.T))))
    shared, projected = model.projected_rewards(population, features, raw)
    x0 = model.features.items(reference.features[None])
    zero = np.einsum("mk,b->mkb", x0 @ model.B, y).reshape(1, -1)
    zero[:, :: model.features.d2] += reference.loadings
    return _Options(names, shared - (x0 @ (model.Theta_0 @ y))[0] - reference.bias, projected - zero)


def _steps(ground: Ground) -> _Options:
    """Every state with every action, less what a step of the reference policy is worth on average.

    Where rewards depend on the step, the average over the steps is told.
    """
    environment, reference = ground.environment, ground.snapshot.reference
    assert isinstance(environment, MdpEnvironment)
    assert isinstance(reference, ReferencePolicy)
    model = ground.model
    tables, horizon = ground.snapshot.tables, environment.horizon
    visits = reference.visits / horizon
    shared = model.reward_table(model.population(), tables.states, tables.actions).mean
    projected = model.table_rows(tables.states, tables.actions)
    shared, projected = shared - visits @ shared, projected - visits @ projected
    if environment.rewards == "per_step":
        shared = shared.reshape(horizon, -1).mean(axis=0)
        projected = projected.reshape(horizon, len(shared), -1).mean(axis=0)
    names = [{"state": state, "action": action} for state in environment.states for action in environment.actions]
    return _Options(names, shared, projected)
