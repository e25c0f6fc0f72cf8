"""The method beside what a user would write otherwise: the same data, the same rank, time and held-out loss.

Question: how many times faster is the default estimator at a given rank than a loop of full-batch Adam steps (20 is
aimed at) and than SciPy's L-BFGS (5 is aimed at) on the joint objective

    sum_j log(1 + exp(-(x_chosen - x_rejected) . (theta_0 + B w_user))) + ridge (|theta_0|^2 + |B|^2 + |w|^2) / 2

at an equal or better held-out log-loss, their tuning counted. Rivals: those two, with exact gradients (Adam in PyTorch
where it is installed, else in NumPy), and scikit-learn's LogisticRegression for every user by itself. Their ridge and
Adam's rate are tuned beforehand on a tenth of the users (`seconds_of_tuning`; ours learns its priors in the fit), and
then they run until their held-out loss has not fallen for a while (`seconds`). `seconds_to_best` is what an oracle that
stops them would need: when the held-out loss first came within 0.001 of its best; `seconds_to_our_loss` when it reached
ours (null: never). Ours: `seconds` is the whole call, with standard errors and diagnostics; `seconds_of_estimation` is
the part that the rivals do too, up to the parameters. `times_slower_than_evidence`: tuning and running beside our
estimation, and what the oracle needs once tuning is done. BLAS and PyTorch have one thread, with which the rivals are
faster. Data:
simulated (`tests/support/preference_worlds.py`), seeded; every fifth comparison of a user is held out. Prints JSON.

    python benchmarks/peers.py --users 10000
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import Comparisons, FitProgress, fit, prepare
from tests.support.preference_worlds import draw_choices, draw_world

Real = NDArray[np.float64]

RIDGES = (10.0, 30.0, 100.0, 300.0)
RATES = (0.02, 0.1)
STEPS = 1000
"""Most steps of a rival."""
PATIENCE = 40
"""Looks at the held-out loss without a new best after which a rival is stopped: it rises at first, and falls later."""
LOOK_EVERY = 10
"""Steps between looks; the clock stands meanwhile."""
TUNING_SHARE = 10
NEAR = 1e-3
"""Nats from its best held-out loss at which a rival counts as done."""


def main() -> None:
    options = _options()
    prepare()
    rng = np.random.default_rng(options.seed)
    world = draw_world(rng, users=options.users, items=options.items, dim=options.dim, rank=options.rank, appeal=0.0)
    everything = draw_choices(rng, world, options.comparisons)
    held_out = np.arange(len(everything)) % 5 == 4
    learn, test = everything.subset(~held_out), everything.subset(held_out)
    some = np.arange(0, options.users, TUNING_SHARE)
    tuning = learn.of_users(some), test.of_users(some)
    ours = _ours(learn, test, options.rank)
    found: dict[str, Any] = {"evidence": ours}
    threadpool_limits(1, user_api="blas")
    for name, minimiser, rates in (("scipy_lbfgs", _lbfgs, (0.0,)), ("adam", _adam, RATES)):
        tried = {
            (ridge, rate): _race(*tuning, options.rank, minimiser, ridge, rate) for ridge in RIDGES for rate in rates
        }
        ridge, rate = min(tried, key=lambda one: tried[one]["log_loss"])
        race = _race(learn, test, options.rank, minimiser, ridge, rate, ours["log_loss"])
        found[name] = race | {"seconds_of_tuning": round(sum(one["seconds"] for one in tried.values()), 3)}
    found["sklearn_per_user"] = _per_user(learn, test)
    ratios = {
        name: {
            "tuned_and_run": round((one["seconds_of_tuning"] + one["seconds"]) / ours["seconds_of_estimation"], 1),
            "with_an_oracle": round(one["seconds_to_best"] / ours["seconds_of_estimation"], 1),
        }
        for name, one in found.items()
        if one and name != "evidence"
    }
    sizes = {name: getattr(options, name) for name in ("users", "comparisons", "items", "dim", "rank")}
    print(
        json.dumps(
            {
                "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
                "size": sizes,
                "adam_in": "pytorch" if _torch() else "numpy",
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
    ends: list[float] = []

    def progress(state: FitProgress) -> None:
        if state.phase == "fitting":
            ends.append(time.perf_counter())

    model = fit(learn, rank=rank, dependence=0.0, calibrate=False, progress=progress)
    seconds = time.perf_counter() - begun
    scores = _scores(model.predict(test))
    return {
        "seconds": round(seconds, 3),
        "seconds_of_estimation": round(ends[-1] - begun, 3),
        "passes": model.passes,
        "converged": model.converged,
        **scores,
    }


class _Enough(Exception):  # noqa: N818  # it is no error
    """A rival's held-out loss has not fallen for a while."""


