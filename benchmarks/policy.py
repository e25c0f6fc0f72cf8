"""How long a certified robust policy takes: against a conic solver, against a bare backward induction, and as it grows.

`--part` picks a claim:

rival    The planner reaches a certified relative gap of 1e-4 many times faster than Clarabel on the whole conic program
         of the same instance, at every radius, and finds the same optimum. 100 states, 10 actions, horizon 20, 16
         uncertain dimensions, 5 successors. Small and medium radii: 0.1, 0.5, 1, 2; large, where the optimum makes the
         uncertainty vanish: 5 and 1000. Building Clarabel's matrices is not counted; default settings.
size     1,000 states, 20 actions, horizon 50: a gap of 1e-3 in how many bare backward inductions (ours, compiled, of
         the mean alone, timed in the same run), and in how much memory. `--huge` adds 10,000 states.
growth   One of states, actions, horizon, dimensions and radius varied at a time.
sets     The same MDP with every kind of confidence set, a slate of a large catalogue, and a user's next request.

Data: random MDPs (Dirichlet transitions, Gaussian rewards and factor), seeded. Prints JSON, or tables by `--markdown`.

    python benchmarks/policy.py --part rival
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import clarabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.policy import (
    FiniteHorizonMDP,
    FullSpace,
    RobustPolicy,
    logistic_level_set,
    prepare,
    robust_policy,
    robust_slate,
)
from app.policy.dynamics import Dynamics
from tests.support.policy_worlds import World, conic_program

Result = TypeVar("Result")
Row = dict[str, Any]

RADII = {"small": [0.1], "medium": [0.5, 1.0, 2.0], "large": [5.0, 1000.0]}
ASKED = {"small": 50.0, "medium": 50.0, "large": 15.0}
"""Times faster than Clarabel."""


class _Clock:
    read = time.perf_counter


@dataclass(frozen=True)
class Size:
    states: int = 100
    actions: int = 10
    horizon: int = 20
    parameters: int = 16
    successors: int = 5


def main() -> None:
    options = _options()
    prepare()
    parts: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "rival": _rival,
        "size": _size,
        "growth": _growth,
        "sets": _sets,
    }
    chosen = parts if options.part == "all" else {options.part: parts[options.part]}
    results = {name: part(options) for name, part in chosen.items()}
    if options.markdown:
        for name, rows in results.items():
            print(f"\n{name}\n\n{_table(rows)}")
        return
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    versions = {"numpy": np.__version__, "clarabel": clarabel.__version__}
    print(json.dumps({"machine": machine, "versions": versions, **results}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", "rival", "size", "growth", "sets"], default="all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts, ours and the rival's")
    parser.add_argument("--huge", action="store_true", help="10,000 states too: a minute and half a gigabyte")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--processor-time", action="store_true", help="instead of the clock's: on a shared machine")
    options = parser.parse_args()
    if options.processor_time:
        _Clock.read = time.process_time
    return options


def _rival(options: argparse.Namespace) -> list[Row]:
    return [
        _compare(options, seed, kind, beta)
        for kind, betas in RADII.items()
        for beta in betas
        for seed in range(options.seeds)
    ]


def _compare(options: argparse.Namespace, seed: int, kind: str, beta: float) -> Row:
    world = _world(Size(), seed)
    seconds, found = _timed(options.repeats, lambda: _plan(world, beta, 1e-4))
    program = conic_program(world, beta)
    rival_seconds, solution = _timed(options.repeats, lambda: program.solver().solve())
    optimum = program.optimum(solution)
    slack = 1e-4 * abs(optimum)
    return {
        "radius": kind,
        "beta": beta,
        "seed": seed,
        "milliseconds": round(1e3 * seconds, 2),
        "inductions": found.iterations,
        "reason": found.reason,
        "relative_gap": float(f"{found.relative_gap:.1e}"),
        "lower": found.lower,
        "upper": found.upper,
        "clarabel_milliseconds": round(1e3 * rival_seconds, 1),
        "clarabel_optimum": optimum,
        "same_optimum": bool(found.lower - slack <= optimum <= found.upper + slack),
        "ratio": round(rival_seconds / seconds, 1),
        "asked": ASKED[kind],
    }


def _size(options: argparse.Namespace) -> list[Row]:
    rows = []
    for states in (1_000, 10_000) if options.huge else (1_000,):
        world = _world(Size(states, 20, 50), 0)
        for beta in (0.1, 0.5, 2.0, 5.0, 1000.0) if states == 1_000 else (2.0,):
            bare = _bare(world)
            before = _peak()
            seconds, found = _timed(1, lambda world=world, beta=beta: _plan(world, beta, 1e-3))  # type: ignore[misc]
            rows.append(
                {
                    "states": states,
                    "beta": beta,
                    "seconds": round(seconds, 2),
                    "bare_milliseconds": round(1e3 * bare, 2),
                    "bare_inductions": round(seconds / bare),
                    "inductions": found.iterations,
                    "reason": found.reason,
                    "relative_gap": float(f"{found.relative_gap:.1e}"),
                    "policy_mb": round(found.policy.nbytes / 1e6),
                    "peak_mb": round(_peak()),
                    "peak_mb_before": round(before),
                }
            )
    return rows


def _growth(_: argparse.Namespace) -> list[Row]:
    rows = []
    for name, size, beta in _grown():
        world = _world(size, 0)
        bare = _bare(world)
        seconds, found = _timed(2, lambda world=world, beta=beta: _plan(world, beta, 1e-4))  # type: ignore[misc]
        rows.append(
            {
                "varied": name,
                "states": size.states,
                "actions": size.actions,
                "horizon": size.horizon,
                "parameters": size.parameters,
                "beta": beta,
                "milliseconds": round(1e3 * seconds, 2),
                "inductions": found.iterations,
                "bare_milliseconds": round(1e3 * bare, 3),
                "bare_inductions": round(seconds / bare),
                "relative_gap": float(f"{found.relative_gap:.1e}"),
                "reason": found.reason,
            }
        )
    return rows


def _grown() -> Iterator[tuple[str, Size, float]]:
    for name, values in (
        ("states", (30, 100, 300, 1000)),
        ("actions", (3, 10, 30)),
        ("horizon", (5, 20, 80)),
        ("parameters", (2, 4, 8, 16, 32, 64, 128)),
    ):
        for value in values:
            yield name, replace(Size(), **{name: value}), 2.0
    for beta in (0.1, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0, 10.0, 1000.0):
        yield "beta", Size(), beta


def _sets(options: argparse.Namespace) -> list[Row]:
    world = _world(Size(), 0)
    rng = np.random.default_rng(0)
    Z, M = rng.normal(size=(20, 16)), np.eye(16)
    within = logistic_level_set(Z, estimate=np.zeros(16), prior_precision=M, excess=2.0)
    first = _plan(world, 2.0, 1e-4)
    moved = replace(
        world,
        mean=world.mean + 0.02 * (world.factor @ rng.normal(size=16)).reshape(world.mean.shape),
        factor=world.factor * 0.98,
    )
    features = replace(world, mdp=replace(world.mdp, state_features=rng.normal(size=(100, 16)) / 4))
    full = FullSpace.of(features.mdp)
    cases: dict[str, Callable[[], Any]] = {
        "ellipsoid, 16 dimensions, beta 2": lambda: _plan(world, 2.0, 1e-4),
        "likelihood ratio, 16 dimensions, 20 comparisons": lambda: robust_policy(
            world.mdp, world.mean, world.factor, within=within, reference="uniform"
        ),
        "full space, 16 x 10 features, radius 2": lambda: robust_policy(
            features.mdp, world.mean, full, beta=2.0, reference="uniform"
        ),
        "full space, 100 x 10 table, radius 0.5": lambda: robust_policy(
            world.mdp, world.mean, FullSpace.of(world.mdp), beta=0.5, reference="uniform"
        ),
        "the next request, belief moved, cold": lambda: _plan(moved, 2.0, 1e-4),
        "the next request, belief moved, warm": lambda: _plan(moved, 2.0, 1e-4, first),
        "the same request again, warm": lambda: _plan(world, 2.0, 1e-4, first),
    }
    items, factor = rng.normal(size=5_000), rng.normal(size=(5_000, 16)) / 4
    bandit = FiniteHorizonMDP.bandit(5_000)
    for beta in (0.5, 2.0, 1000.0):
        cases[f"one of 5,000 items, beta {beta:g}"] = lambda beta=beta: robust_policy(  # type: ignore[misc]
            bandit, items[None], factor, beta=beta, reference="uniform"
        )
        cases[f"a slate of 10 of 5,000 items, beta {beta:g}"] = lambda beta=beta: robust_slate(  # type: ignore[misc]
            items, factor, size=10, beta=beta
        )
    rows = []
    for name, run in cases.items():
        seconds, found = _timed(options.repeats, run)
        rows.append(
            {
                "set": name,
                "milliseconds": round(1e3 * seconds, 2),
                "inductions": found.iterations,
                "relative_gap": float(f"{found.gap / found.upper:.1e}"),
                "reason": found.reason,
            }
        )
    return rows


def _world(size: Size, seed: int) -> World:
    rng = np.random.default_rng(seed)
    S, A, K = size.states, size.actions, min(size.successors, size.states)
    pairs = np.repeat(np.arange(S * A), K)
    following = np.argsort(rng.random((S * A, S)), axis=1)[:, :K] if S <= 300 else rng.integers(S, size=(S * A, K))
    rows = np.column_stack([pairs // A, pairs % A, following.ravel(), rng.dirichlet(np.ones(K), size=S * A).ravel()])
    mdp = FiniteHorizonMDP.from_triples(S, A, size.horizon, rows, rng.dirichlet(np.ones(S)))
    mean = rng.normal(size=(S, A))
    factor = rng.normal(size=(S * A, size.parameters)) / np.sqrt(size.parameters)
    return World(mdp, mean, factor, mdp.uniform_policy() if S * A * size.horizon <= 1_000_000 else mean)


def _plan(world: World, beta: float, tolerance: float, warm: RobustPolicy | None = None) -> RobustPolicy:
    return robust_policy(
        world.mdp,
        world.mean,
        world.factor,
        beta=beta,
        reference="uniform",
        tolerance=tolerance,
        max_iterations=5000,
        warm_start=warm,
    )


def _bare(world: World) -> float:
    """Seconds of one backward induction, as fast as ours is."""
    dynamics, rewards = Dynamics.of(world.mdp), world.mean.reshape(1, -1)
    return _timed(20 if world.mean.size <= 1_000 else 5, lambda: dynamics.induce(rewards))[0]


def _peak() -> float:
    """Megabytes that this process has taken at most."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _timed(repeats: int, run: Callable[[], Result]) -> tuple[float, Result]:
    best = float("inf")
    for _ in range(repeats):
        started = _Clock.read()
        result = run()
        best = min(best, _Clock.read() - started)
    return best, result


def _table(rows: list[Row]) -> str:
    names = list(rows[0])
    lines = [names, ["---:"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
