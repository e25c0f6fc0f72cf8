"""How long a certified robust policy takes, against the whole second-order cone program in Clarabel.

Claim: the planner reaches a certified relative gap of 1e-4 many times faster than a general conic solver on the same
problem, at every radius, and finds the same optimum. Data: random MDPs (Dirichlet transitions to a few successors,
Gaussian rewards and factor), seeded. Rival: Clarabel, direct Python interface, default settings; building its matrices
is not counted. Prints JSON.

    python benchmarks/policy.py --states 100 --actions 10 --horizon 20 --parameters 16
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import clarabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.policy import RobustPolicy, robust_policy
from tests.support.policy_worlds import World, conic_program, random_world

Result = TypeVar("Result")


def main() -> None:
    options = _options()
    results = [_compare(options, seed, beta) for seed in range(options.seeds) for beta in options.betas]
    print(
        json.dumps(
            {
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "python": platform.python_version(),
                },
                "versions": {"numpy": np.__version__, "clarabel": clarabel.__version__},
                "size": {
                    name: getattr(options, name)
                    for name in ("states", "actions", "horizon", "parameters", "successors")
                },
                "tolerance": options.tolerance,
                "results": results,
                "least_ratio": min(result["ratio"] for result in results) if results[0]["ratio"] else None,
            },
            indent=2,
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=100)
    parser.add_argument("--actions", type=int, default=10)
    parser.add_argument("--horizon", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=16, help="q, the dimensions of the uncertainty")
    parser.add_argument("--successors", type=int, default=5)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.5, 2.0, 5.0, 1000.0])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    parser.add_argument("--without-rival", action="store_true", help="for sizes that Clarabel takes too long for")
    return parser.parse_args()


def _compare(options: argparse.Namespace, seed: int, beta: float) -> dict[str, Any]:
    world = random_world(
        seed,
        n_states=options.states,
        n_actions=options.actions,
        horizon=options.horizon,
        q=options.parameters,
        successors=options.successors,
    )
    world = replace(world, reference=world.mdp.uniform_policy())
    seconds, found = _timed(options.repeats, lambda: _plan(world, beta, options.tolerance))
    result = {
        "seed": seed,
        "beta": beta,
        "milliseconds": round(1e3 * seconds, 1),
        "iterations": found.iterations,
        "reason": found.reason,
        "relative_gap": found.relative_gap,
        "lower": found.lower,
        "upper": found.upper,
        "clarabel_milliseconds": None,
        "clarabel_optimum": None,
        "same_optimum": None,
        "ratio": None,
    }
    if not options.without_rival:
        program = conic_program(world, beta)
        rival_seconds, solution = _timed(options.repeats, lambda: program.solver().solve())
        optimum = program.optimum(solution)
        slack = options.tolerance * abs(optimum)
        result |= {
            "clarabel_milliseconds": round(1e3 * rival_seconds, 1),
            "clarabel_optimum": optimum,
            "same_optimum": bool(found.lower - slack <= optimum <= found.upper + slack),
            "ratio": round(rival_seconds / seconds, 1),
        }
    return result


def _plan(world: World, beta: float, tolerance: float) -> RobustPolicy:
    return robust_policy(
        world.mdp,
        world.mean,
        world.factor,
        beta=beta,
        reference=world.reference,
        tolerance=tolerance,
        max_iterations=5000,
    )


def _timed(repeats: int, run: Callable[[], Result]) -> tuple[float, Result]:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - started)
    return best, result


if __name__ == "__main__":
    main()
