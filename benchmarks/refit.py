"""How long a refit takes and how much memory, against the least that any method could do in a pass over the data.

Claim: a cold fit of 100,000 users x 20 comparisons at a given rank, to convergence, takes no longer than 100 bare
projected gathers `(X @ B)[chosen] - (X @ B)[rejected]`; a million users fit into 12 GB; time per comparison hardly
grows with the number of users. Beside what the process takes anyway, a fit takes about three times its input, whatever
the number of features. Then 1% of new comparisons come in, and a warm refit is a share of the cold one. Data:
simulated (`tests/support/preference_worlds.py`), seeded; every size runs in a process of its own, so that the peak
memory is its own. Prints JSON.

    python benchmarks/refit.py --users 100000
    python benchmarks/refit.py --users 2000 --items 3000 --dim 4096
    python benchmarks/refit.py --growth          # 10,000 and 1,000,000 users, and the growth from one to the other
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, FitProgress, fit, principal_angle_distance
from tests.support.preference_worlds import World, draw_choices, draw_world

GROWTH_USERS = (10_000, 1_000_000)
GATHERS = 7
NEW_SHARE = 0.01
"""Of the comparisons that only the warm refit has."""


def main() -> None:
    options = _options()
    if not options.growth:
        print(json.dumps(measure(options), indent=2))
        return
    sizes = [_in_own_process(users) for users in GROWTH_USERS]
    growth = sizes[1]["nanoseconds_per_comparison"] / sizes[0]["nanoseconds_per_comparison"]
    print(json.dumps({"sizes": sizes, "growth": round(growth, 3)}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--comparisons", type=int, default=20, help="of each user")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--appeal", type=float, default=0.3, help="spread of what items are worth beside their features"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", action="store_true", help="10,000 and 1,000,000 users")
    return parser.parse_args()


def _in_own_process(users: int) -> dict[str, Any]:
    arguments = [a for a in sys.argv[1:] if a != "--growth"]
    command = [sys.executable, __file__, *arguments, "--users", str(users)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    _compile()
    idle = _peak_bytes()
    rng = np.random.default_rng(options.seed)
    world = draw_world(
        rng, users=options.users, items=options.items, dim=options.dim, rank=options.rank, appeal=options.appeal
    )
    everything = draw_choices(rng, world, options.comparisons)
    comparisons = everything.subset(rng.random(len(everything)) >= NEW_SHARE)
    before = _peak_bytes()
    gather = _bare_gather(world, comparisons)
    phases = _Phases()
    model = fit(comparisons, rank=options.rank, rng=rng, progress=phases)
    seconds = phases.seconds()
    whole, estimation = sum(seconds.values()), seconds["fitting"]
    warm_phases = _Phases()
    again = fit(everything, rank=options.rank, rng=rng, warm_start=model, progress=warm_phases)
    warm = sum(warm_phases.seconds().values())
    return {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "size": {name: getattr(options, name) for name in ("users", "comparisons", "items", "dim", "rank", "appeal")},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "passes": model.passes,
        "converged": model.converged,
        "bare_gather_seconds": round(gather, 4),
        "fitting_in_gathers": round(estimation / gather, 1),
        "everything_in_gathers": round(whole / gather, 1),
        "warm_fitting_in_gathers": round(warm_phases.seconds()["fitting"] / gather, 1),
        "warm_passes": again.passes,
        "warm_fitting_share_of_cold": round(warm_phases.seconds()["fitting"] / estimation, 3),
        "warm_share_of_cold": round(warm / whole, 3),
        "nanoseconds_per_comparison": round(1e9 * estimation / len(comparisons), 1),
        "peak_gigabytes": round(_peak_bytes() / 1e9, 3),
        "data_gigabytes": round(before / 1e9, 3),
        "process_gigabytes": round(idle / 1e9, 3),
        "input_gigabytes": round(_input_bytes(everything) / 1e9, 3),
        "distance_to_true_subspace": round(principal_angle_distance(model.raw_subspace(), world.B), 4),
    }


def _compile() -> None:
    """A tiny fit with threads: compiling the loops is paid once an installation, not once a refit."""
    world = draw_world(np.random.default_rng(1), users=2500, items=50, dim=4, rank=2, appeal=0.3)
    fit(draw_choices(np.random.default_rng(2), world, 10), rank=2)


def _bare_gather(world: World, comparisons: Comparisons) -> float:
    """Median seconds of one projected gather."""
    chosen, rejected = comparisons.rows[::2].copy(), comparisons.rows[1::2].copy()
    seconds = []
    for _ in range(GATHERS):
        begun = time.perf_counter()
        P = world.X @ world.B
        P[chosen] - P[rejected]
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


class _Phases:
    """When each phase of a fit reported last."""

    def __init__(self) -> None:
        self.begun, self.last = time.perf_counter(), dict[str, float]()

    def __call__(self, state: FitProgress) -> None:
        self.last[state.phase] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """A phase lasts from the last report of the one before to its own last one."""
        ends = sorted(self.last.items(), key=lambda one: one[1])
        begins = [self.begun, *(end for _, end in ends[:-1])]
        return {name: end - begin for (name, end), begin in zip(ends, begins, strict=True)}


def _input_bytes(c: Comparisons) -> int:
    return sum(a.nbytes for a in (c.items, c.Y, c.indptr, c.rows, c.cols, c.signs, c.user, c.label, c.weight))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
