"""How long a user's adapter takes at a published model: one user, a thousand at once, and their predictions.

Claim: fold-in of one user with 32 comparisons at rank 8 takes at most 200 microseconds, a batch of 1,000 users at most
20 microseconds each. Data: simulated (`tests/support/preference_worlds.py`), seeded; a model of 2,000 users over 20,000
items with 64 features and effects of their own. Prints JSON: medians over repetitions, and the 5th and 95th percentile,
in microseconds a user; arrays come as the service holds them, the few items that were compared.

    python benchmarks/fold_in.py
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, fit, fold_in, fold_in_users, prepare
from tests.support.preference_worlds import World, draw_choices, draw_world


def main() -> None:
    options = _options()
    prepare()
    rng = np.random.default_rng(options.seed)
    world = draw_world(
        rng, users=options.users, items=options.items, dim=options.dim, rank=options.rank, appeal=options.appeal
    )
    everybody = draw_choices(rng, world, options.comparisons)
    model = fit(everybody, rank=options.rank, rng=rng, calibrate=False)
    batch = draw_choices(rng, _first(world, options.batch), options.comparisons)
    alone = _compact(batch.of_users([0]))
    found = {
        "fold_in": _measure(lambda: fold_in(model, alone), options.repetitions),
        "fold_in_of_one_in_a_batch": _measure(lambda: fold_in_users(model, batch), 20, users=options.batch),
    }
    print(
        json.dumps(
            {
                "machine": {"processor": platform.processor() or platform.machine()},
                "versions": {"python": platform.python_version(), "numpy": np.__version__},
                "size": {n: getattr(options, n) for n in ("users", "comparisons", "items", "dim", "rank", "batch")},
                "rank_of_the_model": model.rank,
                "microseconds_a_user": found,
            },
            indent=2,
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000, help="of the fit")
    parser.add_argument("--batch", type=int, default=1_000, help="users folded in at once")
    parser.add_argument("--comparisons", type=int, default=32, help="of each user")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--appeal", type=float, default=0.3)
    parser.add_argument("--repetitions", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _first(world: World, users: int) -> World:
    return World(world.X, world.theta_0, world.B, world.W[:users], world.appeal)


def _compact(comparisons: Comparisons) -> Comparisons:
    """Only the items that were compared."""
    items, rows = np.unique(comparisons.rows, return_inverse=True)
    pairs = rows.reshape(-1, 2)
    return Comparisons.from_pairs(comparisons.X[items], pairs[:, 0], pairs[:, 1], user=comparisons.user)


def _measure(call: Callable[[], object], repetitions: int, users: int = 1) -> dict[str, Any]:
    call()
    seconds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    low, median, high = (1e6 * float(v) / users for v in np.percentile(seconds, [5, 50, 95]))
    return {"median": round(median, 1), "p5": round(low, 1), "p95": round(high, 1)}


if __name__ == "__main__":
    main()
