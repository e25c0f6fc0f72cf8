"""One user's certified robust plan: an MDP's policy, or how to choose from a catalogue.

A catalogue is an MDP of one state and one step, whose reference draws one of its items at random.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.domain import Context, Environment, InvalidInputError, MdpEnvironment
from app.domain.arrays import UserPreferences
from app.domain.doubt import Doubt, SetKind
from app.learning import RewardBelief
from app.policy import FiniteHorizonMDP, RobustPolicy, backward_induction, occupancy, robust_policy, sample_action
from app.serving.answers import ActionAnswer, Pessimism, Plan, PolicyAnswer
from app.serving.doubt import doubt_of
from app.serving.memo import Memo
from app.serving.reference import ReferencePolicy
from app.serving.scoring import belief_about_items, context_features, table_belief
from app.serving.snapshot import Ground, comparisons_of

Real = NDArray[np.float64]
T = TypeVar("T")

DEFAULT_PESSIMISM = Pessimism("credible", 0.9)
"""Where a request asks for no confidence: chosen by benchmarks/pessimism.py, see docs/explanation/policies.md."""

PLAN_BYTES = 256 << 20

LARGEST_POLICY = 4_000_000
"""Probabilities of a whole policy in one answer: some 40 MB of JSON. Larger ones are planned and asked for by state."""

LEAST_SHARE = 0.05
"""Of a plan's time, that it has even where all of it went by in waiting for other plans."""

WARM_BYTES = 128 << 20
"""Users' last plans, kept to begin their next from."""

UNVISITED = 1e-12
"""A state that a plan reaches less probably than this is one that it doesn't reach: rounding alone leaves that much."""

MAX_OWN = 512
"""Items up to which what each is worth by itself is part of the belief's factor. Slates of larger catalogues leave it
out; plans take it as it is."""

CATALOGUE_STATE = "catalogue"
"""The one state of a choice from a catalogue."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What is to be planned: an MDP (or the choice of an item), and what is believed about its rewards."""

    mdp: FiniteHorizonMDP
    belief: RewardBelief
    """Of S * A rewards, or of H * S * A where they depend on the step."""
    reference: Real
    """(H, S, A)"""
    actions: tuple[str, ...]

    def rest(self, start: "Place | None") -> "Decision":
        """What is left of it for somebody who is in a state at a step; all of it without one."""
        if start is None:
            return self
        state, step = start
        rest = replace(
            self.mdp,
            horizon=self.mdp.horizon - step,
            initial=np.eye(self.mdp.n_states)[state],
            kernels=self.mdp.kernels[step:] if len(self.mdp.kernels) > 1 else self.mdp.kernels,
        )
        belief = self.belief.take(np.arange(step * self.pairs, len(self.belief.mean))) if self.per_step else self.belief
        return replace(self, mdp=rest, belief=belief, reference=self.reference[step:])

    @property
    def pairs(self) -> int:
        return self.mdp.n_states * self.mdp.n_actions

    @property
    def per_step(self) -> bool:
        return len(self.belief.mean) > self.pairs

    def table(self, rewards: Real) -> Real:
        """(S, A) or (H, S, A) of flat rewards."""
        shape = (self.mdp.n_states, self.mdp.n_actions)
        return rewards.reshape(-1, *shape) if self.per_step else rewards.reshape(shape)

    def visits(self, measure: Real) -> Real:
        """Flat like the rewards, of an occupancy (H, S, A)."""
        return np.asarray(measure if self.per_step else measure.sum(axis=0)).ravel()


Place = tuple[int, int]
"""A state and a step."""


