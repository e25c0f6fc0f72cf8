"""Does the method do what the theory says, where the truth is known?

For a ladder of users N and of comparisons a user N_p, a truth is drawn, learnt back and compared:

- principal angle distance of the learnt subspace from the true one, which must fall like 1 / sqrt(N N_p) (Theorem 4.1;
  the drawn truth has no tail);
- the error of the rewards, which by the same argument falls like sqrt(k (d1 + N d2) / (N N_p)): the subspace is paid by
  everybody together, the adapter by each user alone;
- the coverage of the 95% intervals, of a catalogue's rewards and of a decision process's;
- the value gap of the policies planned from the learnt rewards (Theorem 4.2 bounds it by that same rate; as a bound it
  may be beaten).

Every point is the mean over several independent truths. How pessimistic a policy ought to be is another study, in
`app.evaluation.policies`.

Source: Liu et al. 2025, Theorems 4.1 and 4.2; rates leave out logarithms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from app.evaluation.baselines import PerUserModel, fit_full, fit_global, fit_per_user
from app.evaluation.coverage import catalogue_coverage, mdp_coverage
from app.evaluation.dataset import Real
from app.evaluation.policies import PolicyStudy, study_policies
from app.evaluation.truth import MDP_ACTIONS, MDP_STATES, CatalogueWorld, MdpWorld, draw_catalogue, draw_mdp
from app.learning import fit, principal_angle_distance
from app.policy import FiniteHorizonMDP, RobustPolicy, backward_induction, occupancy, robust_policy

LADDER = (0.25, 0.5, 1.0)
"""Shares of the asked users, and of the asked comparisons, at which everything is measured."""

LEVEL = 0.95

PLANNED_USERS = 6
"""Users for whom policies are planned, the same ones at every point."""

POLICY_LADDER = (2, 5, 10, 20)
"""Comparisons of each user at which policies are judged at several levels of pessimism."""

JUDGED_USERS = 24

PLAN_TOLERANCE = 1e-2
"""Relative gap at which a policy is good enough to be compared: far below the spread of regrets over users."""

PLAN_ITERATIONS = 60
"""A policy's certificate holds however far it is from optimal; the largest gap is reported."""

SimulationProgress = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class CatalogueResult:
    """How well rewards were learnt back, averaged over users and items."""

    principal_angle_distance: float | None
    """None for a model that is the same for everybody."""
    reward_error: float
    """Root mean square, log-odds."""
    coverage: float | None
    """Share of the true rewards inside their 95% interval, where the method gives one."""


@dataclass(frozen=True, slots=True)
class MdpResult:
    """Policies for a few users; regret is true value lost against the user's optimal policy, in log-odds."""

    principal_angle_distance: float
    regret: dict[str, float]
    """By policy: reference, lora_global, lora_local, full_parameter, greedy (for the mean reward), robust."""
    lower_bound_held: float
    """Share of users whose true improvement over the reference was at least the certified one."""
    largest_relative_gap: float
    """Of the certificates."""
    planned_users: int
    """Over all truths."""
    coverage: float
    """Share of the true rewards of states and actions, less their mean, inside their 95% interval."""


@dataclass(frozen=True, slots=True)
class Point:
    users: int
    comparisons: int
    """Of each user."""
    catalogue: dict[str, CatalogueResult]
    """By method: p_share_lora, lora_global, lora_local, full_parameter."""
    mdp: MdpResult
    seconds: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Exponent of a quantity along one ladder: the quantity goes like the ladder's variable to this power.

    Along `together`, all points count, and the variable is the product of users and comparisons.
    """

    fitted: float
    predicted: float


@dataclass(frozen=True, slots=True)
class Simulation:
    seed: int
    draws: int
    """Independent truths that every point is the mean over."""
    dim: int
    rank: int
    points: Sequence[Point]
    slopes: dict[str, dict[str, Slope]]
    """By quantity, then by ladder: users, comparisons, together. Of P-ShareLoRA."""
    rival_slopes: dict[str, dict[str, dict[str, float]]]
    """By method, quantity and ladder, fitted; nothing is predicted of them."""
    policies: PolicyStudy
    """Regret of reference, greedy and robust policies against the number of comparisons."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


