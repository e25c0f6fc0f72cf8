"""Held-out evaluation of a data set: what does personalisation gain, for whom, and from how many answers on?

Every method learns from the seen users' comparisons (split 0) and is tested on their held-out ones (split 1). Then each
unseen user is met with the first q of their comparisons (split 2, in order), and tested on split 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np

from app.evaluation.baselines import GlobalModel, PerUserModel, fit_global, fit_per_user
from app.evaluation.dataset import FEW_SHOT_SIZES, Dataset, Int, Part, Real
from app.evaluation.report import MethodReport, Score, StudyReport, score, versus, with_spread
from app.learning import FitProgress, Gains, Model, Start, fit, fold_in_users

METHODS = ("global", "per_user", "population", "mle", "evidence")
"""`population` is `evidence` at rank 0: one model for everybody, with the items' own effects."""
PAPER_METHODS = ("global", "per_user", "SI", "G", "WU", "evidence")
"""The paper's own axis: LoRA-global, LoRA-local, P-ShareLoRA from each of its three starts; and the default."""
ALL_METHODS = (*METHODS[:3], *PAPER_METHODS[2:5], *METHODS[3:])

Rank = int | Literal["auto"]
StudyProgress = Callable[[str, str, float], None]
"""Called with the method, its phase and how much of that is done, 0..1."""


