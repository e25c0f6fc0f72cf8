"""Choosing one option while learning: Thompson sampling on the rewards' standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.serving.answers import RewardAnswer

DRAWS = 1000
"""Probabilities are told within 0.016 at one standard error."""


@dataclass(frozen=True, slots=True)
class Explored:
    chosen: int
    probabilities: tuple[float, ...]
    """How likely each option was to be the chosen one; they sum to 1."""


def explore(rewards: Sequence[RewardAnswer] | None, n: int, rng: np.random.Generator) -> Explored:
    """Choose one of n options, as likely as it is the best one; all equally likely before anything is known.

    Options' errors are drawn independently of each other: what they share would cancel in their differences, so that
    this explores rather more than less.
    """
    if rewards is None:
        return Explored(int(rng.integers(n)), (1.0 / n,) * n)
    mean = np.array([one.reward for one in rewards])
    stderr = np.array([one.stderr for one in rewards])
    best = (mean + stderr * rng.standard_normal((DRAWS, n))).argmax(axis=1)
    return Explored(int(best[0]), tuple((np.bincount(best, minlength=n) / DRAWS).tolist()))
