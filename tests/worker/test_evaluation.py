from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from app.domain import CatalogEnvironment
from app.domain.arrays import PreferenceTable, comparisons
from app.learning import Comparisons, FitProgress, Model, fit
from app.worker.baseline import STRENGTHS, per_user_probabilities
from app.worker.evaluation import (
    NOT_EVALUATED,
    Difference,
    Evaluation,
    decide,
    evaluate,
    paired_difference,
    twin_from_arrays,
    twin_to_arrays,
)
from app.worker.holdout import hold_out
from tests.support.builders import catalog
from tests.support.tables import table_of

N_USERS, N_ITEMS, DIM = 40, 30, 4
ENVIRONMENT = catalog("x", rank=2)
SAME_FOR_ALL = catalog("x", rank=0)


def population(*, n_each: int = 25, shared: float = 0.0, seed: int = 0) -> PreferenceTable:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N_ITEMS, DIM))
    personal = rng.normal(size=(N_USERS, 2)) @ rng.normal(size=(2, DIM)) * 1.5
    theta = shared * rng.normal(size=DIM) + personal / (1.0 + shared)
    rows = []
    for turn in range(n_each):
        # Successive questions have no item in common, so each is a choice of its own, whatever is answered.
        mine = np.arange(turn % 2, N_ITEMS, 2)
        for user in range(N_USERS):
            first, second = rng.choice(mine, 2, replace=False).tolist()
            if rng.random() > 1 / (1 + np.exp((features[second] - features[first]) @ theta[user])):
                first, second = second, first
            rows.append((user, first, second))
    return replace(table_of(rows), items=features.astype(np.float32))


def judged(table: PreferenceTable, current: Model | None, environment: CatalogEnvironment = ENVIRONMENT) -> Evaluation:
    return evaluate(environment, table, current, rng=np.random.default_rng(1), report=ignore)


def ignore(_: FitProgress) -> None:
    pass


def test_a_first_model_is_published() -> None:
    evaluation = judged(population(), None)
    decision = decide(evaluation, has_current=False)
    assert decision.publish
    assert "current" not in evaluation.metrics
    assert evaluation.metrics["new"]["log_loss"] < evaluation.metrics["global"]["log_loss"]


def test_a_model_that_is_worse_than_the_current_one_is_only_a_candidate() -> None:
    """Three in four of the answers to learn from are turned round; those that are held out are not."""
    honest = population(shared=4.0)
    current = judged(honest, None, SAME_FOR_ALL).twin
    assert current is not None
    assert decide(judged(honest, current, SAME_FOR_ALL), has_current=True).publish
    turned = hold_out(honest).train & (np.random.default_rng(2).random(len(honest)) < 0.75)
    poisoned = replace(
        honest,
        chosen=np.where(turned, honest.rejected, honest.chosen),
        rejected=np.where(turned, honest.chosen, honest.rejected),
    )

    evaluation = judged(poisoned, current, SAME_FOR_ALL)
    decision = decide(evaluation, has_current=True)

    assert not decision.publish
    assert evaluation.metrics["new"]["accuracy"] < 0.5 < evaluation.metrics["current"]["accuracy"]
    assert f"On {evaluation.n_scored} held-out comparisons of {evaluation.n_users} users" in decision.reason
    assert "more than 2 standard errors" in decision.reason


def test_too_little_to_tell_publishes_and_says_so() -> None:
    worse = Difference(log_loss=1.0, stderr=0.1)
    few = Evaluation(3, 2, {"new": {"log_loss": 2.0}, "current": {"log_loss": 1.0}}, worse, None)
    assert decide(few, has_current=True).reason == "3 held-out comparisons are too few to tell the models apart."
    assert decide(NOT_EVALUATED, has_current=True).publish
    assert decide(NOT_EVALUATED, has_current=False).reason == "It is the first model of this environment."


def test_nothing_held_out_is_no_evaluation() -> None:
    assert judged(table_of([(0, 0, 1)], n_users=1), None) is NOT_EVALUATED


def test_differences_are_clustered_by_user() -> None:
    """The same people asked twenty times over are not twenty times as many people."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 20)
    said = Comparisons.from_pairs(np.eye(2), np.zeros(1000, int), np.ones(1000, int), user=user)
    own = np.repeat(rng.uniform(0.3, 0.7, 50), 20)
    found = paired_difference(own, np.full(1000, 0.5), said)
    losses = -np.log(own[::20]) + np.log(0.5)
    assert found.log_loss == pytest.approx(losses.mean())
    assert found.stderr == pytest.approx(losses.std() / np.sqrt(50))
    few = paired_difference(own[:40], np.full(40, 0.5), said.subset(np.arange(40)))
    assert few.stderr == pytest.approx((-np.log(own[:40])).std() / np.sqrt(40))


def test_a_twin_survives_storage() -> None:
    table = population()
    twin = judged(table, None).twin
    assert twin is not None
    back = twin_from_arrays({**twin_to_arrays(twin), "theta_0": np.zeros(3)})
    assert back is not None
    assert judged(table, back).metrics["current"] == pytest.approx(judged(table, twin).metrics["current"])
    assert twin_to_arrays(None) == {}
    assert twin_from_arrays({}) is None


def test_the_per_user_baseline_is_a_ridge_around_the_global_model() -> None:
    table = population(n_each=20)
    said = comparisons(table, ENVIRONMENT)
    held = np.arange(len(said)) >= 600
    train, test = said.subset(~held), said.subset(held)
    base = fit(train, rank=0, calibrate=False)

    found = per_user_probabilities(base, train, test, np.zeros(len(train), dtype=np.bool_))

    assert found is not None
    probability, strength = found
    assert strength == STRENGTHS[0]
    mine, asked = train.user == 3, test.user == 3
    D, known = differences(base, train.subset(mine))
    E, there = differences(base, test.subset(asked))

    def objective(theta: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -(known + D @ theta)).sum() + 0.5 * strength * theta @ theta)

    best = minimize(objective, np.zeros(DIM), tol=1e-12)
    assert probability[asked] == pytest.approx(1 / (1 + np.exp(-(there + E @ best.x))), abs=1e-5)


def test_the_baselines_strength_is_chosen_where_it_does_not_learn() -> None:
    said = comparisons(population(n_each=40), ENVIRONMENT)
    order = np.arange(len(said))
    train, test = said.subset(order < 1200), said.subset(order >= 1200)
    base = fit(train, rank=0, calibrate=False)
    found = per_user_probabilities(base, train, test, np.arange(1200) // N_USERS % 5 == 0)
    assert found is not None
    assert found[1] < STRENGTHS[0], "people differ here, so a weaker ridge is better"


def differences(base: Model, said: Comparisons) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = base.features.items(said.items)
    D = x[said.rows[::2]] - x[said.rows[1::2]]
    return D, D @ base.Theta_0[:, 0]


def test_a_sure_but_negligible_loss_is_no_reason_to_keep_the_old_model() -> None:
    metrics = {"new": {"log_loss": 0.2966}, "current": {"log_loss": 0.2965}}
    hair = Evaluation(2000, 300, metrics, Difference(log_loss=0.0001, stderr=0.00001), None)
    assert decide(hair, has_current=True).publish
    real = Evaluation(2000, 300, metrics, Difference(log_loss=0.004, stderr=0.001), None)
    assert not decide(real, has_current=True).publish
