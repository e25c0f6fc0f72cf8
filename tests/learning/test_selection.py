from dataclasses import replace

import numpy as np

from app.learning import fit
from app.learning.selection import Trial, choose
from tests.support.preference_worlds import draw_choices, draw_world

LOSSES = {
    0: {0.0: 0.59, 0.03: 0.58, 0.1: 0.57, 0.3: 0.56, 1.0: 0.565},
    4: {0.0: 0.642, 0.03: 0.644, 0.1: 0.62, 0.3: 0.58, 1.0: 0.55},
}
"""As of film ratings: adapters that know comparisons depend a little seem worse than those that take none to depend."""


def landscape(rank: int, dependence: float, *, residual: bool = False) -> Trial:
    spread = np.random.default_rng(rank).normal(0.0, 1e-3, 400)
    return Trial(rank, dependence, LOSSES[rank][dependence] + spread - spread.mean(), np.ones(400))


def test_a_dependence_is_looked_for_from_where_the_model_for_everybody_found_one() -> None:
    choice = choose(landscape, ranks=(0, 4), start=(4, 0.0))
    assert (choice.rank, choice.dependence, choice.everybody) == (4, 1.0, 0.3)


def test_the_model_for_everybody_is_kept_where_adapters_lose_at_every_dependence() -> None:
    def worse(rank: int, dependence: float, *, residual: bool = False) -> Trial:
        found = landscape(0, dependence)
        return found if rank == 0 else Trial(rank, dependence, found.user_losses + 0.01, found.user_counts)

    choice = choose(worse, ranks=(0, 4), start=(4, 0.0), differ=lambda: True)
    assert (choice.rank, choice.dependence) == (0, 0.3)


def test_fresh_splits_decide_where_users_differ_and_the_first_cannot_tell() -> None:
    def in_doubt(rank: int, dependence: float, *, residual: bool = False) -> Trial:
        found = landscape(0, dependence)
        if rank == 0:
            return found
        spread = np.random.default_rng(1).normal(0.0, 0.2, 400)
        return Trial(rank, dependence, found.user_losses + 0.01 + spread - spread.mean(), found.user_counts)

    def again(trial: Trial) -> Trial:
        gained = 0.015 if trial.rank else 0.0
        return Trial(trial.rank, trial.dependence, trial.user_losses - gained, trial.user_counts)

    ranks, start = (0, 2, 4), (4, 0.0)
    assert choose(in_doubt, ranks=ranks, start=start, differ=lambda: True).rank == 0
    assert choose(in_doubt, ranks=ranks, start=start, again=again).rank == 0
    assert choose(in_doubt, ranks=ranks, start=start, differ=lambda: True, again=again).rank == 2


def test_a_gain_that_fresh_splits_do_not_show_is_not_believed() -> None:
    def hopeful(rank: int, dependence: float, *, residual: bool = False) -> Trial:
        found = landscape(0, dependence)
        spread = np.random.default_rng(1).normal(0.0, 0.2, 400)
        gained = 0.01 - spread + spread.mean()
        return found if rank == 0 else replace(found, rank=rank, user_losses=found.user_losses - gained)

    def again(trial: Trial) -> Trial:
        return replace(landscape(0, 0.3), rank=trial.rank)

    for ranks in ((0, 4), (0, 2, 4)):
        choice = choose(hopeful, ranks=ranks, start=(4, 0.0), differ=lambda: True, again=again)
        assert choice.rank == 0, ranks


def test_a_handful_of_users_must_surely_gain_even_where_the_rank_was_given() -> None:
    """Of three people two gained a little, and whoever came next lost much."""

    def with_gains(gains: list[float]) -> int:
        def trial(rank: int, dependence: float, *, residual: bool = False) -> Trial:
            losses = 5.0 - np.array(gains) if rank else np.full(len(gains), 5.0)
            return Trial(rank, dependence, losses, np.full(len(gains), 100.0))

        return choose(trial, ranks=(0, 2), start=(4, 0.0)).rank

    assert with_gains([0.5, 0.2]) == 0
    assert with_gains([0.5, 0.2] * 4) == 2
    assert with_gains([0.5, -0.2, 0.1, 0.0]) == 0
    assert with_gains([0.5, -0.2, 0.1, 0.0] * 3) == 2


def test_items_that_are_worth_what_their_features_say_have_no_effects_for_everybody_either() -> None:
    """A fit for everybody had ended before it learnt the prior of items' effects, and adapters seemed to gain."""
    rng = np.random.default_rng(0)
    world = draw_world(rng, users=320, items=300, dim=20, rank=0, appeal=0.0)
    said = draw_choices(rng, world, 16)
    alone = fit(said, rank=0, dependence=0.0, calibrate=False)
    assert alone.converged
    assert alone.shared.items.bias_prior < 0.01
    score = said.items @ alone.Theta_0[:, 0]
    assert np.corrcoef(score, said.items @ world.theta_0)[0, 1] > 0.98
