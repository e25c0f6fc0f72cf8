from typing import Any

import numpy as np
import pytest

from app.policy import FiniteHorizonMDP, InvalidMdpError, robust_policy

MOVES = np.array([[s, a, a, 1.0] for s in range(2) for a in range(2)])
INITIAL = np.array([0.25, 0.75])


def build(transitions: Any = MOVES, initial: Any = INITIAL, horizon: int = 3) -> FiniteHorizonMDP:
    return FiniteHorizonMDP.from_triples(2, 2, horizon, transitions, initial)


def changed(row: int, column: int, value: float) -> Any:
    rows = MOVES.copy()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("transitions", "index", "message"),
    [
        (
            changed(3, 3, 0.97),
            3,
            (
                "transitions: the probabilities out of state 1, action 1, step 0 sum to 0.97; "
                "they must sum to 1 within 1e-09."
            ),
        ),
        (
            MOVES[:3],
            None,
            (
                "transitions: the probabilities out of state 1, action 1, step 0 sum to 0; "
                "they must sum to 1 within 1e-09."
            ),
        ),
        (
            [MOVES, MOVES, changed(1, 3, 0.5)],
            1,
            (
                "transitions: the probabilities out of state 0, action 1, step 2 sum to 0.5; "
                "they must sum to 1 within 1e-09."
            ),
        ),
        (changed(2, 0, 2), 2, "transitions: row 2: the state is 2; it must be a whole number from 0 to 1."),
        (changed(1, 1, -1), 1, "transitions: row 1: the action is -1; it must be a whole number from 0 to 1."),
        (changed(1, 2, 0.5), 1, "transitions: row 1: the next state is 0.5; it must be a whole number from 0 to 1."),
        (changed(0, 2, np.nan), 0, "transitions: row 0: the next state is nan; it must be a whole number from 0 to 1."),
        (
            [MOVES, changed(0, 0, 7), MOVES],
            0,
            "transitions: row 0, step 1: the state is 7; it must be a whole number from 0 to 1.",
        ),
        (changed(2, 3, -0.25), 2, "transitions: row 2: the probability is -0.25; it must lie in [0, 1]."),
        (changed(2, 3, np.nan), 2, "transitions: row 2: the probability is nan; it must lie in [0, 1]."),
        (
            [MOVES, MOVES],
            None,
            "transitions: 2 lists were given; there must be one for all steps, or one for each of the 3 steps.",
        ),
        (MOVES[:, :3], None, "transitions: every row must be [state, action, next state, probability]."),
        ([], None, "transitions: every row must be [state, action, next state, probability]."),
    ],
)
def test_the_first_offending_transition_is_named(transitions: Any, index: int | None, message: str) -> None:
    with pytest.raises(InvalidMdpError) as caught:
        build(transitions)
    assert str(caught.value) == message
    assert (caught.value.field, caught.value.index) == ("transitions", index)


