"""What to ask a user next: pairs of a catalogue's items, or of trajectories that can happen."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Context
from app.learning import RewardBelief, most_informative_pairs
from app.policy import FiniteHorizonMDP
from app.serving.answers import Plan, Query
from app.serving.reference import ReferencePolicy
from app.serving.scoring import belief_about_trajectories, context_features
from app.serving.snapshot import Ground

Real = NDArray[np.float64]
Int = NDArray[np.int64]
Trajectory = tuple[tuple[int, int], ...]

TRAJECTORIES_A_POLICY = 24
"""Drawn from each of three policies: some two thousand pairs to choose from."""

SMALLEST_INFORMATION = 1e-9
"""Nats; a pair with less asks nothing, as two trajectories with the same visits do."""


def item_queries(
    ground: Ground, n: int, said: Iterable[Mapping[str, Any]], context: Context | None
) -> tuple[Query, ...]:
    """Pairs of the catalogue's items. `said` is what the user said, as it is exported."""
    items = ground.catalogue
    if len(items.ids) < 2:
        return ()
    pairs = most_informative_pairs(
        ground.model,
        ground.adapter,
        items.features,
        n,
        asked=_asked_items(said, items.rows),
        context=context_features(ground.environment, context),
        rng=_generator(ground),
    )
    return tuple(
        Query({"item": items.ids[one.first]}, {"item": items.ids[one.second]}, one.information, one.probability)
        for one in pairs
    )


def trajectory_queries(ground: Ground, n: int, said: Iterable[Mapping[str, Any]], plan: Plan) -> tuple[Query, ...]:
    """Pairs of trajectories that happen under the reference, the user's own plan and random actions."""
    mdp, reference = ground.snapshot.mdp, ground.snapshot.reference
    assert mdp is not None
    assert isinstance(reference, ReferencePolicy)
    rng = _generator(ground)
    policies = (reference.policy, plan.robust.policy, mdp.uniform_policy())
    drawn = [_draw(mdp, policy, rng) for policy in policies for _ in range(TRAJECTORIES_A_POLICY)]
    candidates = list(dict.fromkeys(drawn))
    steps = np.array(candidates, dtype=np.int64).reshape(len(candidates), mdp.horizon, 2)
    belief = belief_about_trajectories(ground, steps[:, :, 0], steps[:, :, 1])
    asked = _asked_trajectories(said, candidates)
    return tuple(
        Query(_option(candidates[i]), _option(candidates[j]), information, probability)
        for i, j, information, probability in informative_pairs(
            belief, n, asked=asked, weight=ground.model.effective_weight
        )
    )


def informative_pairs(
    belief: RewardBelief, n: int, *, asked: Collection[tuple[int, int]], weight: float
) -> list[tuple[int, int, float, float]]:
    """The best n pairs (i, j, nats, probability of i), each chosen as if those before it had been answered.

    With u ~ N(0, I) and rewards mean + F u, an answer about d = F_i - F_j has the information log(1 + w |d|^2) / 2,
    w = weight * sigma'(mean_i - mean_j), and shrinks F along d by 1 / sqrt(1 + w |d|^2).
    """
    first, second = np.triu_indices(len(belief.mean), 1)
    known = {(min(pair), max(pair)) for pair in asked}
    fresh = np.array([pair not in known for pair in zip(first.tolist(), second.tolist(), strict=True)], dtype=np.bool_)
    first, second = first[fresh], second[fresh]
    margin = belief.mean[first] - belief.mean[second]
    D = belief.factor[first] - belief.factor[second]
    probability = 1.0 / (1.0 + np.exp(-margin / np.sqrt(1.0 + np.pi * (D**2).sum(axis=1) / 8.0)))
    w = weight / (2.0 + 2.0 * np.cosh(margin))
    chosen: list[tuple[int, int, float, float]] = []
    while len(chosen) < min(n, len(first)):
        gain = 0.5 * np.log1p(w * (D**2).sum(axis=1))
        best = int(gain.argmax())
        if gain[best] < SMALLEST_INFORMATION:
            break
        chosen.append((int(first[best]), int(second[best]), float(gain[best]), float(probability[best])))
        length = float(np.linalg.norm(D[best]))
        direction, shrink = D[best] / length, 1.0 / np.sqrt(1.0 + w[best] * length**2)
        D = D - np.outer(D @ direction, (1.0 - shrink) * direction)
        # A chosen pair is never asked again, however little was learnt from it.
        D[best], w[best] = 0.0, 0.0
    return chosen


def _generator(ground: Ground) -> np.random.Generator:
    """The same questions to the same user until they have answered one."""
    return np.random.default_rng(
        [ground.environment_id, ground.user_key or 0, ground.snapshot.version, ground.user.feedback_seen]
    )


def _draw(mdp: FiniteHorizonMDP, policy: Real, rng: np.random.Generator) -> Trajectory:
    state = int(rng.choice(mdp.n_states, p=mdp.initial / mdp.initial.sum()))
    steps: list[tuple[int, int]] = []
    ended = mdp.terminal
    for step in range(mdp.horizon):
        if ended[state]:
            steps.append((state, 0))
            continue
        action = int(rng.choice(mdp.n_actions, p=policy[step, state] / policy[step, state].sum()))
        steps.append((state, action))
        kernel, row = mdp.kernel(step), state * mdp.n_actions + action
        entries = slice(kernel.indptr[row], kernel.indptr[row + 1])
        likely = kernel.data[entries]
        state = int(rng.choice(kernel.indices[entries], p=likely / likely.sum()))
    return tuple(steps)


def _option(trajectory: Trajectory) -> dict[str, Any]:
    return {"trajectory": [list(step) for step in trajectory]}


def _asked_items(said: Iterable[Mapping[str, Any]], rows: Mapping[str, int]) -> list[tuple[int, int]]:
    pairs = [(one["chosen"].get("item"), one["rejected"].get("item")) for one in said]
    return [(rows[first], rows[second]) for first, second in pairs if first in rows and second in rows]


def _asked_trajectories(said: Iterable[Mapping[str, Any]], candidates: Sequence[Trajectory]) -> list[tuple[int, int]]:
    row = {trajectory: index for index, trajectory in enumerate(candidates)}
    pairs = [(_steps(one["chosen"]), _steps(one["rejected"])) for one in said]
    return [(row[first], row[second]) for first, second in pairs if first in row and second in row]


def _steps(option: Mapping[str, Any]) -> Trajectory:
    return tuple((state, action) for state, action in option["trajectory"])
