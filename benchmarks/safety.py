"""Personalisation that never hurts: every rank beside one model for everybody, on any data.

Claim: whatever rank is asked for, held-out log-loss is never more than 0.002 nats above that of the same estimator at
rank 0 (one model for everybody, items' own effects included): not for seen users, and not for unseen ones after any
number of answers. Where users do not differ (each comparison is given to a user at random), the permutation test and
the chosen rank say so in at least 95% of draws. Data: the folders that are named, and three simulated populations:
users who differ along three directions, users who do not differ, and users who do not differ choosing among few items
that are worth something beside their features. Prints Markdown.

A folder's own split has some fifty to two hundred unseen users, of whom a difference after one or two answers is known
within 0.01 or 0.02. So sets of at most `--folded` comparisons are fitted `--folds` times, and every user is once among
the unseen, one at a time where they are as few; every other set has its own split. All differences have their standard
error, over users; a handful of them has no spread to speak of, so what was found of them is said of nobody else.

Each part ends with its verdict; the exit status is 3 where one does not hold.

    python benchmarks/safety.py app/cli/data/contracts [DIR ...] [--draws 200]
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import Dataset, Part, derive_split, read_dataset
from app.evaluation.dataset import FEW_SHOT_SIZES, Int, Real
from app.evaluation.report import losses
from app.evaluation.study import Newcomers, SharedModel
from app.learning import fit
from tests.support.preference_worlds import draw_choices, draw_world

RANKS: tuple[int | Literal["auto"], ...] = (1, 2, 4, 8, 16, "auto")
ALLOWED = 0.002
"""Nats a comparison."""
ALIKE = 0.95
"""Share of draws in which users who do not differ must be found alike."""
TOLD_AND_TESTED = ((Part.LEARN, Part.ADAPT), (Part.TEST, Part.UNSEEN_TEST))
"""Of seen and of unseen users: what is learnt from, and what is tested."""
HANDFUL = 20
"""Users: fewer speak for themselves alone."""
UNSAFE = 3
"""Exit status of a claim that does not hold: an error has another one."""
MOST_SHUFFLED = 50_000
"""Comparisons of the largest set that is shuffled many times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=200, help="of users given at random; 0 for none")
    parser.add_argument("--choices", type=int, default=40, help="of these draws for which the rank is chosen too")
    parser.add_argument("--simulated", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folds", type=int, default=5, help="fits of a small set; 1 for its own split")
    parser.add_argument(
        "--folded", type=int, default=20_000, help="comparisons of the largest set that counts as small"
    )
    options = parser.parse_args()
    sets = [
        *(read_dataset(folder) for folder in options.folders),
        *(simulated(options.seed) if options.simulated else ()),
    ]
    print("Log-loss of the model for everybody, and of every rank above it (standard error):\n")
    print("| data set | rank asked | served | seen users | " + " | ".join(f"q = {q}" for q in FEW_SHOT_SIZES) + " |")
    print("| --- | ---: | ---: | ---: |" + " ---: |" * len(FEW_SHOT_SIZES))
    worst, error = max(gap for dataset in sets for gap in compared(dataset, options))
    safe = worst <= ALLOWED
    found = f"the largest difference is {worst:+.4f}, standard error {error:.4f}; {ALLOWED} is allowed"
    handful = [
        f" {one.name} has {users_of(one)} users, who speak for nobody else." for one in sets if users_of(one) < HANDFUL
    ]
    print(f"\n{verdict(safe)}: {found}.{''.join(handful)}\n", flush=True)
    small = [dataset for dataset in sets if len(dataset) < MOST_SHUFFLED]
    if options.draws and small:
        print("Users who do not differ: the comparisons of a set, each given to a user at random.\n")
        print("| data set | draws | permutation test finds nothing | draws | rank 0 is chosen |")
        print("| --- | ---: | ---: | ---: | ---: |")
        draws = [shuffled(dataset, options) for dataset in small]
        least = min(share for both in draws for share in both)
        safe = safe and least >= ALIKE
        print(f"\n{verdict(least >= ALIKE)}: the lowest share is {least:.3f}; {ALIKE} is asked.")
    sys.exit(0 if safe else UNSAFE)


def verdict(holds: bool) -> str:  # noqa: FBT001
    return "Holds" if holds else "Does not hold"


def users_of(dataset: Dataset) -> int:
    return len(np.unique(dataset.user))


def simulated(seed: int) -> Iterator[Dataset]:
    """Named populations of 400 users with 30 choices each."""
    kinds = {
        "simulated, rank 3": {"items": 300, "dim": 20, "rank": 3, "appeal": 0.0},
        "simulated, all alike": {"items": 300, "dim": 20, "rank": 0, "appeal": 0.0},
        "simulated, all alike, few items": {"items": 40, "dim": 20, "rank": 0, "appeal": 1.0},
    }
    for name, kind in kinds.items():
        rng = np.random.default_rng(seed)
        world = draw_world(rng, users=400, **kind)  # type: ignore[arg-type]
        said = draw_choices(rng, world, 30)
        chosen, rejected = said.rows[::2].copy(), said.rows[1::2].copy()
        yield Dataset(
            name=name,
            X=world.X,
            contexts=None,
            user=said.user,
            chosen=chosen,
            rejected=rejected,
            context=None,
            split=derive_split(said.user, chosen),
            split_rule="derived",
        )


def compared(dataset: Dataset, options: argparse.Namespace) -> Iterator[tuple[float, float]]:
    """Every difference from the model for everybody, with its standard error; prints a row for each rank."""
    folds = min(options.folds, users_of(dataset)) if len(dataset) <= options.folded else 1
    versions = list(turns(dataset, folds, np.random.default_rng(options.seed)))

    def row(asked: str, served: set[int], cells: list[str]) -> None:
        ranks = ", ".join(str(rank) for rank in sorted(served))
        print(f"| {dataset.name} | {asked} | {ranks} | {' | '.join(cells)} |", flush=True)

    _, base = measured(versions, 0, options.seed)
    row("0", {0}, [f"{by_user.sum() / counts.sum():.4f}" for by_user, counts in base])
    for rank in RANKS:
        served, found = measured(versions, rank, options.seed)
        gaps = [difference(one - other, counts) for (one, counts), (other, _) in zip(found, base, strict=True)]
        row(str(rank), served, [f"{gap:+.4f} ({error:.4f})" for gap, error in gaps])
        yield from gaps


def turns(dataset: Dataset, folds: int, rng: np.random.Generator) -> Iterator[Dataset]:
    """The set with its own split, or so often that every user is once among the unseen, the others being seen."""
    if folds == 1:
        yield dataset
        return
    turn = rng.permutation(int(dataset.user.max()) + 1) % folds
    told, tested = (np.isin(dataset.split, parts) for parts in TOLD_AND_TESTED)
    for fold in range(folds):
        unseen = turn[dataset.user] == fold
        told_as, tested_as = (np.where(unseen, *parts[::-1]) for parts in TOLD_AND_TESTED)
        yield replace(dataset, split=np.select([told, tested], [told_as, tested_as], Part.UNUSED))


def measured(
    versions: list[Dataset], rank: int | Literal["auto"], seed: int
) -> tuple[set[int], list[tuple[Real, Real]]]:
    """The ranks served; for seen users and after every number of answers, each user's summed loss and comparisons."""
    n_users, served = 1 + max(int(version.user.max()) for version in versions), set[int]()
    total = np.zeros((1 + len(FEW_SHOT_SIZES), 2, n_users))
    for version in versions:
        seen = np.unique(version.user[np.isin(version.split, [Part.LEARN, Part.TEST])])
        learn = version.part(Part.LEARN).renumbered(seen).comparisons(len(seen))
        fitted = SharedModel(fit(learn, rank=rank, rng=np.random.default_rng(seed), calibrate=False), len(seen))
        test, newcomers = version.part(Part.TEST), Newcomers.of(version)
        total[0] += by_user(fitted.predict(test.renumbered(seen)), test.user, n_users)
        unseen = version.part(Part.UNSEEN_TEST).user
        for place, size in enumerate(FEW_SHOT_SIZES, start=1):
            after = fitted.predict_after(newcomers.first(size), newcomers.test, n_users=newcomers.n_users)
            total[place] += by_user(after, unseen, n_users)
        served.add(fitted.rank)
    return served, [(loss, counts) for loss, counts in total if counts.any()]


def by_user(prob: Real, user: Int, n_users: int) -> Real:
    """(2, n_users) sums of the log-loss, and comparisons."""
    return np.stack([np.bincount(user, losses(prob), n_users), np.bincount(user, minlength=n_users)])


def difference(by_user: Real, counts: Real) -> tuple[float, float]:
    """A comparison's mean, and its standard error with users as the sampling unit."""
    mean = float(by_user.sum() / counts.sum())
    return mean, float(np.sqrt(((by_user - mean * counts) ** 2).sum()) / counts.sum())


def shuffled(dataset: Dataset, options: argparse.Namespace) -> list[float]:
    """The share of draws in which the permutation test finds nothing, and in which rank 0 is chosen; prints a row."""
    learn = dataset.part(Part.LEARN)
    users = np.unique(learn.user)
    learn = learn.renumbered(users)
    rng = np.random.default_rng(options.seed)
    nothing = chosen = 0
    for draw in range(options.draws):
        order = rng.permutation(len(learn))
        given = replace(learn, user=learn.user[order]).comparisons(len(users))
        rank: int | Literal["auto"] = "auto" if draw < options.choices else 0
        model = fit(given, rank=rank, rng=np.random.default_rng([options.seed, draw]), calibrate=False)
        nothing += model.diagnostics is not None and model.diagnostics.permutation_rank == 0
        chosen += rank == "auto" and model.rank == 0
    shares = [nothing / options.draws, chosen / options.choices]
    print(f"| {dataset.name} | {options.draws} | {shares[0]:.3f} | {options.choices} | {shares[1]:.3f} |", flush=True)
    return shares


if __name__ == "__main__":
    main()
