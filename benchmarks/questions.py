"""How many answers are enough when the service chooses what to ask, against questions drawn at random.

Claim: with at most 10 chosen questions a person who was not in the fit is predicted as accurately as with 16 drawn at
random. Data: everybody in data set folders, a fifth at a time: the model is fitted on what all others said to learn
from, and then meets this fifth. What they said in advance is all that can be asked, in either order, so that the two
come together as a person's questions run out; each choice sees the answers before it, as `/queries` does. Prints one
Markdown table a data set: accuracy and log-loss on the same held-out comparisons, mean +/- standard deviation over
draws for random questions; and how many chosen ones are as good as 16.

    python benchmarks/questions.py app/cli/data/contracts [DIR ...]
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import Dataset, Part, Score, read_dataset, score
from app.learning import Adapter, Model, fit, fold_in_users, most_informative_pairs

SIZES = (1, 2, 4, 6, 8, 10, 12, 16)
FOLDS = 5
ENOUGH = 20
"""Questions that a person must at least have answered, to be asked some of them."""
LEARN, TEST = (Part.LEARN, Part.ADAPT), (Part.TEST, Part.UNSEEN_TEST)
Real = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Persons 0, 1, 2, ... whom the model was not fitted on."""

    model: Model
    said: Dataset
    """Each question once."""
    test: Dataset
    n: int

    def questions(self) -> list[Int]:
        """Each person's rows of what was said."""
        return [np.flatnonzero(self.said.user == user) for user in range(self.n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=8, help="of the random questions")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the fifths are met")
    parser.add_argument("--rank", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for folder in options.folders:
        dataset = read_dataset(folder)
        print(compare(dataset, draws=options.draws, seed=options.seed, folds=options.folds, rank=options.rank), "\n")


def compare(dataset: Dataset, *, draws: int, seed: int, folds: int = FOLDS, rank: str = "auto") -> str:
    groups = [strangers(dataset, fold, seed=seed, rank=rank) for fold in range(folds)]
    people = sum(group.n for group in groups)
    if not people:
        return f"`{dataset.name}`: nobody answered {ENOUGH} different questions."
    chosen = [chosen_order(group, np.random.default_rng(seed)) for group in groups]
    drawn = [
        [random_order(group, np.random.default_rng([seed, draw, fold])) for fold, group in enumerate(groups)]
        for draw in range(draws)
    ]
    best = {size: measured(groups, chosen, size) for size in SIZES}
    random = {size: [measured(groups, orders, size) for orders in drawn] for size in SIZES}
    possible = np.median([len(rows) for group in groups for rows in group.questions()])
    ranks = ", ".join(str(group.model.rank) for group in groups)
    lines = [
        f"`{dataset.name}`: {people} people, {possible:.0f} possible questions each; rank {ranks}.",
        "",
        "| questions | accuracy, chosen | at random | log-loss, chosen | at random |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in SIZES:
        accuracy, loss = (np.array([getattr(one, name) for one in random[size]]) for name in ("accuracy", "log_loss"))
        lines.append(
            f"| {size} | {best[size].accuracy:.4f} | {accuracy.mean():.4f} +/- {accuracy.std():.4f} "
            f"| {best[size].log_loss:.4f} | {loss.mean():.4f} +/- {loss.std():.4f} |"
        )
    goal = {name: float(np.mean([getattr(one, name) for one in random[16]])) for name in ("accuracy", "log_loss")}
    accurate = next((size for size in SIZES if best[size].accuracy >= goal["accuracy"]), None)
    sure = next((size for size in SIZES if best[size].log_loss <= goal["log_loss"]), None)
    lines += ["", f"As good as 16 at random: {accurate} chosen ones by accuracy, {sure} by log-loss."]
    return "\n".join(lines)


def strangers(dataset: Dataset, fold: int, *, seed: int, rank: str) -> People:
    """A fifth of everybody, and a model of all others."""
    users = np.random.default_rng(seed).permutation(dataset.n_users)
    met = np.zeros(dataset.n_users, dtype=np.bool_)
    met[users[fold::FOLDS]] = True
    learnt = np.isin(dataset.split, LEARN)
    others = np.unique(dataset.user[~met[dataset.user]])
    learn = dataset.take(np.flatnonzero(learnt & ~met[dataset.user])).renumbered(others)
    model = fit(
        learn.comparisons(len(others)),
        rank="auto" if rank == "auto" else int(rank),
        rng=np.random.default_rng(seed),
        calibrate=False,
    )
    said = each_once(dataset.take(np.flatnonzero(learnt & met[dataset.user])))
    test = dataset.take(np.flatnonzero(np.isin(dataset.split, TEST)))
    answers = np.bincount(said.user, minlength=dataset.n_users)
    tested = np.bincount(test.user, minlength=dataset.n_users)
    people = np.flatnonzero(met & (answers >= ENOUGH) & (tested > 0))
    return People(model, said.renumbered(people), test.renumbered(people), len(people))


def each_once(said: Dataset) -> Dataset:
    sides = np.sort(np.column_stack([said.chosen, said.rejected]), axis=1)
    context = np.zeros(len(said), dtype=np.int64) if said.context is None else said.context
    once = np.unique(np.column_stack([said.user, sides, context]), axis=0, return_index=True)[1]
    return said.take(np.sort(once))


def random_order(people: People, rng: np.random.Generator) -> list[Int]:
    return [rng.permutation(rows) for rows in people.questions()]


def chosen_order(people: People, rng: np.random.Generator) -> list[Int]:
    """Each person's questions, most informative first, every answer folded in before the next is chosen."""
    own = people.questions()
    asked: list[list[int]] = [[] for _ in own]
    for _ in range(max(SIZES)):
        rows = np.array([row for user in asked for row in user], dtype=np.int64)
        adapters = fold_in_users(people.model, people.said.take(rows).comparisons(people.n))
        for user, mine in enumerate(own):
            left = np.setdiff1d(mine, asked[user])
            if len(left):
                asked[user].append(next_question(people.model, adapters[user], people.said, left, rng))
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


def measured(groups: list[People], orders: list[list[Int]], size: int) -> Score:
    """Over everybody, after the first so many questions of each."""
    probabilities, users, before = list[Real](), list[Int](), 0
    for people, order in zip(groups, orders, strict=True):
        rows = np.concatenate([rows[:size] for rows in order])
        adapters = fold_in_users(people.model, people.said.take(rows).comparisons(people.n))
        probabilities.append(people.model.predict(people.test.comparisons(people.n), adapters))
        users.append(people.test.user + before)
        before += people.n
    return score(np.concatenate(probabilities), np.concatenate(users))


if __name__ == "__main__":
    main()
