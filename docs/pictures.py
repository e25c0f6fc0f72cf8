"""Draws the pictures of docs/explanation/method.md: `python docs/pictures.py`. Everything in them is simulated."""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, fit, fold_in

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREY = "#2b7bcc", "#c96a28", "#808890"


def main() -> None:
    mpl.rcParams.update(
        {"svg.hashsalt": "psharelora", "svg.fonttype": "none", "font.size": 11, "axes.spines.top": False}
    )
    mpl.rcParams.update(
        {"axes.spines.right": False, "axes.edgecolor": GREY, "text.color": GREY, "axes.labelcolor": GREY}
    )
    mpl.rcParams.update({"xtick.color": GREY, "ytick.color": GREY, "figure.figsize": (6.4, 3.4)})
    IMAGES.mkdir(exist_ok=True)
    choice()
    subspace()
    shrinkage()


def saved(name: str) -> None:
    plt.savefig(IMAGES / f"{name}.svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close()


def choice() -> None:
    gap = np.linspace(-4, 4, 200)
    plt.plot(gap, 1 / (1 + np.exp(-gap)), color=BLUE)
    for at in (0, 1, 3):
        share = 1 / (1 + np.exp(-at))
        plt.plot([at], [share], "o", color=ORANGE)
        plt.annotate(f"{share:.0%}", (at, share), xytext=(8, -12), textcoords="offset points")
    plt.xlabel("how much more it is worth, log-odds")
    plt.ylabel("share of choices")
    saved("choice")


def subspace() -> None:
    rng = np.random.default_rng(4)
    along = rng.normal(size=60)
    people = np.array([0.8, 0.5]) + along[:, None] * [0.9, -0.6] + 0.08 * rng.normal(size=(60, 2))
    ends = np.array([0.8, 0.5]) + np.array([[-2.4], [2.4]]) * [0.9, -0.6]
    plt.plot(*ends.T, color=GREY, linestyle="--", label="the direction that they share")
    plt.scatter(*people.T, color=BLUE, s=18, label="a person")
    plt.scatter([0.8], [0.5], color=ORANGE, marker="D", zorder=3, label="everybody, on average")
    plt.xlabel("weight of the price")
    plt.ylabel("weight of a known company")
    plt.legend(frameon=False)
    saved("subspace")


def shrinkage() -> None:
    rng = np.random.default_rng(1)
    items = rng.normal(size=(40, 5))
    tastes = rng.normal(size=(150, 2)) @ (1.5 * rng.normal(size=(2, 5)))
    said = answers(rng, items, tastes, 30)
    model = fit(said, rank=2, rng=rng)
    newcomer = rng.normal(size=(1, 2)) @ (1.5 * np.eye(2, 5)) + tastes[3]
    own = answers(rng, items, newcomer, 64)
    counts = [0, 1, 2, 4, 8, 16, 32, 64]
    option = int(np.argmax(items @ newcomer[0]))
    beliefs = [model.rewards(fold_in(model, own.subset(np.arange(n))), items) for n in counts]
    worth = [belief.mean[option] - belief.mean.mean() for belief in beliefs]
    error = [1.96 * float(np.sqrt((belief.factor[option] ** 2).sum())) for belief in beliefs]
    plt.errorbar(range(len(counts)), worth, yerr=error, fmt="o", color=BLUE, capsize=3)
    truth = (items @ newcomer[0])[option] - (items @ newcomer[0]).mean()
    plt.axhline(truth, color=ORANGE, linestyle="--")
    plt.annotate("the truth, which only a simulation knows", (2.5, truth), xytext=(0, 6), textcoords="offset points")
    plt.xticks(range(len(counts)), [str(n) for n in counts])
    plt.xlabel("answers of this user")
    plt.ylabel("reward, log-odds")
    saved("shrinkage")


def answers(rng: np.random.Generator, items: np.ndarray, tastes: np.ndarray, each: int) -> Comparisons:
    user = np.repeat(np.arange(len(tastes)), each)
    pairs = np.array([rng.choice(len(items), 2, replace=False) for _ in user])
    margin = ((items[pairs[:, 0]] - items[pairs[:, 1]]) * tastes[user]).sum(axis=1)
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float)
    return Comparisons.from_pairs(items, pairs[:, 0], pairs[:, 1], user=user, label=label)


if __name__ == "__main__":
    main()
