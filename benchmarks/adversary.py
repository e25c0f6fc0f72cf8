"""What one user who answers 100,000 times does to everybody else, beside the noise that is there anyway.

    python benchmarks/adversary.py [--answers 100000] [--users 100] [--draws 5]

Claim: whatever they answer, others' rewards and the subspace move less than they do where the same people had answered
by other dice, or where other people of their kind were there (the bootstrap over users), and others' fresh answers are
predicted as well: `app/learning/bounded.py` is why. Data: 100 simulated users whose truth is known. The adversary's
answers contradict each other or everybody: by chance; each pair both ways; always against what most want; or all along
one direction in which others do not differ, which turns a subspace the most.

Others' adapters rest on the same answers of theirs under every model, so that only what is shared differs. Prints JSON:
medians and the most over `--draws` truths. Status 1 where an adversary's median is not below both noises'.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation.truth import CatalogueWorld, draw_catalogue
from app.learning import Comparisons, Model, fit, fold_in_users, largest_share, prepare, principal_angle_distance
from app.learning.arrays import Int, Real

RANK = 3
DIM = 12
PER_USER = 25
FRESH = 25
"""Answers of each user that nothing was fitted on."""
SMALLEST = 1e-12

Pairs = tuple[Int, Int]
"""Rows of what was chosen and of what was not."""


def by_chance(_: CatalogueWorld, pairs: Pairs, rng: np.random.Generator) -> Pairs:
    return turned(pairs, rng.random(len(pairs[0])) < 1 / 2)


def both_ways(_: CatalogueWorld, pairs: Pairs, __: np.random.Generator) -> Pairs:
    first, second = (rows[: len(rows) // 2] for rows in pairs)
    return np.append(first, second), np.append(second, first)


def against(world: CatalogueWorld, pairs: Pairs, _: np.random.Generator) -> Pairs:
    worth = world.rewards.mean(axis=0)
    return turned(pairs, worth[pairs[0]] > worth[pairs[1]])


def crosswise(world: CatalogueWorld, pairs: Pairs, rng: np.random.Generator) -> Pairs:
    B = world.truth.B
    across = rng.standard_normal(len(B))
    worth = world.X @ (across - B @ (B.T @ across))
    return turned(pairs, worth[pairs[0]] < worth[pairs[1]])


ADVERSARIES: dict[str, Callable[[CatalogueWorld, Pairs, np.random.Generator], Pairs]] = {
    "by chance": by_chance,
    "both ways": both_ways,
    "against": against,
    "crosswise": crosswise,
}


@dataclass(frozen=True, slots=True)
class Moved:
    """From the model without the adversary."""

    reward: float
    """Root mean square over users and items, as a part of the rewards' own spread."""
    subspace: float
    """Principal angle distance."""
    log_loss: float
    """Of fresh answers, in nats an answer more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--users", type=int, default=100)
    options = parser.parse_args()
    prepare()
    told = setting(options.users, options.answers, options.draws)
    print(json.dumps(told, indent=1))
    sys.exit(0 if told["within_noise"] else 1)


def setting(n_users: int, answers: int, draws: int) -> dict[str, object]:
    found: dict[str, list[Moved]] = {}
    for seed in range(draws):
        for name, moved in one_draw(n_users, answers, np.random.default_rng(seed)).items():
            found.setdefault(name, []).append(moved)
            print(n_users, seed, name, moved, file=sys.stderr, flush=True)
    noises = [name for name in found if name.startswith("noise")]
    return {
        "users": n_users,
        "answers_of_each": PER_USER,
        "answers_of_the_adversary": answers,
        "most_share_of_the_adversary": round(largest_share(n_users + 1), 4),
        "draws": draws,
        "moved": {name: summary(those) for name, those in found.items()},
        "within_noise": all(
            median(found[name], what) < min(median(found[noise], what) for noise in noises)
            for name in ADVERSARIES
            for what in ("reward", "subspace")
        ),
    }


def summary(those: list[Moved]) -> dict[str, list[float]]:
    """The median and the most."""
    return {
        name: [round(median(those, name), 4), round(max(getattr(one, name) for one in those), 4)]
        for name in ("reward", "subspace", "log_loss")
    }


def median(those: list[Moved], name: str) -> float:
    return float(np.median([getattr(one, name) for one in those]))


def one_draw(n_users: int, answers: int, rng: np.random.Generator) -> dict[str, Moved]:
    everybody = draw_catalogue(rng, n_users=n_users, per_user=2 * PER_USER + FRESH, dim=DIM, rank=RANK)
    all_said = everybody.data.comparisons(n_users)
    place = np.tile(np.arange(2 * PER_USER + FRESH), n_users)
    said = all_said.subset(np.flatnonzero(place < PER_USER))
    again = all_said.subset(np.flatnonzero((place >= PER_USER) & (place < 2 * PER_USER)))
    fresh = all_said.subset(np.flatnonzero(place >= 2 * PER_USER))
    base = fitted(said)

    def moved(model: Model) -> Moved:
        return difference(everybody, said, fresh, base, model)

    noise = {"the same people, other answers": again, "other people of their kind": drawn_again(said, rng)}
    crowds = {name: joined(said, answered(everybody, name, answers, rng)) for name in ADVERSARIES}
    return {
        **{f"noise: {name}": moved(fitted(one)) for name, one in noise.items()},
        **{name: moved(fitted(crowd)) for name, crowd in crowds.items()},
    }


def fitted(comparisons: Comparisons) -> Model:
    # Calibration changes what is told of the doubt, and nothing that is measured here; no answer depends on others.
    return fit(comparisons, rank=RANK, dependence=0.0, rng=np.random.default_rng(0), calibrate=False)


def answered(world: CatalogueWorld, name: str, n: int, rng: np.random.Generator) -> Pairs:
    first = rng.integers(0, len(world.X), n)
    second = (first + rng.integers(1, len(world.X), n)) % len(world.X)
    return ADVERSARIES[name](world, (first, second), rng)


def turned(pairs: Pairs, swap: np.ndarray) -> Pairs:
    first, second = pairs
    return np.where(swap, second, first), np.where(swap, first, second)


def joined(said: Comparisons, pairs: Pairs) -> Comparisons:
    """With one more user, who has said this."""
    chosen, rejected = pairs
    theirs = said.rows.reshape(-1, 2)
    return Comparisons.from_pairs(
        said.items,
        np.append(theirs[:, 0], chosen),
        np.append(theirs[:, 1], rejected),
        user=np.append(said.user, np.full(len(chosen), said.n_users)),
        n_users=said.n_users + 1,
    )


def drawn_again(said: Comparisons, rng: np.random.Generator) -> Comparisons:
    """The bootstrap over users: as many of the same kind, drawn with replacement."""
    times = np.bincount(rng.integers(0, said.n_users, said.n_users), minlength=said.n_users)
    kept = said.subset(np.flatnonzero(times[said.user] > 0))
    return replace(kept, weight=kept.weight * times[kept.user])


def difference(world: CatalogueWorld, said: Comparisons, fresh: Comparisons, base: Model, model: Model) -> Moved:
    before, after = rewards(base, world, said), rewards(model, world, said)
    return Moved(
        reward=float(np.sqrt(np.mean((after - before) ** 2)) / before.std()),
        subspace=principal_angle_distance(directions(base), directions(model)),
        log_loss=log_loss(model, said, fresh) - log_loss(base, said, fresh),
    )


def rewards(model: Model, world: CatalogueWorld, said: Comparisons) -> Real:
    """(N, M) of everybody's answers at what the model shares, as differences from the mean item."""
    folded, mean = fold_in_users(model, said), np.full(len(world.X), 1 / len(world.X))
    return np.array([model.rewards(folded[user], world.X).minus(mean).mean for user in range(said.n_users)])


def directions(model: Model) -> Real:
    """(d1, k) of the features as they were given."""
    return np.asarray(model.B / model.features.scale[:, None])


def log_loss(model: Model, said: Comparisons, fresh: Comparisons) -> float:
    return float(-np.log(np.clip(model.predict(fresh, fold_in_users(model, said)), SMALLEST, 1.0)).mean())


if __name__ == "__main__":
    main()
