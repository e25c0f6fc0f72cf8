"""Personalisation that never hurts: every rank beside one model for everybody, on any data.

Claim: whatever rank is asked for, held-out log-loss is never more than 0.002 nats above that of the same estimator at
rank 0 (one model for everybody, items' own effects included): not for seen users, and not for unseen ones after any
number of answers. Where users do not differ (each comparison is given to a user at random), the permutation test and
the chosen rank say so in at least 95% of draws. Data: the folders that are named, and three simulated populations:
users who differ along three directions, users who do not differ, and users who do not differ choosing among few items
that are worth something beside their features. Prints Markdown.

Each part ends with its verdict; the exit status is 1 where one does not hold.

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
from app.evaluation.dataset import FEW_SHOT_SIZES
from app.evaluation.report import score
from app.evaluation.study import Newcomers, SharedModel, few_shot_scores
from app.learning import fit
from tests.support.preference_worlds import draw_choices, draw_world

RANKS: tuple[int | Literal["auto"], ...] = (1, 2, 4, 8, 16, "auto")
ALLOWED = 0.002
"""Nats a comparison."""
ALIKE = 0.95
"""Share of draws in which users who do not differ must be found alike."""
MOST_SHUFFLED = 50_000
"""Comparisons of the largest set that is shuffled many times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=200, help="of users given at random; 0 for none")
    parser.add_argument("--choices", type=int, default=40, help="of these draws for which the rank is chosen too")
    parser.add_argument("--simulated", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    sets = [
        *(read_dataset(folder) for folder in options.folders),
        *(simulated(options.seed) if options.simulated else ()),
    ]
    print("Log-loss of the model for everybody, and of every rank above it:\n")
    print("| data set | rank asked | served | seen users | " + " | ".join(f"q = {q}" for q in FEW_SHOT_SIZES) + " |")
    print("| --- | ---: | ---: | ---: |" + " ---: |" * len(FEW_SHOT_SIZES))
    worst = max(difference for dataset in sets for difference in compared(dataset, options.seed))
    safe = worst <= ALLOWED
    print(f"\n{verdict(safe)}: the largest difference is {worst:+.4f}; {ALLOWED} is allowed.\n", flush=True)
    if options.draws:
        print("Users who do not differ: the comparisons of a set, each given to a user at random.\n")
        print("| data set | draws | permutation test finds nothing | draws | rank 0 is chosen |")
        print("| --- | ---: | ---: | ---: | ---: |")
        draws = [shuffled(d, options) for d in sets if len(d) < MOST_SHUFFLED]
        least = min(share for both in draws for share in both)
        safe = safe and least >= ALIKE
        print(f"\n{verdict(least >= ALIKE)}: the lowest share is {least:.3f}; {ALIKE} is asked.")
    sys.exit(0 if safe else 1)


def verdict(holds: bool) -> str:  # noqa: FBT001
    return "Holds" if holds else "Does not hold"


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


def compared(dataset: Dataset, seed: int) -> Iterator[float]:
    """Every difference from the model for everybody; prints a row for each rank."""
    seen = np.unique(dataset.user[np.isin(dataset.split, [Part.LEARN, Part.TEST])])
    learn = dataset.part(Part.LEARN).renumbered(seen).comparisons(len(seen))
    test, newcomers = dataset.part(Part.TEST).renumbered(seen), Newcomers.of(dataset)

    def losses(rank: int | Literal["auto"]) -> tuple[int, list[float]]:
        fitted = SharedModel(fit(learn, rank=rank, rng=np.random.default_rng(seed), calibrate=False), len(seen))
        unseen = few_shot_scores(fitted, newcomers, progress=lambda _: None)
        return fitted.rank, [
            score(fitted.predict(test), test.user).log_loss,
            *(unseen[q].log_loss for q in FEW_SHOT_SIZES if unseen),
        ]

    def row(asked: str, served: int, cells: list[str]) -> None:
        print(f"| {dataset.name} | {asked} | {served} | {' | '.join(cells)} |", flush=True)

    _, base = losses(0)
    row("0", 0, [f"{loss:.4f}" for loss in base])
    for rank in RANKS:
        served, found = losses(rank)
        differences = [one - other for one, other in zip(found, base, strict=True)]
        row(str(rank), served, [f"{difference:+.4f}" for difference in differences])
        yield from differences


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