class Computes(Protocol):
    """Runs work off the event loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class Planner:
    """Plans, kept by what they rest on; for one event loop.

    Parameters
    ----------
    compute
        Runs NumPy work in a thread.
    seconds
        Time that one request's planning may take, waiting for other plans included; then the best certified plan so far
        is the answer. It is not kept: the next request goes on from where it stopped.
    tolerance
        Relative gap at which a plan counts as solved.
    """

    def __init__(self, compute: Computes, *, seconds: float, tolerance: float) -> None:
        self._compute = compute
        self._seconds = seconds
        self._tolerance = tolerance
        self._plans = Memo[tuple[object, ...], Plan](PLAN_BYTES, size=plan_bytes)
        self._starts = Memo[tuple[object, ...], RobustPolicy](WARM_BYTES, size=robust_bytes)

    async def close(self) -> None:
        await self._plans.close()
        await self._starts.close()

    def drop(self, environment_id: int) -> None:
        """Forget an environment's plans."""
        self._plans.drop(lambda key: key[0] == environment_id)
        self._starts.drop(lambda key: key[0] == environment_id)

    def drop_user(self, environment_id: int, user_key: int) -> None:
        """Forget a user's plans."""
        self._plans.drop(lambda key: key[0] == environment_id and key[3] == user_key)
        self._starts.drop(lambda key: key[0] == environment_id and key[3] == user_key)

    async def plan(
        self,
        ground: Ground,
        pessimism: Pessimism,
        context: Context | None = None,
        *,
        said: UserPreferences | None = None,
        start: Place | None = None,
        seconds: float | None = None,
    ) -> Plan:
        """Plan from the beginning, or from a state at a step (`start`) to the end.

        A user's earlier plan, of other feedback or another level, is where the search begins. `said` is what the user
        said, for the sets that look at it.

        Raises
        ------
        InvalidInputError
            The catalogue is empty, or a context was given where there is none.
        """
        context_features(ground.environment, context)
        user = (
            ground.environment_id,
            ground.revisions,
            ground.snapshot.version,
            ground.user_key,
            None if context is None else _digest(context),
            start,
        )
        key = (*user, ground.user.feedback_seen, pessimism)
        warm = self._starts.peek(user)
        budget = self._seconds if seconds is None else seconds
        asked = time.monotonic()

        def make() -> Plan:
            left = max(budget - (time.monotonic() - asked), LEAST_SHARE * budget)
            whole = decision_of(ground, context)
            heard = None if said is None else comparisons_of(ground.snapshot, said)
            decision = whole.rest(start)
            doubt = doubt_of(ground, whole.belief, pessimism, context=context, said=heard)
            doubt = doubt.since(len(decision.belief.mean))
            return plan(ground, decision, doubt, pessimism, self._tolerance, left, warm)

        made = await self._plans.get(key, lambda: self._compute(make))
        self._starts.put(user, made.robust)
        if made.robust.reason == "time":
            self._plans.forget(key)
        return made

    async def at(
        self,
        ground: Ground,
        pessimism: Pessimism,
        context: Context | None,
        places: Sequence[Place],
        *,
        said: UserPreferences | None = None,
    ) -> list[tuple[Plan, bool]]:
        """The plan for each place, and whether it begins there because the plan from the start never comes by.

        All of them together take no longer than one plan may.
        """
        deadline = time.monotonic() + self._seconds
        whole = await self.plan(ground, pessimism, context, said=said)
        found = []
        for number, place in enumerate(places):
            if visits(whole, *place):
                found.append((whole, False))
                continue
            left = max(deadline - time.monotonic(), 0.0) / (len(places) - number)
            rest = await self.plan(ground, pessimism, context, said=said, start=place, seconds=left)
            found.append((rest, True))
        return found


def plan(
    ground: Ground,
    decision: Decision,
    doubt: Doubt,
    pessimism: Pessimism,
    tolerance: float,
    seconds: float,
    warm_start: RobustPolicy | None = None,
) -> Plan:
    """The robust plan of a decision, with the greedy one beside it."""
    mdp, reference = decision.mdp, decision.reference
    mean = decision.table(doubt.mean)
    robust = robust_policy(
        mdp,
        mean,
        doubt.factor,
        own=doubt.own,
        beta=doubt.beta,
        within=doubt.within,
        reference=reference,
        tolerance=tolerance,
        time_budget_seconds=seconds,
        warm_start=warm_start,
        clock=time.monotonic,
    )
    greedy = occupancy(mdp, backward_induction(mdp, mean).policy)
    change = decision.visits(greedy - occupancy(mdp, reference))
    nominal = float(doubt.mean @ change)
    environment = ground.environment
    return Plan(
        robust=robust,
        pessimism=pessimism,
        mean=doubt.mean,
        worst=doubt.change(robust.worst_case),
        greedy_nominal=nominal,
        greedy_lower=nominal + doubt.worst(change),
        states=environment.states if isinstance(environment, MdpEnvironment) else (CATALOGUE_STATE,),
        actions=decision.actions,
    )