VARIABLES: Mapping[str, Callable[[Point], float]] = {
    "users": lambda point: point.users,
    "comparisons": lambda point: point.comparisons,
    "together": lambda point: point.users * point.comparisons,
}
"""What each ladder goes along."""


def simulate(
    *,
    users: int = 240,
    comparisons: int = 64,
    dim: int = 12,
    rank: int = 2,
    draws: int = 1,
    seed: int = 0,
    progress: SimulationProgress | None = None,
) -> Simulation:
    """Draw truths with all `users` and `comparisons`, and learn them back from less and less of that."""
    begun = perf_counter()
    grid = ladder_points(users, comparisons, rank)
    found: list[list[Point]] = [[] for _ in grid]
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        catalogue = draw_catalogue(rng, n_users=users, per_user=comparisons, dim=dim, rank=rank)
        mdp = draw_mdp(rng, n_users=users, per_user=comparisons, rank=rank)
        for number, (n_users, per_user) in enumerate(grid):
            if progress is not None:
                done = (draw + number / len(grid)) / draws
                progress("simulating", f"{n_users} users x {per_user} comparisons", done)
            worlds = catalogue.first(n_users, per_user), mdp.first(n_users, per_user)
            found[number].append(learn_back(*worlds, rank, seed=seed))
    points = [_mean_of(of_one) for of_one in found]
    judged = [few for few in POLICY_LADDER if few <= comparisons]
    policies = study_policies(users=users, rank=rank, judged=JUDGED_USERS, ladder=judged, seed=seed, progress=progress)
    return Simulation(
        seed=seed,
        draws=draws,
        dim=dim,
        rank=rank,
        points=tuple(points),
        slopes=_slopes(points, users=users, comparisons=comparisons, dim=dim, rank=rank),
        rival_slopes=_rival_slopes(_ladders(points, users=users, comparisons=comparisons)),
        policies=policies,
        seconds=perf_counter() - begun,
    )


def ladder_points(users: int, comparisons: int, rank: int) -> list[tuple[int, int]]:
    """(N, N_p) along both ladders; no point has fewer users than the rank needs."""
    along_users = [(max(rank + 2, round(users * share)), comparisons) for share in LADDER]
    along_comparisons = [(users, max(2, round(comparisons * share))) for share in LADDER]
    return sorted({*along_users, *along_comparisons})


def learn_back(catalogue: CatalogueWorld, mdp: MdpWorld, rank: int, *, seed: int) -> Point:
    begun = perf_counter()
    rng = np.random.default_rng(seed)
    n_users = len(catalogue.truth.Theta)
    return Point(
        users=n_users,
        comparisons=len(catalogue.data) // n_users,
        catalogue=_learn_catalogue(catalogue, rank, rng),
        mdp=_plan(mdp, rank, rng),
        seconds=perf_counter() - begun,
    )


def _learn_catalogue(world: CatalogueWorld, rank: int, rng: np.random.Generator) -> dict[str, CatalogueResult]:
    n_users = len(world.truth.Theta)
    # The paper's model: nobody differs outside the subspace.
    model = fit(world.data.comparisons(n_users), rank=rank, residual=False, rng=rng)
    ours = catalogue_coverage(model, world, ((user, model.adapter(user)) for user in range(n_users)), level=LEVEL)
    everybody = fit_global(world.data, seed=0)
    theta = everybody.theta / everybody.differences.scale
    local = fit_per_user(world.data, n_users=n_users, seed=0)
    full = fit_full(world.data, n_users=n_users)
    return {
        "p_share_lora": CatalogueResult(
            principal_angle_distance(model.B, world.truth.B), ours.reward_error, ours.intervals
        ),
        "lora_global": CatalogueResult(None, _error(_centred(world.X @ theta), world.rewards), None),
        "lora_local": _own_result(local, world, rank),
        "full_parameter": _own_result(full, world, rank),
    }


