"""The method beside what a user would write otherwise: the same data, time to the end and held-out accuracy.

Claim: the default estimator, with nothing tuned, is many times faster than the joint objective

    sum_j log(1 + exp(-(x_chosen - x_rejected) . (theta_0 + B w_user))) + |theta_0|^2 / 2 + |B|^2 / 2 + |w|^2 / 2

minimised by SciPy's L-BFGS or by a loop of full-batch Adam steps (both with exact gradients in NumPy), at an equal or
better held-out log-loss. Rivals: those two, and scikit-learn's LogisticRegression for every user by itself where it is
installed. Data: simulated (`tests/support/preference_worlds.py`), seeded; every fifth comparison of a user is held out.
The default estimator runs as at a given rank, its trials on held-out comparisons included.
Prints JSON.

    python benchmarks/peers.py --users 10000
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, fit, prepare
from tests.support.preference_worlds import draw_choices, draw_world

Real = NDArray[np.float64]

ADAM_STEPS = 2000
ADAM_RATE = 0.05
PATIENCE = 50
"""Steps without a relative gain of 1e-5 after which the Adam loop ends."""
LEAST_GAIN = 1e-5


def main() -> None:
    options = _options()
    prepare()
    rng = np.random.default_rng(options.seed)
    world = draw_world(rng, users=options.users, items=options.items, dim=options.dim, rank=options.rank, appeal=0.0)
    everything = draw_choices(rng, world, options.comparisons)
    held_out = np.arange(len(everything)) % 5 == 4
    learn, test = everything.subset(~held_out), everything.subset(held_out)
    found = {
        "evidence": _ours(learn, test, options.rank),
        "scipy_lbfgs": _joint(learn, test, options.rank, _lbfgs),
        "adam": _joint(learn, test, options.rank, _adam),
        "sklearn_per_user": _per_user(learn, test),
    }
    ours = found["evidence"]["seconds"]
    ratios = {name: round(one["seconds"] / ours, 1) for name, one in found.items() if one and name != "evidence"}
    print(
        json.dumps(
            {
                "machine": {"processor": platform.processor() or platform.machine()},
                "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
                "size": {name: getattr(options, name) for name in ("users", "comparisons", "items", "dim", "rank")},
                "methods": found,
                "times_slower_than_evidence": ratios,
            },
            indent=2,
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--comparisons", type=int, default=25, help="of each user; a fifth is held out")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _ours(learn: Comparisons, test: Comparisons, rank: int) -> dict[str, Any]:
    begun = time.perf_counter()
    model = fit(learn, rank=rank, calibrate=False)
    seconds = time.perf_counter() - begun
    return {"seconds": round(seconds, 3), "passes": model.passes, **_scores(model.predict(test))}


Minimiser = Callable[[Callable[[Real], tuple[float, Real]], Real], tuple[Real, int]]


def _joint(learn: Comparisons, test: Comparisons, rank: int, minimiser: Minimiser) -> dict[str, Any]:
    """The joint objective over (theta_0, B, W), all free."""
    X, N, d = np.asarray(learn.X), learn.n_users, learn.X.shape[1]
    first, second, user = learn.rows[::2], learn.rows[1::2], learn.user
    M = len(X)

    def unpack(x: Real) -> tuple[Real, Real, Real]:
        return x[:d], x[d : d + d * rank].reshape(d, rank), x[d + d * rank :].reshape(N, rank)

    def objective(x: Real) -> tuple[float, Real]:
        theta, B, W = unpack(x)
        common, P = X @ theta, X @ B
        own, z = W[user], P[first] - P[second]
        score = common[first] - common[second] + np.einsum("nk,nk->n", z, own)
        r = -1.0 / (1.0 + np.exp(score))
        rows = np.bincount(first, r, M) - np.bincount(second, r, M)
        pulled = r[:, None] * own
        by_item = np.stack(
            [np.bincount(first, pulled[:, c], M) - np.bincount(second, pulled[:, c], M) for c in range(rank)], axis=1
        )
        weighted = r[:, None] * z
        by_user = np.stack([np.bincount(user, weighted[:, c], N) for c in range(rank)], axis=1)
        gradient = [X.T @ rows + theta, (X.T @ by_item + B).ravel(), (by_user + W).ravel()]
        loss = np.logaddexp(0.0, -score).sum() + 0.5 * float(x @ x)
        return float(loss), np.concatenate(gradient)

    begun = time.perf_counter()
    start = 0.1 * np.random.default_rng(0).standard_normal(d + d * rank + N * rank)
    solution, steps = minimiser(objective, start)
    seconds = time.perf_counter() - begun
    theta, B, W = unpack(solution)
    difference = X[test.rows[::2]] - X[test.rows[1::2]]
    score = difference @ theta + np.einsum("nk,nk->n", difference @ B, W[test.user])
    return {"seconds": round(seconds, 3), "passes": steps, **_scores(1.0 / (1.0 + np.exp(-score)))}


def _lbfgs(objective: Callable[[Real], tuple[float, Real]], start: Real) -> tuple[Real, int]:
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10_000})
    return np.asarray(found.x), int(found.nfev)


def _adam(objective: Callable[[Real], tuple[float, Real]], start: Real) -> tuple[Real, int]:
    x, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    best, since, step = np.inf, 0, 0
    for step in range(1, ADAM_STEPS + 1):
        loss, g = objective(x)
        since = 0 if loss < best * (1 - LEAST_GAIN) else since + 1
        best = min(best, loss)
        if since >= PATIENCE:
            break
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= ADAM_RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return x, step


def _per_user(learn: Comparisons, test: Comparisons) -> dict[str, Any] | None:
    """None where scikit-learn is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    X = np.asarray(learn.X)
    D, T = (X[c.rows[::2]] - X[c.rows[1::2]] for c in (learn, test))
    begun = time.perf_counter()
    theta = np.zeros((learn.n_users, X.shape[1]))
    for user in range(learn.n_users):
        mine = D[slice(*np.searchsorted(learn.user, [user, user + 1]))]
        both, label = np.vstack([mine, -mine]), np.repeat([1, 0], len(mine))
        theta[user] = LogisticRegression(fit_intercept=False).fit(both, label).coef_[0]
    seconds = time.perf_counter() - begun
    score = np.einsum("nd,nd->n", T, theta[test.user])
    return {"seconds": round(seconds, 3), "passes": learn.n_users, **_scores(1.0 / (1.0 + np.exp(-score)))}


def _scores(probability: Real) -> dict[str, float]:
    loss = -np.log(np.clip(probability, 1e-12, 1.0))
    error = float(loss.std() / np.sqrt(len(loss)))
    return {
        "log_loss": round(float(loss.mean()), 4),
        "log_loss_stderr": round(error, 4),
        "accuracy": round(float((probability > 0.5).mean()), 4),
    }


if __name__ == "__main__":
    main()
