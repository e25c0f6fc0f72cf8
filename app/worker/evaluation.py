"""Is the new model fit to be published? Models are judged on comparisons that none of them has seen.

The model that is published is fitted on everything, so the current one knows the comparisons that a new one would be
judged by. Every version therefore keeps a twin: the model as it was fitted on the training part. Twin is compared with
twin; what is held out once stays held out (`app.worker.holdout`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Environment
from app.domain.arrays import PreferenceTable, comparisons
from app.learning import Comparisons, FitProgress, Model, bounded, evaluate_predictions, fit, fold_in_users
from app.worker.baseline import per_user_probabilities
from app.worker.holdout import EVERY, FEWEST_SCORED, HoldOut, hold_out
from app.worker.progress import Report

Real = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.generic]]

TWIN = "twin_"
"""What the names of a twin's arrays begin with."""

NOISE = 2.0
"""Standard errors of the paired difference that are taken for noise."""

NEGLIGIBLE = 0.002
"""Nats: two models that are all but the same differ by less, and surely: one ended its passes a little earlier."""

FEWEST_CLUSTERS = 8
"""With fewer users, their differences don't tell the spread between users, and comparisons count one by one."""

FEWEST_TRAINED = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean log-loss of one model less another's, in nats a held-out comparison; below 0 the first one is better."""

    log_loss: float
    stderr: float
    """With users as the sampling unit, where there are enough of them."""

    @property
    def worse(self) -> bool:
        return self.log_loss > max(NOISE * self.stderr, NEGLIGIBLE)

    @property
    def better(self) -> bool:
        return self.log_loss < -max(NOISE * self.stderr, NEGLIGIBLE)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    n_scored: int
    n_users: int
    metrics: dict[str, Any]
    """By model: accuracy, log_loss, ece, n, log_loss_stderr; and differences."""
    against_current: Difference | None
    """None where there is no current model to compare with."""
    twin: Model | None
    """The new model as it was fitted on the training part."""


@dataclass(frozen=True, slots=True)
class Decision:
    publish: bool
    reason: str


NOT_EVALUATED = Evaluation(0, 0, {}, None, None)


def evaluate(
    environment: Environment,
    table: PreferenceTable,
    current: Model | None,
    *,
    rng: np.random.Generator,
    report: Report[FitProgress],
    from_scratch: bool = False,
) -> Evaluation:
    """Fit on the training part and score global, per-user, new and current models on the held-out one.

    `current` is the current model's twin, which the fit also begins from, unless `from_scratch`.
    """
    split = hold_out(table)
    if not split.scored.any() or split.train.sum() < FEWEST_TRAINED:
        return NOT_EVALUATED
    said = comparisons(table, environment)
    # No one user decides for all which model is better, either.
    train, test = said.subset(split.train), bounded(said.subset(split.scored))
    new = fit(
        train,
        rank=environment.rank,
        rng=rng,
        warm_start=None if from_scratch else current,
        calibrate=False,
        progress=report,
    )
    everybody = fit(train, rank=0, rng=rng, calibrate=False)
    probabilities = {"global": everybody.predict(test), "new": new.predict(test)}
    own = per_user_probabilities(everybody, train, test, _inner(split))
    if own is not None:
        probabilities["per_user"] = own[0]
    if current is not None:
        probabilities["current"] = _predictions_of(current, environment, table, split)
    return _evaluation(probabilities, test, new)


