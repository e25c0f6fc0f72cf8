import numpy as np
import pytest

from app.learning import evaluate_predictions


def test_a_coin_scores_what_a_coin_scores() -> None:
    found = evaluate_predictions(np.full(4, 0.5), np.array([1.0, 0.0, 1.0, 1.0]))
    assert found.log_loss == pytest.approx(np.log(2))
    assert found.accuracy == 0.5
    assert found.log_loss_stderr == pytest.approx(0.0)
    assert found.n == 4


def test_certain_and_wrong_is_finite() -> None:
    found = evaluate_predictions([0.0], [1.0])
    assert found.accuracy == 0.0
    assert found.log_loss == pytest.approx(-np.log(1e-12))


def test_calibrated_predictions_have_no_calibration_error() -> None:
    found = evaluate_predictions(np.repeat([0.7, 0.1], 10), np.repeat([1.0, 0.0, 1.0, 0.0], [7, 3, 1, 9]))
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    assert found.accuracy == pytest.approx(0.8)


def test_overconfidence_is_the_calibration_error() -> None:
    assert evaluate_predictions(np.full(10, 0.9), np.repeat([1.0, 0.0], 5)).ece == pytest.approx(0.4)


def test_weights_count_comparisons_several_times() -> None:
    heavy = evaluate_predictions([0.8, 0.3], [1.0, 1.0], weight=[2.0, 1.0])
    repeated = evaluate_predictions([0.8, 0.8, 0.3], [1.0, 1.0, 1.0])
    assert heavy.log_loss == pytest.approx(repeated.log_loss)
    assert heavy.accuracy == pytest.approx(repeated.accuracy)
    assert heavy.ece == pytest.approx(repeated.ece)


def test_soft_labels_are_half_right_at_a_tie() -> None:
    found = evaluate_predictions([0.9], [0.5])
    assert found.accuracy == 0.5
    assert found.log_loss == pytest.approx(-0.5 * (np.log(0.9) + np.log(0.1)))


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prediction was expected"):
        evaluate_predictions([], [])
    with pytest.raises(ValueError, match="one entry a comparison"):
        evaluate_predictions([0.5], [1.0, 0.0])
