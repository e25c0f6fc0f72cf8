"""What pessimism costs and what it saves, where the truth is known.

A population of users has said a few things each; a model is fitted on all of it, and for every judged user policies are
planned at several levels of pessimism (`LEVELS`): greedy for the mean reward (beta = 0), the reference, and robust ones
(Liu et al. 2025, eq. (3.5)), against every set of rewards that is offered (`app.domain.doubt`). Each is then valued at
the user's true reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from app.domain.doubt import Believed, SetKind, doubt_of
from app.evaluation.dataset import Real
from app.evaluation.truth import MdpWorld, draw_mdp
from app.learning import Model, fit
from app.policy import FullSpace, RobustPolicy, backward_induction, occupancy, robust_policy

LADDER = (1, 2, 5, 10, 20, 40)
"""Comparisons that every user has made."""

LEVELS: tuple[tuple[SetKind, float], ...] = (
    ("credible", 0.6),
    ("credible", 0.8),
    ("credible", 0.9),
    ("credible", 0.95),
    ("ellipsoid", 0.1),
    ("ellipsoid", 0.5),
    ("ellipsoid", 0.8),
    ("ellipsoid", 0.95),
    ("frobenius", 0.8),
    ("frobenius", 0.95),
    ("frobenius_full", 0.8),
    ("frobenius_full", 0.95),
    ("likelihood_ratio", 0.8),
    ("likelihood_ratio", 0.95),
)

PLAN_TOLERANCE = 1e-2
"""Relative gap at which a policy is good enough to be compared: far below the spread of regrets over users."""

PLAN_ITERATIONS = 100
"""A policy's certificate holds however far it is from optimal."""

HOUSE_SHARE = 0.8
"""Of the time that a house does what is best for its average user; else it tries something."""

WORST_SHARE = 0.1
"""Of the users: those whom the worst tenth is about."""

NOTHING = 1e-9
"""Log-odds below which a difference of values is rounding."""

PolicyProgress = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One way to choose policies, over the judged users; values are log-odds over the horizon."""

    mean_regret: float
    """True value lost against the user's own optimal policy."""
    worst_tenth_regret: float
    """The mean regret of the tenth of the users who lose most."""
    worse_than_reference: float
    """Share of users whose policy is truly worse than the reference."""
    nominal: float
    """What the policies promise over the reference at the estimated rewards, on average."""
    lower: float
    """What they promise in the worst case of their set, on average."""
    lower_bound_held: float
    """Share of users whose true value over the reference was at least `lower`."""
    beta: float
    """Radius in standard errors, on average."""


@dataclass(frozen=True, slots=True)
class PolicyPoint:
    users: int
    comparisons: int
    """Of each user."""
    judged: int
    """Users whose policies were planned, over all worlds."""
    policies: dict[str, PolicyResult]
    """By name: reference, greedy, and a set with its level, such as `credible 0.8`."""


@dataclass(frozen=True, slots=True)
class PolicyStudy:
    worlds: int
    points: Sequence[PolicyPoint]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Valued:
    """One user's policy of one kind."""

    regret: float
    improvement: float
    """True value less the reference's."""
    nominal: float
    lower: float
    beta: float


def study_policies(
    *,
    users: int = 240,
    rank: int = 2,
    judged: int = 40,
    worlds: int = 1,
    reference: Literal["uniform", "house"] = "house",
    ladder: Sequence[int] = LADDER,
    levels: Sequence[tuple[SetKind, float]] = LEVELS,
    seed: int = 0,
    progress: PolicyProgress | None = None,
) -> PolicyStudy:
    """Regret of the reference, greedy and robust policies against the number of comparisons.

    Parameters
    ----------
    users
        N of every world; all of them have made the same number of comparisons.
    judged
        Users of each world for whom policies are planned.
    worlds
        Independent truths, each learnt back along the whole ladder.
    reference
        What policies are measured against: any action at random, or what a house does that knows its users' mean reward
        and nothing of any single one, four times out of five.
    """
    outcomes: dict[int, list[dict[str, _Valued]]] = {comparisons: [] for comparisons in ladder}
    for number in range(worlds):
        rng = np.random.default_rng([seed, number])
        world = draw_mdp(rng, n_users=users, per_user=max(ladder), rank=rank)
        if reference == "house":
            world = replace(world, reference=house_policy(world))
        for place, comparisons in enumerate(ladder):
            if progress is not None:
                share = (number + place / len(ladder)) / worlds
                progress("planning", f"world {number + 1} of {worlds}, {comparisons} comparisons", share)
            outcomes[comparisons] += _of_world(world.first(users, comparisons), rank, judged, levels, rng)
    points = (_point(users, comparisons, found) for comparisons, found in outcomes.items())
    return PolicyStudy(worlds=worlds, points=tuple(points))