def _own_result(own: PerUserModel, world: CatalogueWorld, rank: int) -> CatalogueResult:
    """Of one model a user; their subspace is that of the k leading directions in which they differ."""
    theta = (own.base.theta + own.offsets) / own.base.differences.scale
    leading = np.linalg.svd((theta - theta.mean(axis=0)).T, full_matrices=False)[0][:, :rank]
    error = _error(_centred(theta @ world.X.T), world.rewards)
    return CatalogueResult(principal_angle_distance(leading, world.truth.B), error, None)


def _plan(world: MdpWorld, rank: int, rng: np.random.Generator) -> MdpResult:
    n_users = len(world.truth.Theta)
    model = fit(world.comparisons, rank=rank, rng=rng)
    own = fit_per_user(world.data, n_users=n_users, seed=0)
    scale, shape = own.base.differences.scale, (MDP_STATES, MDP_ACTIONS)
    baselines = {
        "lora_global": np.tile(own.base.theta, (n_users, 1)),
        "lora_local": own.base.theta + own.offsets,
        "full_parameter": fit_full(world.data, n_users=n_users).offsets,
    }
    tables = {method: (weights / scale).reshape(n_users, *shape) for method, weights in baselines.items()}
    planned = list(range(min(PLANNED_USERS, n_users)))
    outcomes = []
    for user in planned:
        belief = model.reward_table(model.adapter(user))
        mean = belief.mean.reshape(shape)
        robust = robust_policy(
            world.mdp,
            mean,
            belief.factor,
            beta=belief.beta(LEVEL),
            reference=world.reference,
            tolerance=PLAN_TOLERANCE,
            max_iterations=PLAN_ITERATIONS,
        )
        believed = {**{method: table[user] for method, table in tables.items()}, "greedy": mean}
        outcomes.append(_outcome(world, world.truth.Theta[user], believed, robust))
    return MdpResult(
        principal_angle_distance=principal_angle_distance(model.B, world.truth.B),
        regret={name: float(np.mean([o.regret[name] for o in outcomes])) for name in outcomes[0].regret},
        lower_bound_held=float(np.mean([o.improvement >= o.certified - 1e-9 for o in outcomes])),
        largest_relative_gap=max(o.relative_gap for o in outcomes),
        planned_users=len(planned),
        coverage=mdp_coverage(
            model, world, ((user, model.adapter(user)) for user in range(n_users)), level=LEVEL
        ).intervals,
    )


def _mean_of(points: Sequence[Point]) -> Point:
    """The same point of several truths."""
    first, mdps = points[0], [point.mdp for point in points]
    return replace(
        first,
        catalogue={method: _mean_result([point.catalogue[method] for point in points]) for method in first.catalogue},
        mdp=MdpResult(
            principal_angle_distance=_mean([mdp.principal_angle_distance for mdp in mdps]),
            regret={policy: _mean([mdp.regret[policy] for mdp in mdps]) for policy in first.mdp.regret},
            lower_bound_held=_mean([mdp.lower_bound_held for mdp in mdps]),
            largest_relative_gap=max(mdp.largest_relative_gap for mdp in mdps),
            planned_users=sum(mdp.planned_users for mdp in mdps),
            coverage=_mean([mdp.coverage for mdp in mdps]),
        ),
        seconds=sum(point.seconds for point in points),
    )


