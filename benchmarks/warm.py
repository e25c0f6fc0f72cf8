"""A refit after a little new feedback, from the published model.

Claim: after 1% new comparisons a refit from the published model costs a small fraction of one from nothing, and
predicts as well. Data: simulated users of a known truth, and their further choices to test on. Rival: the same fit
without the published model. Prints JSON, with the seconds of each fit by phase.

    python benchmarks/warm.py [--users 5000] [--comparisons 20]
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, FitProgress, Model, evaluate_predictions, fit
from tests.support.preference_worlds import draw_choices, draw_world

NEW = 0.01
"""Share of the comparisons that the published model has not seen."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--rank", type=int, default=4, help="of the truth; it is not told to the fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    world = draw_world(rng, users=options.users, items=options.items, dim=options.dim, rank=options.rank)
    said, test = draw_choices(rng, world, options.comparisons), draw_choices(rng, world, 5)
    fit(said.subset(np.arange(200)), rank=1, calibrate=False)
    published, _ = timed(said.subset(rng.random(len(said)) >= NEW), None)
    found = {"cold": timed(said, None), "warm": timed(said, published)}
    told = {
        name: {
            "rank": model.rank,
            "passes": model.passes,
            "log_loss": round(evaluate_predictions(model.predict(test), test.label).log_loss, 5),
            "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
        }
        for name, (model, seconds) in found.items()
    }
    whole = {name: sum(seconds.values()) for name, (_, seconds) in found.items()}
    print(json.dumps({"size": vars(options), **told, "warm_share": round(whole["warm"] / whole["cold"], 3)}, indent=2))


def timed(comparisons: Comparisons, published: Model | None) -> tuple[Model, dict[str, float]]:
    """The fit, and the seconds that its phases took."""
    seconds: dict[str, float] = {}
    last = perf_counter()

    def progress(state: FitProgress) -> None:
        nonlocal last
        now = perf_counter()
        seconds[state.phase] = seconds.get(state.phase, 0.0) + now - last
        last = now

    return fit(comparisons, warm_start=published, progress=progress), seconds


if __name__ == "__main__":
    main()