class _Watch:
    """A rival's clock, and its held-out loss on the way."""

    def __init__(self, held_out_loss: Callable[[Real], float]) -> None:
        self.held_out_loss, self.steps, self.paused = held_out_loss, 0, 0.0
        self.seen: list[tuple[float, float]] = []
        self.begun = time.perf_counter()

    def __call__(self, x: Real) -> None:
        self.steps += 1
        if self.steps % LOOK_EVERY:
            return
        now = time.perf_counter()
        self.seen.append((now - self.begun - self.paused, self.held_out_loss(x)))
        losses = [loss for _, loss in self.seen]
        self.paused += time.perf_counter() - now
        if len(losses) - int(np.argmin(losses)) > PATIENCE or self.steps >= STEPS:
            raise _Enough

    def first_at(self, loss: float) -> float | None:
        return next((round(seconds, 3) for seconds, seen in self.seen if seen <= loss), None)


Objective = Callable[[Real], tuple[float, Real]]
Minimiser = Callable[[Objective, Real, float, _Watch], None]


def _race(
    learn: Comparisons,
    test: Comparisons,
    rank: int,
    minimiser: Minimiser,
    ridge: float,
    rate: float,
    our_loss: float = 0.0,
) -> dict[str, Any]:
    """A rival on the joint objective over (theta_0, B, W), all free."""
    X, N, d = np.asarray(learn.X), learn.n_users, learn.X.shape[1]
    difference = X[test.rows[::2]] - X[test.rows[1::2]]

    def held_out_loss(x: Real) -> float:
        theta, B, W = x[:d], x[d : d + d * rank].reshape(d, rank), x[d + d * rank :].reshape(N, rank)
        score = difference @ theta + np.einsum("nk,nk->n", difference @ B, W[test.user])
        return float(np.logaddexp(0.0, -score).mean())

    start = 0.1 * np.random.default_rng(0).standard_normal(d + d * rank + N * rank)
    objective = _numpy_objective(learn, rank, ridge)
    if minimiser is _adam and _torch():
        objective = _torch_objective(learn, rank, ridge)
    watch = _Watch(held_out_loss)
    with contextlib.suppress(_Enough):
        minimiser(objective, start, rate, watch)
    best = min(loss for _, loss in watch.seen)
    return {
        "ridge": ridge,
        "rate": rate,
        "seconds_to_best": watch.first_at(best + NEAR),
        "seconds_to_our_loss": watch.first_at(our_loss),
        "seconds": round(watch.seen[-1][0], 3),
        "steps": watch.steps,
        "log_loss": round(best, 4),
    }


def _numpy_objective(learn: Comparisons, rank: int, ridge: float) -> Objective:
    X, N, d = np.asarray(learn.X), learn.n_users, learn.X.shape[1]
    first, second, user, M = learn.rows[::2], learn.rows[1::2], learn.user, len(X)
    n = len(user)
    # Sums over items and users as products with sparse matrices: several times faster than np.add.at or bincount.
    by_item = csr_array((np.tile([1.0, -1.0], n), learn.rows, 2 * np.arange(n + 1)), shape=(n, M)).T.tocsr()
    by_user = csr_array((np.ones(n), (user, np.arange(n))), shape=(N, n))

    def objective(x: Real) -> tuple[float, Real]:
        theta, B, W = x[:d], x[d : d + d * rank].reshape(d, rank), x[d + d * rank :].reshape(N, rank)
        common, P = X @ theta, X @ B
        own, z = W[user], P[first] - P[second]
        score = common[first] - common[second] + np.einsum("nk,nk->n", z, own)
        r = -1.0 / (1.0 + np.exp(score))
        gradient = [X.T @ (by_item @ r), (X.T @ (by_item @ (r[:, None] * own))).ravel()]
        gradient.append((by_user @ (r[:, None] * z)).ravel())
        loss = np.logaddexp(0.0, -score).sum() + 0.5 * ridge * float(x @ x)
        return float(loss), np.concatenate(gradient) + ridge * x

    return objective


def _torch_objective(learn: Comparisons, rank: int, ridge: float) -> Objective:
    import torch

    torch.set_num_threads(1)
    X, N, d = torch.as_tensor(np.array(learn.X)), learn.n_users, learn.X.shape[1]
    first, second, user = (torch.as_tensor(np.array(v)) for v in (learn.rows[::2], learn.rows[1::2], learn.user))

    def objective(x: Real) -> tuple[float, Real]:
        free = torch.tensor(x, requires_grad=True)
        theta, B, W = free[:d], free[d : d + d * rank].reshape(d, rank), free[d + d * rank :].reshape(N, rank)
        common, P = X @ theta, X @ B
        score = common[first] - common[second] + ((P[first] - P[second]) * W[user]).sum(1)
        loss = torch.nn.functional.softplus(-score).sum() + 0.5 * ridge * (free @ free)
        loss.backward()
        return float(loss.detach()), free.grad.numpy()

    return objective


@cache
def _torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _lbfgs(objective: Objective, start: Real, _rate: float, watch: _Watch) -> None:
    minimize(
        objective, start, jac=True, method="L-BFGS-B", callback=watch, options={"maxiter": STEPS, "maxfun": 10_000}
    )


def _adam(objective: Objective, start: Real, rate: float, watch: _Watch) -> None:
    x, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, STEPS + 1):
        _, g = objective(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        watch(x)


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
    taken = {"seconds_of_tuning": 0.0, "seconds": round(seconds, 3), "seconds_to_best": round(seconds, 3)}
    return taken | _scores(1.0 / (1.0 + np.exp(-score)))


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