class Fitted(Protocol):
    """A method after learning; predictions are probabilities that `chosen` was chosen."""

    @property
    def rank(self) -> int: ...

    def predict(self, data: Dataset) -> Real:
        """(n,) for seen users."""
        ...

    def predict_after(self, adapt: Dataset, test: Dataset, *, n_users: int) -> Real:
        """(n,) for n_users unseen users, each after their own of the comparisons `adapt`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SharedModel:
    """A model of the learning core, asked in the way that the service asks it."""

    model: Model
    n_users: int

    @property
    def rank(self) -> int:
        return self.model.rank

    def predict(self, data: Dataset) -> Real:
        return self.model.predict(data.comparisons(self.n_users))

    def predict_after(self, adapt: Dataset, test: Dataset, *, n_users: int) -> Real:
        adapters = fold_in_users(self.model, adapt.comparisons(n_users))
        return self.model.predict(test.comparisons(n_users), adapters)


@dataclass(frozen=True, slots=True, eq=False)
class Newcomers:
    """The unseen users who can be tested, numbered from 0."""

    adapt: Dataset
    test: Dataset
    n_users: int

    @classmethod
    def of(cls, dataset: Dataset) -> "Newcomers":
        test = dataset.part(Part.UNSEEN_TEST)
        users = np.unique(test.user)
        return cls(dataset.part(Part.ADAPT).renumbered(users), test.renumbered(users), len(users))

    def first(self, size: int) -> Dataset:
        """The first `size` comparisons of each user to adapt with, in their order."""
        user = self.adapt.user
        order = np.argsort(user, kind="stable")
        place = np.empty(len(user), dtype=np.int64)
        place[order] = np.arange(len(user)) - np.searchsorted(user[order], user[order])
        return self.adapt.take(np.flatnonzero(place < size))


def evaluate_dataset(
    dataset: Dataset,
    *,
    rank: Rank = "auto",
    seed: int = 0,
    seeds: int = 1,
    methods: tuple[str, ...] = METHODS,
    progress: StudyProgress | None = None,
) -> StudyReport:
    """Fit each method and measure it on the data set's split.

    `rank` is that of `mle` and `evidence`; "auto" lets the data decide, as the worker does. The same `seed` gives the
    same report, seconds apart. With several `seeds`, seed, seed + 1, ..., the report is the first one's, with the
    spread over all of them.
    """
    report = progress or _silent
    first, *others = (
        _evaluate_once(dataset, rank=rank, seed=seed + number, methods=methods, report=report)
        for number in range(seeds)
    )
    return with_spread(first, others) if others else first


def _evaluate_once(
    dataset: Dataset, *, rank: Rank, seed: int, methods: tuple[str, ...], report: StudyProgress
) -> StudyReport:
    seen = np.unique(dataset.user[np.isin(dataset.split, [Part.LEARN, Part.TEST])])
    learn = dataset.part(Part.LEARN).renumbered(seen)
    test = dataset.part(Part.TEST).renumbered(seen)
    newcomers = Newcomers.of(dataset)
    probabilities: dict[str, Real] = {}
    reports = []
    for method in methods:
        begun = perf_counter()
        fitted = _fit(method, learn, n_users=len(seen), rank=rank, seed=seed, progress=report)
        fit_seconds = perf_counter() - begun
        probabilities[method] = fitted.predict(test)
        predict_seconds = perf_counter() - begun - fit_seconds
        few_shot = few_shot_scores(fitted, newcomers, progress=partial(report, method, "few-shot"))
        reports.append(
            MethodReport(
                method=method,
                score=score(probabilities[method], test.user),
                fit_seconds=fit_seconds,
                predict_seconds=predict_seconds,
                rank=fitted.rank,
                few_shot=few_shot,
                few_shot_seconds=perf_counter() - begun - fit_seconds - predict_seconds,
                versus_global=_versus("global", method, probabilities, test.user),
                versus_population=_versus("population", method, probabilities, test.user),
                details=_details(fitted),
            )
        )
    return StudyReport(
        dataset=dataset.name, counts=_counts(dataset), split=_split(dataset), seed=seed, methods=tuple(reports)
    )


def few_shot_scores(fitted: Fitted, newcomers: Newcomers, *, progress: Callable[[float], None]) -> dict[int, Score]:
    """Score the unseen users' tests after the first q of each one's own comparisons; empty if nobody is unseen."""
    if not len(newcomers.test):
        return {}
    scores = {}
    for number, size in enumerate(FEW_SHOT_SIZES, start=1):
        prob = fitted.predict_after(newcomers.first(size), newcomers.test, n_users=newcomers.n_users)
        scores[size] = score(prob, newcomers.test.user)
        progress(number / len(FEW_SHOT_SIZES))
    return scores


def _fit(method: str, learn: Dataset, *, n_users: int, rank: Rank, seed: int, progress: StudyProgress) -> Fitted:
    def on_progress(state: FitProgress) -> None:
        progress(method, state.phase, state.done)

    progress(method, "fitting", 0.0)
    match method:
        case "global":
            return fit_global(learn, seed=seed)
        case "per_user":
            return fit_per_user(learn, n_users=n_users, seed=seed)
        case "population" | "evidence":
            comparisons, rng = learn.comparisons(n_users), np.random.default_rng(seed)
            model = fit(comparisons, rank=0 if method == "population" else rank, rng=rng, progress=on_progress)
            return SharedModel(model=model, n_users=n_users)
        case "mle" | "SI" | "G" | "WU":
            comparisons, rng = learn.comparisons(n_users), np.random.default_rng(seed)
            start: Start = "spectral" if method == "mle" else method
            model = fit(comparisons, rank=rank, estimator="mle", start=start, rng=rng, progress=on_progress)
            return SharedModel(model=model, n_users=n_users)
        case _:
            raise ValueError(f"no method is called {method!r}; one of {', '.join(ALL_METHODS)} was expected.")


def _details(fitted: Fitted) -> dict[str, Any]:
    match fitted:
        case SharedModel(model=model):
            ending = {"converged": model.converged, "passes": model.passes, "reason": model.reason}
            diagnostics = {} if model.diagnostics is None else model.diagnostics.as_dict()
            return {**ending, "diagnostics": diagnostics}
        case GlobalModel(strength=strength) | PerUserModel(strength=strength):
            return {"ridge": strength}
        case _:
            return {}


def _versus(base: str, method: str, probabilities: Mapping[str, Real], user: Int) -> Gains | None:
    if method == base or base not in probabilities:
        return None
    return versus(probabilities[method], probabilities[base], user)


def _counts(dataset: Dataset) -> dict[str, int]:
    return {
        "users": len(np.unique(dataset.user)),
        "items": len(dataset.X),
        "item_dim": dataset.X.shape[1],
        "contexts": 0 if dataset.contexts is None else len(dataset.contexts),
        "comparisons": len(dataset),
    }


def _split(dataset: Dataset) -> dict[str, Any]:
    sizes = {part.name.lower(): int((dataset.split == part).sum()) for part in Part}
    validation = "the folder's fold" if dataset.fold is not None else "a fifth of each user's choice tasks"
    return {"rule": dataset.split_rule, "comparisons": sizes, "validation": validation}


def _silent(_method: str, _phase: str, _done: float) -> None:
    pass
