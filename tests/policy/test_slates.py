from itertools import combinations
from typing import Any

import clarabel
import numpy as np
import pytest
from scipy import sparse

from app.policy import FiniteHorizonMDP, robust_policy, robust_slate


def drawn(seed: int, contexts: int = 1, items: int = 12, q: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(contexts, items)), rng.normal(size=(contexts * items, q)) / np.sqrt(q)


def conic_slate(mean: Any, factor: Any, beta: float, size: int, contexts: Any) -> float:
    """Over d in [0, 1 / m], t: minimise beta t - <r_hat, d> with ||L^T (d - d_ref)|| <= t."""
    C, M = mean.shape
    n, q = mean.size, factor.shape[1]
    weights = np.repeat(contexts, M)
    weighted, rewards = factor * weights[:, None], mean.ravel() * weights
    sums = sparse.hstack([sparse.kron(sparse.eye_array(C), np.ones((1, M))), sparse.csc_array((C, 1))])
    edges = sparse.hstack([sparse.vstack([-sparse.eye_array(n), sparse.eye_array(n)]), sparse.csc_array((2 * n, 1))])
    cone = np.zeros((1 + q, n + 1))
    cone[0, n], cone[1:, :n] = -1.0, -weighted.T
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solution = clarabel.DefaultSolver(
        sparse.csc_matrix((n + 1, n + 1)),
        np.concatenate([-rewards, [beta]]),
        sparse.csc_matrix(sparse.vstack([sums, edges, sparse.csr_array(cone)])),
        np.concatenate([np.ones(C), np.zeros(n), np.full(n, 1 / size), [0.0], -weighted.sum(axis=0) / M]),
        [clarabel.ZeroConeT(C), clarabel.NonnegativeConeT(2 * n), clarabel.SecondOrderConeT(q + 1)],
        settings,
    ).solve()
    return float(-solution.obj_val - rewards.sum() / M)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(("contexts", "size"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_the_optimum_is_that_of_the_whole_conic_program(contexts: int, size: int, beta: float) -> None:
    mean, factor = drawn(contexts, contexts)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(contexts))
    expected = conic_slate(mean, factor, beta, size, probabilities)
    found = robust_slate(mean, factor, size=size, beta=beta, contexts=probabilities)
    assert found.converged
    assert found.lower == pytest.approx(expected, abs=1e-4 * found.upper + 1e-7)
    assert found.upper == pytest.approx(expected, abs=1e-4 * found.upper + 1e-7)


def test_a_slate_of_one_is_the_bandit_and_contexts_are_its_states() -> None:
    mean, factor = drawn(7, contexts=3)
    contexts = np.array([0.2, 0.5, 0.3])
    planned = robust_policy(
        FiniteHorizonMDP.contextual_bandit(contexts, 12), mean, factor, beta=1.0, reference="uniform"
    )
    found = robust_slate(mean, factor, size=1, beta=1.0, contexts=contexts)
    assert found.lower == pytest.approx(planned.lower, rel=2e-4)


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_the_mixture_is_made_of_slates_and_its_bounds_are_true(beta: float) -> None:
    mean, factor = drawn(1)
    found = robust_slate(mean[0], factor, size=4, beta=beta)
    assert 1 - 1e-4 < found.weights.sum() < 1 + 1e-12
    assert len({frozenset(slate) for slate in found.slates[:, 0].tolist()}) == len(found.slates)
    shown = (1 - found.weights.sum()) * np.full(12, 1 / 12)
    for weight, slate in zip(found.weights, found.slates[:, 0], strict=True):
        assert len(set(slate.tolist())) == 4
        shown[slate] += weight / 4
    assert found.inclusion[0] == pytest.approx(shown, abs=1e-12)
    change = shown - 1 / 12
    assert change @ mean[0] == pytest.approx(found.nominal, abs=1e-12)
    assert change @ mean[0] - beta * np.linalg.norm(change @ factor) == pytest.approx(found.lower, abs=1e-9)
    assert np.linalg.norm(found.worst_case) <= beta * (1 + 1e-12)
    for slate in combinations(range(12), 4):
        single = np.isin(np.arange(12), slate) / 4 - 1 / 12
        assert single @ mean[0] - beta * np.linalg.norm(single @ factor) <= found.upper + 1e-9
    best = np.isin(np.arange(12), found.best[0]) / 4 - 1 / 12
    assert found.best_lower == pytest.approx(best @ mean[0] - beta * np.linalg.norm(best @ factor), abs=1e-9)


def test_without_a_radius_it_is_the_top_items_in_order() -> None:
    mean, factor = drawn(2, contexts=2)
    found = robust_slate(mean, factor, size=5, beta=0.0)
    assert found.slates.tolist() == [np.argsort(-mean, axis=1)[:, :5].tolist()]
    assert (found.weights.tolist(), found.gap, found.iterations) == ([1.0], 0.0, 1)


def test_thousands_of_items_are_no_trouble() -> None:
    mean, factor = drawn(3, items=5000, q=16)
    for beta in (0.1, 2.0, 1e3):
        found = robust_slate(mean, factor, size=10, beta=beta)
        assert found.converged
        assert found.gap <= 1e-4 * found.upper


def test_a_warm_start_saves_work_and_a_clock_stops_it() -> None:
    mean, factor = drawn(4, items=500, q=8)
    cold = robust_slate(mean, factor, size=5, beta=1.0)
    warm = robust_slate(mean, factor, size=5, beta=1.0, warm_start=cold.worst_case)
    assert warm.iterations <= cold.iterations
    assert warm.lower == pytest.approx(cold.lower, rel=2e-4)
    ticks = iter(range(1000))
    stopped = robust_slate(mean, factor, size=5, beta=1e3, time_budget_seconds=3.0, clock=lambda: float(next(ticks)))
    assert (stopped.reason, stopped.converged) == ("time", False)
    assert 0.0 <= stopped.lower <= stopped.upper


def test_a_single_look_is_allowed() -> None:
    mean, factor = drawn(4, items=500, q=8)
    found = robust_slate(mean, factor, size=5, beta=1e3, max_iterations=1)
    assert (found.iterations, found.reason) == (1, "iterations")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: it is 0; it must be from 1 to 12, the number of items."),
        ({"size": 13}, "size: it is 13; it must be from 1 to 12, the number of items."),
        ({"beta": -1.0}, "beta: it is -1.0; it must be a finite number, 0 or more."),
        ({"contexts": np.array([0.5, 0.5])}, "contexts: they must be 1 probabilities that sum to 1."),
        ({"reference": np.full(12, 1 / 6)}, r"reference: it must be \(1, 12\), each row from 0 to 1/2"),
        ({"reference": np.eye(12)[0]}, r"reference: it must be \(1, 12\), each row from 0 to 1/2"),
        ({"factor": np.ones((5, 2))}, r"factor: its shape is \(5, 2\); it must be \(12, q\)."),
        ({"mean": np.full(12, np.nan)}, "mean: row 0 is not finite."),
        ({"tolerance": 0.0}, "tolerance, max_iterations: they are 0.0 and 2000; both must be positive."),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    mean, factor = drawn(5)
    given: dict[str, Any] = {"mean": mean[0], "factor": factor, "size": 2, "beta": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        robust_slate(given.pop("mean"), given.pop("factor"), **given)
