"""Do 95% sets cover 95%, and are predicted probabilities true?

Claim: nominal 95% intervals of rewards, and 95% ellipsoids of adapters, cover 93 to 97% of the truth, for users of the
fit and for new ones, with few and with many comparisons a user, few and many features, in catalogues and in a small
decision process; and probabilities of fresh comparisons are calibrated. Two kinds of ellipsoids are not held to that:
those of ten comparisons and 64 features, where how much users differ is itself hardly known, and those of the decision
process, where one direction shows in no comparison and is left out, so that 97% is what 95% becomes. Data: simulated
users whose truth is known, the model's own kind of truth at its rank. Prints one Markdown table, a row a setting, means
over `--draws` truths.

    python benchmarks/calibration.py [--draws 4] [--only NAME ...]
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import catalogue_coverage, mdp_coverage, score
from app.evaluation.truth import draw_catalogue, draw_mdp
from app.learning import Calibration, fit, fold_in_users

LEVEL = 0.95
NEW_USERS = 100
FRESH = 20
"""Comparisons of each user of the fit that probabilities are checked on."""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    users: int
    comparisons: int
    rank: int
    dim: int | None = None
    """Of a catalogue; none stands for trajectories of a small decision process."""


SETTINGS = (
    Setting("d20-few", 300, 8, 3, 20),
    Setting("d20-some", 300, 20, 3, 20),
    Setting("d20-many", 300, 80, 3, 20),
    Setting("d64-few", 500, 10, 4, 64),
    Setting("d64-some", 500, 20, 4, 64),
    Setting("d64-many", 500, 80, 4, 64),
    Setting("mdp-few", 200, 8, 2),
    Setting("mdp-some", 200, 20, 2),
    Setting("mdp-many", 200, 80, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in SETTINGS])
    options = parser.parse_args()
    print(table(options.draws, options.only), flush=True)


def table(draws: int, only: list[str] | None = None) -> str:
    columns = (
        "setting|users|comparisons|features|intervals|of new users|ellipsoids|of new users|error|told|ECE|"
        "inflation|hidden spread|fit"
    )
    lines = ["| " + columns.replace("|", " | ") + " |", "| --- |" + " ---: |" * columns.count("|")]
    settings = [setting for setting in SETTINGS if only is None or setting.name in only]
    rows = [_row(setting, [_measure(setting, seed) for seed in range(draws)]) for setting in settings]
    return "\n".join([*lines, *rows])


@dataclass(frozen=True, slots=True)
class Measured:
    intervals: float
    new_intervals: float
    ellipsoids: float
    new_ellipsoids: float
    error: float
    told: float
    ece: float
    calibration: Calibration
    seconds: float


def _measure(setting: Setting, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    return _in_mdp(setting, rng) if setting.dim is None else _in_catalogue(setting, setting.dim, rng)


def _in_catalogue(setting: Setting, dim: int, rng: np.random.Generator) -> Measured:
    n, m = setting.users, setting.comparisons
    everybody = draw_catalogue(rng, n_users=n + NEW_USERS, per_user=m + FRESH, dim=dim, rank=setting.rank)
    seen, people = everybody.first(n, m), np.arange(n, n + NEW_USERS)
    begun = perf_counter()
    model = fit(seen.data.comparisons(n), rank=setting.rank, rng=rng)
    seconds = perf_counter() - begun
    new = everybody.first(n + NEW_USERS, m).data.renumbered(people)
    adapters = fold_in_users(model, new.comparisons(NEW_USERS))
    old = catalogue_coverage(model, seen, ((i, model.adapter(i)) for i in range(n)), level=LEVEL)
    fresh = catalogue_coverage(model, everybody, ((n + i, adapters[i]) for i in range(NEW_USERS)), level=LEVEL)
    place = np.tile(np.arange(m + FRESH), n)
    held_out = everybody.first(n, m + FRESH).data.take(np.flatnonzero(place >= m))
    ece = score(model.predict(held_out.comparisons(n)), held_out.user).ece
    return Measured(
        old.intervals, fresh.intervals, old.ellipsoids, fresh.ellipsoids, old.reward_error, old.reward_stderr, ece,
        model.calibration, seconds,
    )  # fmt: skip


def _in_mdp(setting: Setting, rng: np.random.Generator) -> Measured:
    n, m = setting.users, setting.comparisons
    everybody = draw_mdp(rng, n_users=n + NEW_USERS, per_user=m + FRESH, rank=setting.rank)
    seen = everybody.first(n, m)
    begun = perf_counter()
    model = fit(seen.comparisons, rank=setting.rank, rng=rng)
    seconds = perf_counter() - begun
    new = everybody.first(n + NEW_USERS, m).comparisons.of_users(np.arange(n, n + NEW_USERS))
    adapters = fold_in_users(model, new)
    old = mdp_coverage(model, seen, ((i, model.adapter(i)) for i in range(n)), level=LEVEL)
    fresh = mdp_coverage(model, everybody, ((n + i, adapters[i]) for i in range(NEW_USERS)), level=LEVEL)
    all_of_them = everybody.first(n, m + FRESH).comparisons
    place = np.arange(len(all_of_them)) - np.searchsorted(all_of_them.user, all_of_them.user)
    held_out = all_of_them.subset(np.flatnonzero(place >= m))
    ece = score(model.predict(held_out), held_out.user).ece
    return Measured(
        old.intervals, fresh.intervals, old.ellipsoids, fresh.ellipsoids, old.reward_error, old.reward_stderr, ece,
        model.calibration, seconds,
    )  # fmt: skip


def _row(setting: Setting, found: list[Measured]) -> str:
    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in found]))

    features = "states x actions" if setting.dim is None else str(setting.dim)
    cells = [setting.name, str(setting.users), str(setting.comparisons), features]
    cells += [f"{mean(n):.3f}" for n in ("intervals", "new_intervals", "ellipsoids", "new_ellipsoids")]
    cells += [f"{mean('error'):.2f}", f"{mean('told'):.2f}", f"{mean('ece'):.3f}"]
    inflation, spread = (np.mean([getattr(one.calibration, n) for one in found]) for n in ("inflation", "spread"))
    return "| " + " | ".join([*cells, f"{inflation:.2f}", f"{spread:.2f}", f"{mean('seconds'):.1f} s"]) + " |"


if __name__ == "__main__":
    main()
