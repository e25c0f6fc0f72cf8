"""What a reward of 0 means: the reference, fixed when a model is fitted and stored with it.

Comparisons fix rewards only up to a constant. A catalogue's rewards are told as differences from its mean item, those
of an MDP's trajectories from what the reference policy expects. Rewards are affine in features and in the items' own
effects, so the mean of the items' rewards is the reward of their mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from app.domain import CatalogEnvironment, CorruptModelError, Environment, MdpEnvironment
from app.domain.arrays import ItemTable, PreferenceTable
from app.learning import Model, ReferenceItem
from app.policy import FiniteHorizonMDP, occupancy, reference_from_trajectories

Real = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePolicy:
    policy: Real
    """(H, S, A)"""
    visits: Real
    """(S * A,) expected visits over the horizon; (H * S * A,) where rewards depend on the step."""


Reference = ReferenceItem | ReferencePolicy


def reference_of(
    environment: Environment, catalogue: ItemTable, preferences: PreferenceTable, model: Model
) -> Reference:
    """The reference of a model that was fitted now.

    Where the catalogue has no live items, the mean is over the options that were compared.
    """
    match environment:
        case CatalogEnvironment():
            features = catalogue.features if len(catalogue.ids) else preferences.items
            return model.mean_item(features.astype(np.float64))
        case MdpEnvironment():
            mdp = mdp_of(environment)
            policy = _reference_policy(environment, mdp, preferences)
            measure = occupancy(mdp, policy)
            visits = measure if environment.rewards == "per_step" else measure.sum(axis=0)
            return ReferencePolicy(policy, visits.ravel())
        case _:
            assert_never(environment)


def mdp_of(environment: MdpEnvironment) -> FiniteHorizonMDP:
    transitions = environment.transitions
    return FiniteHorizonMDP.from_triples(
        len(environment.states),
        len(environment.actions),
        environment.horizon,
        transitions[0] if len(transitions) == 1 else list(transitions),
        environment.initial,
        unavailable=np.array(environment.unavailable, dtype=np.float64).reshape(-1, 2),
        terminal=np.array(environment.terminal, dtype=np.float64),
    )


def reference_to_arrays(reference: Reference) -> dict[str, NDArray[np.generic]]:
    match reference:
        case ReferenceItem():
            return {
                "reference_item": reference.features,
                "reference_bias": np.array(reference.bias),
                "reference_loadings": reference.loadings,
            }
        case ReferencePolicy():
            policy = reference.policy
            # Most are the same at every step, and with ten thousand states a step is a megabyte.
            kept = policy[:1] if (policy == policy[:1]).all() else policy
            return {
                "reference_policy": kept,
                "reference_horizon": np.array(len(policy)),
                "reference_visits": reference.visits,
            }
        case _:
            assert_never(reference)


def reference_from_arrays(arrays: Arrays) -> Reference:
    """The inverse of `reference_to_arrays`, whatever else is among the arrays."""
    if "reference_item" in arrays:
        # Models of before items had effects of their own lack the other two.
        return ReferenceItem(
            np.asarray(arrays["reference_item"], dtype=np.float64),
            float(np.asarray(arrays.get("reference_bias", 0.0), dtype=np.float64)),
            np.asarray(arrays.get("reference_loadings", np.zeros(arrays["subspace"].shape[1])), dtype=np.float64),
        )
    if "reference_policy" in arrays and "reference_visits" in arrays:
        policy = np.asarray(arrays["reference_policy"], dtype=np.float64)
        horizon = int(np.asarray(arrays.get("reference_horizon", len(policy)), dtype=np.int64))
        return ReferencePolicy(
            np.broadcast_to(policy, (horizon, *policy.shape[1:])).copy(),
            np.asarray(arrays["reference_visits"], dtype=np.float64),
        )
    raise CorruptModelError("The stored model has no reference, so its rewards have no zero.")


def _reference_policy(environment: MdpEnvironment, mdp: FiniteHorizonMDP, preferences: PreferenceTable) -> Real:
    given = environment.reference_policy
    if isinstance(given, np.ndarray):
        return np.asarray(mdp.policy(given))
    if given == "uniform":
        return mdp.uniform_policy()
    steps = np.vstack([preferences.chosen_steps, preferences.rejected_steps]).astype(np.int64)
    H = mdp.horizon
    return np.asarray(mdp.policy(reference_from_trajectories(mdp, steps[:, :H], steps[:, H:])))
