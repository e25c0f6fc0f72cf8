"""What the shared parameters owe to a user is at most what is told: beside refits without the user."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from app.learning import Comparisons, Model, RewardBelief, debt, fit, fold_in_users, principal_angle_distance
from app.learning.adapters import expected_curvature, expected_probability
from app.learning.arrays import Int, Real
from app.learning.debt import SAFETY
from tests.support.learning_references import dense_designs
from tests.support.learning_worlds import catalogue, in_contexts, tabular

WORLDS: dict[str, tuple[int, Callable[[np.random.Generator], Comparisons]]] = {
    "catalogue": (2, lambda rng: catalogue(rng, n_users=40, per_user=15, n_items=40).comparisons),
    "residual": (1, lambda rng: catalogue(rng, n_users=40, per_user=25, n_items=40, k=1, left=0.7).comparisons),
    "contexts": (1, lambda rng: in_contexts(rng, n_users=30, per_user=25)),
    "tabular": (1, lambda rng: tabular(rng, n_users=30, per_user=20).comparisons),
}
OTHERS = 8


def shared_by(comparisons: Comparisons, rank: int, warm: Model | None = None, *, residual: bool = False) -> Model:
    """To its end: what an unfinished fit leaves open is nobody's."""
    return fit(
        comparisons, rank=rank, dependence=0.0, residual=residual, calibrate=False, tolerance=1e-8, max_passes=200,
        warm_start=warm,
    )  # fmt: skip


def belief(model: Model, said: Comparisons, user: int) -> RewardBelief:
    adapter = fold_in_users(model, said.of_users([user]))[0]
    if said.tabular:
        return model.reward_table(adapter)
    assert isinstance(said.X, np.ndarray)
    return model.rewards(adapter, said.X, said.Y[3] if len(said.Y) > 1 else None)


def against_the_first(found: RewardBelief) -> tuple[Real, Real]:
    """Differences, which are all that is identified, and their standard errors."""
    each = np.zeros(len(found.mean)) if found.own is None else found.own
    factor, own = found.factor[1:] - found.factor[0], each[1:] + each[0]
    return found.mean[1:] - found.mean[0], np.sqrt((factor**2).sum(axis=1) + own)


@pytest.mark.parametrize("world", WORLDS)
def test_nothing_moves_by_more_than_is_owed(world: str) -> None:
    (rank, drawn), residual = WORLDS[world], world == "residual"
    for seed in range(1 if world == "contexts" else 2):
        said = drawn(np.random.default_rng(seed))
        # Where a fit is slow to converge, what is left open would be mistaken for the user's.
        model = shared_by(said, rank, shared_by(said, rank, residual=residual), residual=residual)
        assert (model.shared.residual > 0) == residual
        for user in (0, 23):
            owed = debt(model, said.of_users([user]), n_users=said.n_users)
            without = shared_by(said.subset(said.user != user), rank, model, residual=residual)
            moved = principal_angle_distance(model.raw_subspace(), without.raw_subspace())
            assert 0 < moved <= owed.subspace_distance < 40 * moved
            for other in range(1, said.n_users, said.n_users // OTHERS):
                if other == user:
                    continue
                before, error = against_the_first(belief(model, said, other))
                after, _ = against_the_first(belief(without, said, other))
                assert (np.abs(after - before) <= owed.standard_errors * error).all()


def test_who_said_nothing_is_owed_nothing() -> None:
    said = catalogue(np.random.default_rng(1), n_users=20, per_user=10).comparisons
    owed = debt(shared_by(said, 1), said.subset(said.user < 0).of_users([0]), n_users=20)
    assert (owed.standard_errors, owed.subspace_distance) == (0.0, 0.0)


@pytest.mark.parametrize("item_ids", [None, np.arange(12)], ids=["features", "items"])
def test_one_model_for_everybody_has_no_subspace_to_move(item_ids: Int | None) -> None:
    said = catalogue(np.random.default_rng(1), n_users=20, per_user=10, n_items=12).comparisons
    said = replace(said, item_ids=item_ids)
    model, own = shared_by(said, 0), said.of_users([3])
    items = model.shared.items
    owed = debt(model, own, n_users=20)
    assert owed.subspace_distance == 0.0
    # Without adapters it is a logistic regression's, with an indicator an item.
    D, F = dense_designs(own, model.features)[:, :, 0], model.shared_error[:, 0]
    place, indicators = model.places(own.items, own.item_ids), np.zeros((len(own), len(items) + 1))
    np.add.at(indicators, (np.repeat(np.arange(len(own)), 2), place[own.rows]), own.signs)
    moments = D @ model.Theta_0[:, 0] + indicators @ items.bias, indicators**2 @ items.bias_variance
    w, residual = expected_curvature(*moments), own.label - expected_probability(*moments)
    pull, leverage = F.T @ D.T @ residual, np.linalg.eigvalsh(F.T @ (D.T * w) @ D @ F)[-1]
    of_items = (items.bias_variance * (indicators.T @ residual) ** 2)[:-1].sum()
    assert leverage < 0.5
    assert owed.standard_errors == pytest.approx(SAFETY / (1 - leverage) * np.sqrt(pull @ pull + of_items))