def house_policy(world: MdpWorld) -> Real:
    """(H, S, A): the best for everybody's mean reward with probability `HOUSE_SHARE`, else any action."""
    uniform = world.mdp.uniform_policy()
    best = backward_induction(world.mdp, world.truth.Theta.mean(axis=0)).policy
    taken = np.arange(uniform.shape[2]) == best[:, :, None]
    return np.asarray(HOUSE_SHARE * taken + (1 - HOUSE_SHARE) * uniform)


def _of_world(
    world: MdpWorld, rank: int, judged: int, levels: Sequence[tuple[SetKind, float]], rng: np.random.Generator
) -> list[dict[str, _Valued]]:
    model = fit(world.comparisons, rank=rank, rng=rng)
    return [_of_user(world, user, model, levels) for user in range(min(judged, len(world.truth.Theta)))]


def _of_user(world: MdpWorld, user: int, model: Model, levels: Sequence[tuple[SetKind, float]]) -> dict[str, _Valued]:
    mdp, truth, adapter = world.mdp, world.truth.Theta[user], model.adapter(user)
    belief, said = model.reward_table(adapter), world.comparisons.of_users([user])
    full = FullSpace.of(mdp)
    about = Believed(model, adapter, belief, rows=model.table_rows, full=lambda: full, said=said)
    mean = belief.mean.reshape(truth.shape)
    reference = occupancy(mdp, world.reference).sum(axis=0)
    best = float((occupancy(mdp, backward_induction(mdp, truth).policy).sum(axis=0) * truth).sum())
    behind = best - float((reference * truth).sum())

    def valued(measure: Real, lower: float, beta: float) -> _Valued:
        change = measure.sum(axis=0) - reference
        improvement = float((change * truth).sum())
        return _Valued(behind - improvement, improvement, float((change * mean).sum()), lower, beta)

    greedy = occupancy(mdp, backward_induction(mdp, mean).policy)
    greedily = valued(greedy, 0.0, 0.0)
    found = {
        "reference": _Valued(behind, 0.0, 0.0, 0.0, 0.0),
        "greedy": _Valued(greedily.regret, greedily.improvement, greedily.nominal, greedily.nominal, 0.0),
    }
    warm: dict[SetKind, RobustPolicy] = {}
    for kind, level in levels:
        doubt = doubt_of(about, kind, level)
        robust = robust_policy(
            mdp,
            doubt.mean.reshape(truth.shape),
            doubt.factor,
            own=doubt.own,
            beta=doubt.beta,
            within=doubt.within,
            reference=world.reference,
            tolerance=PLAN_TOLERANCE,
            max_iterations=PLAN_ITERATIONS,
            warm_start=warm.get(kind),
        )
        warm[kind] = robust
        found[f"{kind} {level:g}"] = valued(robust.occupancy, robust.lower, robust.beta)
    return found


def _point(users: int, comparisons: int, found: list[dict[str, _Valued]]) -> PolicyPoint:
    return PolicyPoint(
        users=users,
        comparisons=comparisons,
        judged=len(found),
        policies={name: _result([one[name] for one in found]) for name in found[0]},
    )


def _result(valued: Sequence[_Valued]) -> PolicyResult:
    regret = np.sort([one.regret for one in valued])
    improvement = np.array([one.improvement for one in valued])
    lower = np.array([one.lower for one in valued])
    worst = max(1, round(WORST_SHARE * len(regret)))
    return PolicyResult(
        mean_regret=float(regret.mean()),
        worst_tenth_regret=float(regret[-worst:].mean()),
        worse_than_reference=float((improvement < -NOTHING).mean()),
        nominal=float(np.mean([one.nominal for one in valued])),
        lower=float(lower.mean()),
        lower_bound_held=float((improvement >= lower - NOTHING).mean()),
        beta=float(np.mean([one.beta for one in valued])),
    )