def decision_of(ground: Ground, context: Context | None) -> Decision:
    """What there is to decide for this user, from the beginning."""
    snapshot, environment = ground.snapshot, ground.environment
    if isinstance(environment, MdpEnvironment):
        assert snapshot.mdp is not None
        assert isinstance(snapshot.reference, ReferencePolicy)
        belief = table_belief(ground)
        return Decision(snapshot.mdp, belief, snapshot.reference.policy, environment.actions)
    items = ground.catalogue
    if not items.ids:
        raise InvalidInputError(f"environment {environment.name!r} has no items to choose from.")
    belief = belief_about_items(ground, items.features, context).in_one_factor(MAX_OWN)
    uniform = np.full((1, 1, len(items.ids)), 1.0 / len(items.ids))
    return Decision(FiniteHorizonMDP.bandit(len(items.ids)), belief, uniform, items.ids)


def plan_bytes(made: Plan) -> int:
    return robust_bytes(made.robust) + made.mean.nbytes + made.worst.nbytes


def robust_bytes(robust: RobustPolicy) -> int:
    return robust.policy.nbytes + robust.greedy.nbytes + robust.occupancy.nbytes + robust.worst_case.nbytes


def pessimism_of(environment: Environment, confidence: float | None, kind: SetKind | None) -> Pessimism:
    """What a request asks for: without a word the default, else what is missing is the environment's.

    Raises
    ------
    InvalidInputError
        A confidence that is none.
    """
    if confidence is None and kind is None:
        return DEFAULT_PESSIMISM
    level = environment.confidence if confidence is None else confidence
    if not 0 <= level < 1:
        raise InvalidInputError(f"confidence: it is {level:g}; it must be at least 0 and less than 1.")
    return Pessimism(kind or "ellipsoid", level)


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


def action_index(ground: Ground, action: int | str | None) -> int | None:
    """An action by name or index, of a catalogue an item's id; None stands for what the plan does."""
    if action is None:
        return None
    environment = ground.environment
    names = environment.actions if isinstance(environment, MdpEnvironment) else ground.catalogue.ids
    if isinstance(action, str) and action in names:
        return names.index(action)
    index = int(action) if isinstance(action, str) and action.isascii() and action.isdigit() else action
    if isinstance(index, int) and 0 <= index < len(names):
        return index
    raise InvalidInputError(
        f"action: environment {environment.name!r} has no action {action!r}; a name was expected, or an index from 0 "
        f"to {len(names) - 1}.",
        pointer="/action",
    )


def visits(made: Plan, state: int, step: int) -> bool:
    """Whether the plan can be in this state at this step."""
    return bool(made.robust.occupancy[step, state].sum() > UNVISITED)


def policy_answer(ground: Ground, made: Plan) -> PolicyAnswer:
    robust = made.robust
    if robust.policy.size > LARGEST_POLICY:
        raise InvalidInputError(
            f"The policy has {robust.policy.size:,} probabilities; at most {LARGEST_POLICY:,} are answered at once. "
            "Ask for the actions in the states that matter, by POST to actions/batch."
        )
    return PolicyAnswer(
        **ground.grounds,
        **certificate(made),
        states=made.states,
        actions=made.actions,
        policy=robust.policy,
        greedy=np.asarray(robust.greedy, dtype=np.int64),
    )


def action_answer(
    ground: Ground, made: Plan, state: int, step: int, *, from_state: bool, seed: int | None
) -> ActionAnswer:
    """What the plan does; `from_state` says that it begins at this state and step."""
    distribution = _distribution(made, state, 0 if from_state else step)
    rng = np.random.default_rng(None if seed is None else [seed, state, step])
    return ActionAnswer(
        **ground.grounds,
        **certificate(made),
        state=made.states[state],
        step=step,
        planned_from="state" if from_state else "start",
        actions=made.actions,
        distribution=distribution,
        greedy=int(distribution.argmax()),
        sampled=sample_action(distribution, rng),
    )


def _distribution(made: Plan, state: int, step: int) -> Real:
    """(A,) what the plan does."""
    distribution = made.robust.policy[step, state]
    if not distribution.any():
        raise InvalidInputError(
            f"state: {made.states[state]!r} is terminal; there is nothing to do in it.", pointer="/state"
        )
    return np.asarray(distribution)


def certificate(made: Plan) -> dict[str, Any]:
    robust = made.robust
    return {
        "set": made.pessimism.set,
        "confidence": made.pessimism.confidence,
        "lower": robust.lower,
        "upper": robust.upper,
        "nominal": robust.nominal,
        "greedy_nominal": made.greedy_nominal,
        "greedy_lower": made.greedy_lower,
        "beta": robust.beta,
        "converged": robust.converged,
        "reason": robust.reason,
    }


def _digest(context: Context) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(context.features).tobytes(), digest_size=16).digest()
