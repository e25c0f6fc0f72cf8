"""What a study found, in the shape of `psharelora evaluate --json`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from app.evaluation.dataset import Int, Real
from app.learning import Gains, evaluate_predictions, gains_of_users

LOSS_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Score:
    """How well held-out comparisons were predicted."""

    accuracy: float
    log_loss: float
    """Mean, in nats a comparison; 0.693 is a coin."""
    ece: float
    """Expected calibration error of the preferred side's probability."""
    n: int
    """Comparisons."""
    log_loss_stderr: float
    """Over users: one person's comparisons are not independent."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity over seeds."""

    mean: float
    std: float
    """Sample standard deviation."""
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MethodReport:
    method: str
    score: Score
    """Seen users, held-out comparisons."""
    fit_seconds: float
    predict_seconds: float
    rank: int
    few_shot: dict[int, Score]
    """Unseen users, after so many of their own comparisons."""
    few_shot_seconds: float
    versus_global: Gains | None
    versus_population: Gains | None = None
    """Beside one model for everybody that knows items' own effects too: what only personalisation gains."""
    details: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, Spread] = field(default_factory=dict)
    """By quantity, over several seeds."""

    def as_dict(self) -> dict[str, Any]:
        timings = {"fit_seconds": self.fit_seconds, "predict_seconds": self.predict_seconds}
        return {
            **asdict(self.score),
            **timings,
            "rank": self.rank,
            "few_shot": {str(size): asdict(score) for size, score in self.few_shot.items()},
            "few_shot_seconds": self.few_shot_seconds,
            "versus_global": None if self.versus_global is None else asdict(self.versus_global),
            "versus_population": None if self.versus_population is None else asdict(self.versus_population),
            "details": self.details,
            **({"spread": {name: asdict(one) for name, one in self.spread.items()}} if self.spread else {}),
        }


@dataclass(frozen=True, slots=True)
class StudyReport:
    dataset: str
    counts: dict[str, int]
    split: dict[str, Any]
    seed: int
    methods: Sequence[MethodReport]

    def as_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "counts": self.counts,
            "split": self.split,
            "seed": self.seed,
            "methods": {method.method: method.as_dict() for method in self.methods},
        }


def with_spread(first: StudyReport, others: Sequence[StudyReport]) -> StudyReport:
    """The first seed's report, with the spread of its main quantities over all seeds."""
    methods = []
    for method in first.methods:
        runs = [next(m for m in report.methods if m.method == method.method) for report in (first, *others)]
        values = {name: [getattr(run.score, name) for run in runs] for name in ("accuracy", "log_loss", "ece")}
        values["rank"] = [float(run.rank) for run in runs]
        for size in method.few_shot:
            values[f"few_shot_{size}_log_loss"] = [run.few_shot[size].log_loss for run in runs]
        methods.append(replace(method, spread={name: _spread(v) for name, v in values.items()}))
    return replace(first, methods=tuple(methods))


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), tuple(values))


def losses(prob: Real) -> Real:
    """(n,) log-loss of each comparison, all of which ended with `chosen`."""
    return -np.log(np.clip(prob, LOSS_FLOOR, 1.0))


def score(prob: Real, user: Int) -> Score:
    metrics = evaluate_predictions(prob, np.ones(len(prob)))
    return Score(
        accuracy=metrics.accuracy,
        log_loss=metrics.log_loss,
        ece=metrics.ece,
        n=metrics.n,
        log_loss_stderr=_stderr_over_users(losses(prob), user),
    )


def versus(prob: Real, base: Real, user: Int) -> Gains:
    """Compare two predictions of the same comparisons."""
    gain = losses(base) - losses(prob)
    _, index, counts = np.unique(user, return_inverse=True, return_counts=True)
    return Gains(
        gain=float(gain.mean()),
        gain_stderr=_stderr_over_users(gain, user),
        **gains_of_users(np.bincount(index, gain) / counts),
    )


def _stderr_over_users(values: Real, user: Int) -> float:
    """Of the mean of `values`, when one user's values may hang together (cluster-robust)."""
    _, index = np.unique(user, return_inverse=True)
    sums = np.bincount(index, values - values.mean())
    n_users = len(sums)
    correction = n_users / (n_users - 1) if n_users > 1 else 1.0
    return float(np.sqrt(correction * (sums @ sums)) / len(values))
