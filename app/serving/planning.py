"""One user's certified robust plan: an MDP's policy, or how to choose from a catalogue.

A catalogue is an MDP of one state and one step, whose reference draws one of its items at random.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Context, InvalidInputError, MdpEnvironment
from app.learning import RewardBelief
from app.policy import FiniteHorizonMDP, occupancy, robust_policy, sample_action
from app.serving.answers import ActionAnswer, Plan, PolicyAnswer
from app.serving.reference import ReferencePolicy
from app.serving.scoring import belief_about_items
from app.serving.snapshot import Ground

Real = NDArray[np.float64]

UNVISITED = 1e-12
"""A state that a plan reaches less probably than this is one that it doesn't reach: rounding alone leaves that much."""

MAX_OWN = 512
"""Items up to which a plan also doubts what each item is worth by itself; in larger catalogues it doubts what is known
about the user and about features only, because every item would be one more dimension of the plan's uncertainty."""

CATALOGUE_STATE = "catalogue"
"""The one state of a choice from a catalogue."""


def plan(
    ground: Ground,
    *,
    confidence: float,
    context: Context | None,
    tolerance: float,
    seconds: float,
    start: tuple[int, int] | None = None,
) -> Plan:
    """Plan from the beginning, or from a state at a step (`start`) to the end.

    Raises
    ------
    InvalidInputError
        The catalogue is empty, or a context was given where there is none.
    """
    mdp, belief, reference, actions = _problem(ground, context)
    if start is not None:
        mdp, reference = _rest_of(mdp, reference, *start)
    mean = belief.mean.reshape(mdp.n_states, mdp.n_actions)
    beta = belief.beta(confidence)
    robust = robust_policy(
        mdp,
        mean,
        belief.factor,
        beta=beta,
        reference=reference,
        tolerance=tolerance,
        time_budget_seconds=seconds,
        clock=time.monotonic,
    )
    greedy = robust_policy(mdp, mean, belief.factor, beta=0.0, reference=reference)
    change = (greedy.occupancy - occupancy(mdp, reference)).sum(axis=0).ravel()
    environment = ground.environment
    return Plan(
        robust=robust,
        confidence=confidence,
        greedy_nominal=greedy.nominal,
        greedy_lower=greedy.nominal - beta * float(np.linalg.norm(change @ belief.factor)),
        states=environment.states if isinstance(environment, MdpEnvironment) else (CATALOGUE_STATE,),
        actions=actions,
    )


def plan_bytes(made: Plan) -> int:
    robust = made.robust
    return robust.policy.nbytes + robust.greedy.nbytes + robust.occupancy.nbytes


def check_confidence(confidence: float) -> float:
    if not 0 <= confidence < 1:
        raise InvalidInputError(f"confidence: it is {confidence:g}; it must be at least 0 and less than 1.")
    return confidence


def check_step(ground: Ground, step: int) -> int:
    horizon = ground.snapshot.mdp.horizon if ground.snapshot.mdp else 1
    if not 0 <= step < horizon:
        raise InvalidInputError(f"step: it is {step}; it must be from 0 to {horizon - 1}, the horizon less 1.")
    return step


def state_index(ground: Ground, state: int | str | None) -> int:
    """A state by name or index; a catalogue has one, which need not be named."""
    environment = ground.environment
    if not isinstance(environment, MdpEnvironment):
        if state in {None, 0, CATALOGUE_STATE}:
            return 0
        raise InvalidInputError(f"state: environment {environment.name!r} is a catalogue and has no state {state!r}.")
    if isinstance(state, str) and state in environment.states:
        return environment.states.index(state)
    index = int(state) if isinstance(state, str) and state.isascii() and state.isdigit() else state
    if isinstance(index, int) and 0 <= index < len(environment.states):
        return index
    raise InvalidInputError(
        f"state: environment {environment.name!r} has no state {state!r}; a name was expected, or an index from 0 to "
        f"{len(environment.states) - 1}."
    )


def visits(made: Plan, state: int, step: int) -> bool:
    """Whether the plan can be in this state at this step."""
    return bool(made.robust.occupancy[step, state].sum() > UNVISITED)


def policy_answer(ground: Ground, made: Plan) -> PolicyAnswer:
    robust = made.robust
    return PolicyAnswer(
        **ground.grounds,
        **_certificate(made),
        states=made.states,
        actions=made.actions,
        policy=robust.policy,
        greedy=np.asarray(robust.greedy, dtype=np.int64),
    )


def action_answer(
    ground: Ground, made: Plan, state: int, step: int, *, from_state: bool, seed: int | None
) -> ActionAnswer:
    """What the plan does; `from_state` says that it begins at this state and step."""
    distribution = made.robust.policy[0 if from_state else step, state]
    rng = np.random.default_rng(None if seed is None else [seed, state, step])
    return ActionAnswer(
        **ground.grounds,
        **_certificate(made),
        state=made.states[state],
        step=step,
        planned_from="state" if from_state else "start",
        actions=made.actions,
        distribution=distribution,
        greedy=int(distribution.argmax()),
        sampled=sample_action(distribution, rng),
    )


def _problem(ground: Ground, context: Context | None) -> tuple[FiniteHorizonMDP, RewardBelief, Real, tuple[str, ...]]:
    """The MDP, the belief about its S * A rewards, the reference (H, S, A) and the actions' names."""
    snapshot, environment = ground.snapshot, ground.environment
    if isinstance(environment, MdpEnvironment):
        if context is not None:
            raise InvalidInputError(f"context: environment {environment.name!r} has no contexts.", pointer="/context")
        assert snapshot.mdp is not None
        assert isinstance(snapshot.reference, ReferencePolicy)
        belief = ground.model.reward_table(ground.adapter)
        return snapshot.mdp, belief, snapshot.reference.policy, environment.actions
    items = ground.catalogue
    if not items.ids:
        raise InvalidInputError(f"environment {environment.name!r} has no items to choose from.")
    belief = belief_about_items(ground, items.features, context)
    uniform = np.full((1, 1, len(items.ids)), 1.0 / len(items.ids))
    return FiniteHorizonMDP.bandit(len(items.ids)), belief.in_one_factor(MAX_OWN), uniform, items.ids


def _rest_of(mdp: FiniteHorizonMDP, reference: Real, state: int, step: int) -> tuple[FiniteHorizonMDP, Real]:
    """What is left of the problem for somebody who is in this state at this step."""
    rest = replace(
        mdp,
        horizon=mdp.horizon - step,
        initial=np.eye(mdp.n_states)[state],
        kernels=mdp.kernels[step:] if len(mdp.kernels) > 1 else mdp.kernels,
    )
    return rest, reference[step:]


def _certificate(made: Plan) -> dict[str, Any]:
    robust = made.robust
    return {
        "confidence": made.confidence,
        "lower": robust.lower,
        "upper": robust.upper,
        "nominal": robust.nominal,
        "greedy_nominal": made.greedy_nominal,
        "greedy_lower": made.greedy_lower,
        "beta": robust.beta,
        "converged": robust.converged,
        "reason": robust.reason,
    }
