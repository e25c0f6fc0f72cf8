"""How often the truth lies in what a model says about it: intervals of rewards, ellipsoids of adapters.

An interval is of one reward, less the mean of all rewards, because only differences are identified. An ellipsoid is of
a user's whole adapter, against the coordinates of their true parameters along the learnt subspace.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from app.evaluation.dataset import Real
from app.evaluation.truth import CatalogueWorld, MdpWorld
from app.learning import Adapter, Model, adapter_covariance


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of sets of one nominal level."""

    intervals: float
    """Share of the true rewards inside their interval, over users and options."""
    ellipsoids: float
    """Share of the users whose true adapter lies inside theirs."""
    reward_error: float
    """Root mean square, log-odds."""
    reward_stderr: float
    """What was told of it: the root of the mean squared standard error."""


def catalogue_coverage(
    model: Model, world: CatalogueWorld, adapters: Iterable[tuple[int, Adapter]], *, level: float
) -> Coverage:
    """Over these users of the world (index, adapter)."""
    weights, beliefs, told = np.full(len(world.X), 1 / len(world.X)), [], list(adapters)
    for _, adapter in told:
        belief = model.rewards(adapter, world.X).minus(weights)
        beliefs.append((belief.mean, belief.stderr, *belief.interval(level)))
    truth = world.rewards[[user for user, _ in told]]
    # Features are learnt from standardised columns, as the world's are, up to rounding.
    parameters = world.truth.Theta * model.features.scale[:, None]
    return _coverage(model, np.array(beliefs), truth, [(parameters[user], adapter) for user, adapter in told], level)


def mdp_coverage(model: Model, world: MdpWorld, adapters: Iterable[tuple[int, Adapter]], *, level: float) -> Coverage:
    """The same of the rewards of states and actions."""
    size, beliefs, told = world.truth.Theta[0].size, [], list(adapters)
    weights = np.full(size, 1 / size)
    for _, adapter in told:
        belief = model.reward_table(adapter).minus(weights)
        beliefs.append((belief.mean, belief.stderr, *belief.interval(level)))
    parameters = [(world.truth.Theta[user], adapter) for user, adapter in told]
    truth = np.array([Theta.ravel() - Theta.mean() for Theta, _ in parameters])
    # Every trajectory is equally long: what is added to all rewards shows in no comparison.
    return _coverage(model, np.array(beliefs), truth, parameters, level, unseen=np.ones_like(world.truth.Theta[0]))


def _coverage(
    model: Model,
    beliefs: Real,
    truth: Real,
    told: list[tuple[Real, Adapter]],
    level: float,
    unseen: Real | None = None,
) -> Coverage:
    """Beliefs (users, 4, options): means, standard errors, lower and upper bounds."""
    mean, stderr, lower, upper = np.moveaxis(beliefs, 1, 0)
    reach = model.inflation**2 * model.calibration.joint**2 * chi2.ppf(level, len(model.T)) if model.rank else 0.0
    inside = [_squared_distance(model, Theta, adapter, unseen) <= reach for Theta, adapter in told]
    return Coverage(
        intervals=float(((lower <= truth) & (truth <= upper)).mean()),
        ellipsoids=float(np.mean(inside)),
        reward_error=float(np.sqrt(np.mean((mean - truth) ** 2))),
        reward_stderr=float(np.sqrt(np.mean(stderr**2))),
    )


def _squared_distance(model: Model, Theta: Real, adapter: Adapter, unseen: Real | None) -> float:
    """In uncalibrated standard errors; along `unseen` (d1, d2), which no comparison shows, the nearest counts."""
    covariance = adapter_covariance(model.B, model.shared_error, adapter.covariance[None])[0]
    missed = (model.B.T @ (Theta - model.Theta_0) - adapter.mean).ravel()
    root = np.linalg.inv(np.linalg.cholesky(covariance)) if len(missed) else covariance
    missed = root @ missed
    if unseen is not None:
        blind = root @ (model.B.T @ unseen).ravel()
        missed = missed - blind * (blind @ missed) / max(float(blind @ blind), 1e-12)
    return float(missed @ missed)
