"""Why an action: what it is worth over others, how much of that is estimate and how much caution, and who said so.

The plan guards against one worst case, the rewards r* = r_hat + L u* of its set. An action is followed by the best that
can be done at r*; what it is worth over another course of action is <r*, d> for the difference d of their visits, that
is <r_hat, d>, the estimate, less -<L u*, d>, the caution. Where the plan mixes actions, they are worth the same at r*.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Context, InvalidInputError
from app.domain.arrays import UserPreferences
from app.learning import influences
from app.policy import backward_induction, occupancy
from app.serving.answers import ActionExplanation, Advantage, Influence, Plan
from app.serving.doubt import adapter_rows
from app.serving.planning import Decision, Place, certificate, decision_of
from app.serving.snapshot import Ground, comparisons_of

Real = NDArray[np.float64]


def explain_action(
    ground: Ground,
    made: Plan,
    place: Place,
    action: int | None,
    said: UserPreferences,
    words: Sequence[Mapping[str, Any]],
    *,
    context: Context | None,
    from_state: bool,
    n: int,
) -> ActionExplanation:
    """Explain an action, or the one that the plan takes most often here.

    Parameters
    ----------
    said, words
        What the user said, oldest first, as arrays and as it is exported; what came after the ground is left out.
    n
        Comparisons to name at most.
    """
    state, step = place
    decision = decision_of(ground, context).rest(place)
    distribution = made.robust.policy[0 if from_state else step, state]
    if not distribution.any():
        raise InvalidInputError(
            f"state: {made.states[state]!r} is terminal; there is nothing to explain.", pointer="/state"
        )
    chosen = int(distribution.argmax()) if action is None else action
    left = len(decision.belief.mean)
    mean, worst = made.mean[-left:], made.worst[-left:]
    course = _Courses(decision, state, mean + worst)
    if not course.possible(chosen):
        raise InvalidInputError(
            f"action: {made.actions[chosen]!r} cannot be taken in state {made.states[state]!r}.", pointer="/action"
        )
    following = course.next_best(chosen)
    taken = course.visits(chosen)
    over_reference = taken - decision.visits(occupancy(decision.mdp, decision.reference))
    over_next = None if following is None else taken - course.visits(following)
    directions = [over_reference] if over_next is None else [over_reference, over_next]
    rows = adapter_rows(ground, context)[-left:]
    own = np.array([change @ rows for change in directions])
    estimate = float(mean @ over_reference)
    personal = float(own[0] @ ground.adapter.mean.ravel())
    return ActionExplanation(
        **ground.grounds,
        **certificate(made),
        state=made.states[state],
        step=step,
        planned_from="state" if from_state else "start",
        action=made.actions[chosen],
        probability=float(distribution[chosen]),
        over_reference=_advantage(decision, mean, worst, over_reference),
        next_best=None if following is None else made.actions[following],
        over_next_best=None if over_next is None else _advantage(decision, mean, worst, over_next),
        population=estimate - personal,
        own=personal,
        comparisons=_heaviest(ground, said, words, own, n),
    )


class _Courses:
    """Taking an action in a state, and then doing the best that can be done at some rewards."""

    def __init__(self, decision: Decision, state: int, rewards: Real) -> None:
        self._decision, self._state = decision, state
        induction = backward_induction(decision.mdp, decision.table(rewards))
        self._policy, self._worth = induction.policy, induction.q[0, state]

    def possible(self, action: int) -> bool:
        return bool(np.isfinite(self._worth[action]))

    def next_best(self, chosen: int) -> int | None:
        others = np.delete(np.arange(len(self._worth)), chosen)
        others = others[np.isfinite(self._worth[others])]
        return int(others[self._worth[others].argmax()]) if len(others) else None

    def visits(self, action: int) -> Real:
        """Expected over what is left of the horizon, flat like the rewards."""
        policy = self._policy.copy()
        policy[0, self._state] = action
        return self._decision.visits(occupancy(self._decision.mdp, policy))


def _advantage(decision: Decision, mean: Real, worst: Real, change: Real) -> Advantage:
    estimate, caution = float(mean @ change), float(-worst @ change)
    belief = decision.belief
    apart = 0.0 if belief.own is None else float(change**2 @ belief.own)
    return Advantage(
        estimate - caution, estimate, caution, float(np.sqrt(np.sum((change @ belief.factor) ** 2) + apart))
    )


def _heaviest(
    ground: Ground, said: UserPreferences, words: Sequence[Mapping[str, Any]], directions: Real, n: int
) -> tuple[Influence, ...]:
    """The n comparisons that move the last of the directions most."""
    seen = ground.user.feedback_seen
    if seen == 0 or not ground.model.rank or len(said) < seen or len(words) < seen:
        return ()
    given = comparisons_of(ground.snapshot, said).subset(np.arange(seen))
    moved = influences(ground.model, given) @ directions.T
    order = np.argsort(-np.abs(moved[:, -1]), kind="stable")[:n]
    return tuple(
        Influence(dict(words[j]), float(moved[j, 0]), float(moved[j, 1]) if len(directions) > 1 else None)
        for j in order.tolist()
    )
