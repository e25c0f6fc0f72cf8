import numpy as np
import pytest

from app.evaluation.report import score, versus


def test_score_is_accuracy_and_mean_loss_of_what_was_chosen() -> None:
    found = score(np.array([0.9, 0.4, 0.5]), np.array([0, 1, 2]))
    assert found.accuracy == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.5]).mean())
    assert found.n == 3


def test_copies_of_a_users_comparisons_make_nothing_surer() -> None:
    prob, user = np.array([0.9, 0.4, 0.7, 0.6]), np.arange(4)
    once = score(prob, user).log_loss_stderr
    assert score(np.repeat(prob, 50), np.repeat(user, 50)).log_loss_stderr == pytest.approx(once)
    independent = np.std(-np.log(prob), ddof=1) / 2
    assert once == pytest.approx(independent)


def test_versus_counts_who_gains_and_who_loses() -> None:
    base = np.full(6, 0.5)
    prob = np.array([0.8, 0.8, 0.3, 0.5, 0.9, 0.9])
    found = versus(prob, base, np.array([0, 0, 1, 2, 3, 3]))
    assert (found.users, found.users_better, found.users_worse) == (4, 2, 1)
    assert found.gain == pytest.approx(np.log(prob / base).mean())
    assert found.user_gain["p50"] == pytest.approx(np.log(1.6) / 2)


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    assert np.isfinite(score(np.array([0.0, 1.0]), np.array([0, 1])).log_loss)