def decide(evaluation: Evaluation, *, has_current: bool) -> Decision:
    """Publish unless the new model is worse than the current one beyond noise."""
    if not has_current:
        return Decision(publish=True, reason="It is the first model of this environment.")
    difference, n = evaluation.against_current, evaluation.n_scored
    if difference is None:
        return Decision(
            publish=True,
            reason="The current model was never evaluated on held-out comparisons, so nothing speaks for keeping it.",
        )
    if n < FEWEST_SCORED:
        return Decision(publish=True, reason=f"{n} held-out comparisons are too few to tell the models apart.")
    losses = {name: evaluation.metrics[name]["log_loss"] for name in ("new", "current")}
    found = (
        f"On {n} held-out comparisons of {evaluation.n_users} users its log-loss is {losses['new']:.4f}, and that of "
        f"the current model is {losses['current']:.4f}"
    )
    if difference.worse:
        return Decision(
            publish=False,
            reason=f"{found}: worse by {difference.log_loss:.4f}, more than {NOISE:g} standard errors "
            f"of {difference.stderr:.4f}.",
        )
    return Decision(
        publish=True,
        reason=f"{found}: the difference of {difference.log_loss:+.4f} has a standard error of "
        f"{difference.stderr:.4f}.",
    )


def paired_difference(first: Real, second: Real, test: Comparisons) -> Difference:
    """Of two models' probabilities (n,) for the same comparisons."""
    gap = test.weight * (_losses(first, test) - _losses(second, test))
    total = float(test.weight.sum())
    mean = float(gap.sum()) / total
    centred = gap - mean * test.weight
    users, cluster = np.unique(test.user, return_inverse=True)
    parts = np.bincount(cluster.ravel(), centred) if len(users) >= FEWEST_CLUSTERS else centred
    return Difference(mean, float(np.sqrt((parts**2).sum())) / total)


def twin_to_arrays(twin: Model | None) -> dict[str, NDArray[np.generic]]:
    """What predictions need of it: the shared parameters' own error is left out."""
    if twin is None:
        return {}
    bare = replace(twin, shared_error=twin.shared_error[:, :, :0])
    return {TWIN + name: array for name, array in bare.to_arrays().items()}


def twin_from_arrays(arrays: Arrays) -> Model | None:
    """The inverse of `twin_to_arrays`, whatever else is among the arrays."""
    own = {name.removeprefix(TWIN): array for name, array in arrays.items() if name.startswith(TWIN)}
    return Model.from_arrays(own) if own else None


def _inner(split: HoldOut) -> NDArray[np.bool_]:
    """(n_train,) the part of training that chooses the per-user baseline's strength: other whole groups."""
    groups = split.groups[split.train]
    return np.asarray((groups % EVERY == 0) & (groups > 0))


def _predictions_of(current: Model, environment: Environment, table: PreferenceTable, split: HoldOut) -> Real:
    """The current subspace with every user's adapter estimated anew on the same training part."""
    absent = current.features.context_centre if current.features.has_contexts else None
    said = comparisons(table, environment, absent_context=absent)
    return current.predict(said.subset(split.scored), fold_in_users(current, said.subset(split.train)))


def _evaluation(probabilities: Mapping[str, Real], test: Comparisons, new: Model) -> Evaluation:
    metrics: dict[str, Any] = {
        name: asdict(evaluate_predictions(found, test.label, test.weight)) for name, found in probabilities.items()
    }
    differences = {
        name: paired_difference(probabilities["new"], found, test)
        for name, found in probabilities.items()
        if name != "new"
    }
    for name, difference in differences.items():
        metrics[f"new_minus_{name}"] = asdict(difference)
    metrics["personalisation"] = _personalisation(differences["global"])
    return Evaluation(
        n_scored=len(test),
        n_users=len(np.unique(test.user)),
        metrics=metrics,
        against_current=differences.get("current"),
        twin=new,
    )


def _personalisation(difference: Difference) -> str:
    gain = f"{abs(difference.log_loss):.4f} nats a held-out comparison (standard error {difference.stderr:.4f})"
    if difference.better:
        return f"The personal model is better than one model for everybody by {gain}."
    if difference.worse:
        return f"One model for everybody is better than the personal model by {gain}."
    return f"The personal model and one model for everybody differ by {gain}: within noise."


def _losses(probability: Real, test: Comparisons) -> Real:
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return -(test.label * np.log(p) + (1 - test.label) * np.log1p(-p))