def _mean_result(results: Sequence[CatalogueResult]) -> CatalogueResult:
    distances = [one.principal_angle_distance for one in results if one.principal_angle_distance is not None]
    covered = [one.coverage for one in results if one.coverage is not None]
    return CatalogueResult(
        principal_angle_distance=_mean(distances) if distances else None,
        reward_error=_mean([one.reward_error for one in results]),
        coverage=_mean(covered) if covered else None,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one user's policies are truly worth."""

    regret: dict[str, float]
    improvement: float
    """Of the robust policy over the reference."""
    certified: float
    relative_gap: float


def _outcome(world: MdpWorld, truth: Real, believed: dict[str, Real], robust: RobustPolicy) -> _Outcome:
    best, reference = _planned_value(world.mdp, truth, truth), _value(world.mdp, world.reference, truth)
    value = _value(world.mdp, robust.policy, truth)
    planned = {method: best - _planned_value(world.mdp, table, truth) for method, table in believed.items()}
    return _Outcome(
        regret={"reference": best - reference, **planned, "robust": best - value},
        improvement=value - reference,
        certified=robust.lower,
        relative_gap=robust.relative_gap,
    )


def _planned_value(mdp: FiniteHorizonMDP, believed: Real, truth: Real) -> float:
    """What the best policy under the believed rewards (S, A) is truly worth."""
    return _value(mdp, backward_induction(mdp, believed).policy, truth)


def _value(mdp: FiniteHorizonMDP, policy: Any, truth: Real) -> float:
    return float((occupancy(mdp, policy) * truth).sum())


def _centred(rewards: Real) -> Real:
    centred: Real = rewards - rewards.mean(axis=-1, keepdims=True)
    return centred


def _error(found: Real, truth: Real) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def _slopes(
    points: Sequence[Point], *, users: int, comparisons: int, dim: int, rank: int
) -> dict[str, dict[str, Slope]]:
    ladders = _ladders(points, users=users, comparisons=comparisons)
    measured: dict[str, tuple[Callable[[Point], float], Callable[[Point], float]]] = {
        "principal_angle_distance": (
            lambda p: p.catalogue["p_share_lora"].principal_angle_distance or 0.0,
            lambda p: (p.users * p.comparisons) ** -0.5,
        ),
        "reward_error": (
            lambda p: p.catalogue["p_share_lora"].reward_error,
            lambda p: (rank * (dim + p.users) / (p.users * p.comparisons)) ** 0.5,
        ),
        "value_gap": (
            lambda p: p.mdp.regret["greedy"],
            lambda p: (rank * (MDP_STATES + p.users * MDP_ACTIONS) / (p.users * p.comparisons)) ** 0.5,
        ),
    }
    return {
        quantity: {
            ladder: Slope(
                fitted=_exponent([VARIABLES[ladder](p) for p in on], [value(p) for p in on]),
                predicted=_exponent([VARIABLES[ladder](p) for p in on], [rate(p) for p in on]),
            )
            for ladder, on in ladders.items()
        }
        for quantity, (value, rate) in measured.items()
    }


def _ladders(points: Sequence[Point], *, users: int, comparisons: int) -> dict[str, list[Point]]:
    return {
        "users": [point for point in points if point.comparisons == comparisons],
        "comparisons": [point for point in points if point.users == users],
        "together": list(points),
    }


def _rival_slopes(ladders: dict[str, list[Point]]) -> dict[str, dict[str, dict[str, float]]]:
    measured: dict[str, Callable[[Point, str], float | None]] = {
        "principal_angle_distance": lambda p, method: p.catalogue[method].principal_angle_distance,
        "reward_error": lambda p, method: p.catalogue[method].reward_error,
        "value_gap": lambda p, method: p.mdp.regret[method],
    }
    return {
        method: {
            quantity: {
                ladder: _exponent([VARIABLES[ladder](p) for p in on], [value(p, method) or 0.0 for p in on])
                for ladder, on in ladders.items()
            }
            for quantity, value in measured.items()
            if value(ladders["users"][0], method) is not None
        }
        for method in ("lora_global", "lora_local", "full_parameter")
    }


def _exponent(variable: Sequence[float], quantity: Sequence[float]) -> float:
    """Least-squares slope of log quantity over log variable."""
    x, y = np.log(variable), np.log(np.maximum(quantity, 1e-12))
    x = x - x.mean()
    return float(x @ y / (x @ x)) if len(x) > 1 and x @ x > 0 else 0.0