@pytest.mark.parametrize(
    ("initial", "index", "message"),
    [
        ([1.0], None, "initial: 1 probabilities were given; there are 2 states."),
        ([1.5, -0.5], 1, "initial: the probability of state 1 is -0.5; it must lie in [0, 1]."),
        ([np.nan, 1.0], 0, "initial: the probability of state 0 is nan; it must lie in [0, 1]."),
        ([0.5, 0.4], None, "initial: the probabilities sum to 0.9; they must sum to 1 within 1e-09."),
    ],
)
def test_the_first_offending_initial_probability_is_named(initial: Any, index: int | None, message: str) -> None:
    with pytest.raises(InvalidMdpError) as caught:
        build(initial=initial)
    assert str(caught.value) == message
    assert (caught.value.field, caught.value.index) == ("initial", index)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (np.ones((3, 2)), "reference_policy: its shape is (3, 2); it must be (2, 2) or (3, 2, 2)."),
        (
            np.array([[0.5, 0.5], [0.5, 0.2]]),
            (
                "reference_policy: the action probabilities in state 1, step 0 sum to 0.7; "
                "they must be non-negative and sum to 1 within 1e-09."
            ),
        ),
        (
            np.array([[1.5, -0.5], [0.5, 0.5]]),
            (
                "reference_policy: the action probabilities in state 0, step 0 sum to 1; "
                "they must be non-negative and sum to 1 within 1e-09."
            ),
        ),
    ],
)
def test_an_improper_reference_policy_is_named(reference: Any, message: str) -> None:
    with pytest.raises(InvalidMdpError) as caught:
        robust_policy(build(), np.zeros((2, 2)), np.zeros((4, 1)), beta=1.0, reference=reference)
    assert str(caught.value) == message
    assert caught.value.field == "reference_policy"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 2, 3), "n_states: it is 0; it must be at least 1."),
        ((2, 0, 3), "n_actions: it is 0; it must be at least 1."),
        ((2, 2, 0), "horizon: it is 0; it must be at least 1."),
    ],
)
def test_sizes_must_be_positive(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        FiniteHorizonMDP.from_triples(*sizes, MOVES, INITIAL)
    assert str(caught.value) == message


def test_rows_of_the_same_move_add_up() -> None:
    halves = np.vstack([changed(0, 3, 0.5), [[0, 0, 0, 0.5]]])
    assert np.array_equal(build(halves).kernel(0).toarray(), build().kernel(0).toarray())


def test_a_list_a_step_is_used_at_its_step() -> None:
    stay = np.array([[s, a, s, 1.0] for s in range(2) for a in range(2)])
    mdp = build([MOVES, stay, MOVES])
    assert mdp.kernel(0)[[1]].toarray().tolist() == [[0.0, 1.0]]
    assert mdp.kernel(1)[[1]].toarray().tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("given", [MOVES, MOVES.tolist(), [MOVES] * 3, np.array([MOVES] * 3), [MOVES.tolist()] * 3])
def test_every_form_of_the_same_transitions_is_read(given: Any) -> None:
    mdp = build(given)
    for step in range(3):
        assert mdp.kernel(step).toarray().tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def test_roundings_within_the_tolerance_are_normalised_away() -> None:
    mdp = build(changed(0, 3, 1 - 5e-10), INITIAL + np.array([0.0, 5e-10]))
    assert mdp.kernel(0).sum(axis=1).tolist() == [1.0] * 4
    assert mdp.initial.sum() == 1.0


def test_a_bandit_is_one_state_and_one_step() -> None:
    mdp = FiniteHorizonMDP.bandit(7)
    assert (mdp.n_states, mdp.n_actions, mdp.horizon, mdp.initial.tolist()) == (1, 7, 1, [1.0])


@pytest.mark.parametrize(
    ("options", "field", "index", "message"),
    [
        (
            {"unavailable": [[0, 1], [2, 0]]},
            "unavailable",
            1,
            "unavailable: row 1: the state is 2; it must be a whole number from 0 to 1.",
        ),
        ({"unavailable": [0, 1]}, "unavailable", None, "unavailable: every row must be [state, action]."),
        ({"terminal": [-1]}, "terminal", 0, "terminal: row 0: the state is -1; it must be a whole number from 0 to 1."),
        (
            {"unavailable": [[1, 0], [1, 1]]},
            "unavailable",
            0,
            "unavailable: state 1 is left without any action; one must remain, or the state be terminal.",
        ),
        (
            {"unavailable": [[1, 0]]},
            "transitions",
            2,
            (
                "transitions: row 2: it leads out of state 1, action 0, "
                "which cannot be chosen: the state is terminal or the action unavailable."
            ),
        ),
        (
            {"terminal": [0]},
            "transitions",
            0,
            (
                "transitions: row 0: it leads out of state 0, action 0, "
                "which cannot be chosen: the state is terminal or the action unavailable."
            ),
        ),
        (
            {"state_features": [[1.0]]},
            "state_features",
            None,
            "state_features: the shape is (1, 1); it must be (2, d), a row a state.",
        ),
        (
            {"action_features": [[1.0, 2.0], [1.0, np.inf]]},
            "action_features",
            1,
            "action_features: entry 1 of action 1 is inf; it must be a finite number.",
        ),
    ],
)
def test_what_cannot_be_chosen_and_features_are_checked(
    options: dict[str, Any], field: str, index: int | None, message: str
) -> None:
    with pytest.raises(InvalidMdpError) as caught:
        FiniteHorizonMDP.from_triples(2, 2, 3, MOVES, INITIAL, **options)
    assert (str(caught.value), caught.value.field, caught.value.index) == (message, field, index)


def test_a_reference_takes_no_action_that_cannot_be_taken_and_none_at_the_end() -> None:
    mdp = FiniteHorizonMDP.from_triples(
        3, 2, 2, [[0, 0, 2, 1.0], [1, 0, 0, 1.0], [1, 1, 2, 1.0]], [1, 0, 0], unavailable=[[0, 1]], terminal=[2]
    )
    assert mdp.uniform_policy()[0].tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]
    assert mdp.policy([[1.0, 0.0], [0.2, 0.8], [0.3, 0.3]])[1].tolist() == [[1.0, 0.0], [0.2, 0.8], [0.0, 0.0]]
    assert mdp.terminal.tolist() == [False, False, True]
    with pytest.raises(InvalidMdpError) as caught:
        mdp.policy(np.full((3, 2), 0.5))
    assert str(caught.value) == (
        "reference_policy: action 1 has the probability 0.5 in state 0, step 0; it cannot be taken "
        "there, so it must be 0."
    )
    assert caught.value.index == 0
