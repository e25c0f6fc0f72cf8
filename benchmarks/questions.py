"""How many answers are enough when the service chooses what to ask, against questions drawn at random.

Claim: with at most 10 chosen questions a person who was not in the fit is predicted as accurately as with 16 drawn at
random. Data: the unseen users of data set folders. What they said in advance is all that can be asked, in either order,
so that the two come together as a person's questions run out; each choice sees the answers before it, as `/queries`
does. Prints one Markdown table a data set: accuracy and log-loss on the same held-out comparisons, mean +/- standard
deviation over draws for random questions.

    python benchmarks/questions.py DIR [DIR ...]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import Dataset, Part, read_dataset
from app.evaluation.report import Score, score
from app.evaluation.study import Newcomers
from app.learning import Adapter, Model, fit, fold_in_users, most_informative_pairs

SIZES = (1, 2, 4, 6, 8, 10, 12, 16)
Int = NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=8, help="of the random questions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for folder in options.folders:
        print(compare(read_dataset(folder), draws=options.draws, seed=options.seed), end="\n\n")


def compare(dataset: Dataset, *, draws: int, seed: int) -> str:
    seen = np.unique(dataset.user[np.isin(dataset.split, [Part.LEARN, Part.TEST])])
    learn = dataset.part(Part.LEARN).renumbered(seen).comparisons(len(seen))
    model = fit(learn, rng=np.random.default_rng(seed), calibrate=False)
    people = everything(dataset)
    own = [np.flatnonzero(people.adapt.user == user) for user in range(people.n_users)]
    orders = [random_order(own, np.random.default_rng([seed, draw])) for draw in range(draws)]
    chosen = chosen_order(model, people, own, np.random.default_rng(seed))
    possible = np.median([len(one) for one in own])
    lines = [
        f"`{dataset.name}`: {people.n_users} people, {possible:.0f} possible questions each; rank {model.rank}.",
        "",
        "| questions | accuracy, chosen | at random | log-loss, chosen | at random |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in SIZES:
        best = measured(model, people, chosen, size)
        drawn = [measured(model, people, order, size) for order in orders]
        accuracy, loss = (np.array([getattr(one, name) for one in drawn]) for name in ("accuracy", "log_loss"))
        lines.append(
            f"| {size} | {best.accuracy:.4f} | {accuracy.mean():.4f} +/- {accuracy.std():.4f} "
            f"| {best.log_loss:.4f} | {loss.mean():.4f} +/- {loss.std():.4f} |"
        )
    return "\n".join(lines)


def everything(dataset: Dataset) -> Newcomers:
    """The unseen users, each question once."""
    people = Newcomers.of(dataset)
    a = people.adapt
    sides = np.sort(np.column_stack([a.chosen, a.rejected]), axis=1)
    context = np.zeros(len(a), dtype=np.int64) if a.context is None else a.context
    once = np.unique(np.column_stack([a.user, sides, context]), axis=0, return_index=True)[1]
    return replace(people, adapt=a.take(np.sort(once)))


def random_order(own: list[Int], rng: np.random.Generator) -> list[Int]:
    return [rng.permutation(rows) for rows in own]


def chosen_order(model: Model, people: Newcomers, own: list[Int], rng: np.random.Generator) -> list[Int]:
    """Each user's questions, most informative first, every answer folded in before the next is chosen."""
    asked: list[list[int]] = [[] for _ in own]
    for _ in range(max(SIZES)):
        rows = np.array([row for user in asked for row in user], dtype=np.int64)
        adapters = fold_in_users(model, people.adapt.take(rows).comparisons(people.n_users))
        for user, mine in enumerate(own):
            left = np.setdiff1d(mine, asked[user])
            if len(left):
                asked[user].append(next_question(model, adapters[user], people.adapt, left, rng))
    return [np.array(rows, dtype=np.int64) for rows in asked]


def next_question(model: Model, adapter: Adapter, said: Dataset, left: Int, rng: np.random.Generator) -> int:
    """The row among `left` whose question teaches most; contexts are asked about one at a time."""
    best, information = int(left[0]), -1.0
    contexts = [None] if said.context is None else np.unique(said.context[left]).tolist()
    for context in contexts:
        rows = left if context is None else left[said.context[left] == context]
        pairs = np.column_stack([said.chosen[rows], said.rejected[rows]])
        items, local = np.unique(pairs, return_inverse=True)
        local = local.reshape(-1, 2)
        (first,) = most_informative_pairs(
            model,
            adapter,
            said.X[items],
            1,
            among=local,
            context=None if context is None or said.contexts is None else said.contexts[context],
            rng=rng,
        )
        if first.information > information:
            place = np.flatnonzero((np.sort(local, axis=1) == [first.first, first.second]).all(axis=1))[0]
            best, information = int(rows[place]), first.information
    return best


def measured(model: Model, people: Newcomers, order: list[Int], size: int) -> Score:
    rows = np.concatenate([rows[:size] for rows in order])
    adapters = fold_in_users(model, people.adapt.take(rows).comparisons(people.n_users))
    return score(model.predict(people.test.comparisons(people.n_users), adapters), people.test.user)


if __name__ == "__main__":
    main()
