"""A fitted model: everything needed to serve rewards, and the adapters of the users it was fitted on.

Rewards are log-odds: an option worth 1 is chosen 73% of the time against one worth 0. Only differences are identified.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from app.learning.adapters import (
    ADAPTER_TOLERANCE,
    Adapter,
    Adapters,
    expected_probability,
    penalised_maximum,
    posterior,
    predictive_moments,
)
from app.learning.arrays import Real, Table, integers, product, real, writable
from app.learning.belief import RewardBelief
from app.learning.comparisons import Comparisons
from app.learning.confidence import Calibration
from app.learning.design import Design, design_of, place_of
from app.learning.diagnostics import Diagnostics
from app.learning.errors import InvalidComparisonsError
from app.learning.features import FeatureMap
from app.learning.items import Items, content_ids, no_items
from app.learning.kernels import threads_to_ourselves
from app.learning.parameters import Ending, Shared

ITEM_ARRAYS = ("bias", "bias_variance", "loadings", "covariance", "bias_prior", "prior")
"""Fields of `Items` beside its ids."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceItem:
    """The mean of a catalogue's items, from which rewards are told as differences."""

    features: Real
    """(d1,) raw."""
    bias: float
    """The mean of the items' biases."""
    loadings: Real
    """(k,) the mean of their loadings."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What rank, dependence and calibration rest on, so that a refit after little new feedback can keep them."""

    rank: int | Literal["auto"]
    """As it was asked for."""
    comparisons: int
    everybody: float
    """The dependence of the model for everybody."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Theta_i = Theta_0 + B W_i in the model's own features."""

    features: FeatureMap
    shared: Shared
    shared_error: Real
    """(d1, d2 + k, r): factor of the covariance of [Theta_0, B]."""
    adapters: Adapters
    """Of the users of the fit, by their index; none in a model read back."""
    estimator: str
    effective_weight: float
    """What one comparison of the fit counted on average."""
    dependence: float
    """How much of what the model leaves unexplained recurs with an option: see design.effective_weights."""
    half_life_seconds: float | None
    calibration: Calibration
    """Of the standard errors and of the ellipsoids."""
    ending: Ending
    diagnostics: Diagnostics | None
    """None in a model read back: the store keeps them beside the arrays."""
    everybody: Shared | None = None
    """The rank 0 fit, which predicts for users nobody has heard of; none where this model is it."""
    chosen: Chosen | None = None
    """None in a model that was stored before this was."""
    entry_errors: Real | None = None
    """(d1, d2 + k) variances of [Theta_0, B]'s entries, each by itself, where d1 is too large for `shared_error`."""

    @property
    def Theta_0(self) -> Real:
        return self.shared.Theta_0

    @property
    def B(self) -> Real:
        return self.shared.B

    @property
    def T(self) -> Real:
        return self.shared.T

    @property
    def rank(self) -> int:
        """k, the shared directions; adapters may be wider, by the residual's."""
        return self.shared.rank

    @property
    def width(self) -> int:
        """Rows of an adapter: the rank, and the residual's columns."""
        return self.shared.k

    @property
    def inflation(self) -> float:
        """Factor on every standard error, calibrated."""
        return self.calibration.inflation

    @property
    def converged(self) -> bool:
        return self.ending.converged

    @property
    def passes(self) -> int:
        return self.ending.passes

    @property
    def reason(self) -> str:
        return self.ending.reason

    @property
    def objective(self) -> float:
        return self.ending.objective

    def population(self) -> Adapter:
        """The belief about a user nobody has heard of: mean zero, covariance T."""
        return Adapter(
            mean=real(np.zeros((self.width, self.features.d2))),
            covariance=real(self.T),
            n_comparisons=0,
            converged=True,
            iterations=0,
        )

    def raw_subspace(self) -> Real:
        """(d1, k) orthonormal basis of the same subspace in raw features, comparable across feature maps."""
        return np.ascontiguousarray(np.linalg.qr(self.B[:, : self.rank] / self.features.scale[:, None])[0])

    def adapter(self, user_index: int) -> Adapter:
        if not 0 <= user_index < len(self.adapters):
            raise IndexError(f"user {user_index} is not in the fit, which had {len(self.adapters)} users.")
        return self.adapters[user_index]

    def rewards(
        self,
        adapter: Adapter,
        items: Real,
        context: Real | None = None,
        *,
        item_ids: ArrayLike | None = None,
        reference: ReferenceItem | None = None,
    ) -> RewardBelief:
        """Rewards of m items for one user.

        Parameters
        ----------
        items
            (m, d1) raw features.
        context
            (c,) raw features; none stands for the average context.
        item_ids
            (m,) as in `Comparisons.from_pairs`.
        reference
            Whose reward is zero; without it, rewards have no common zero.

        Returns
        -------
        RewardBelief
            Mean (m,) and factor (m, p + r) in log-odds, and own (m,), the variance of the items' own effects.

        Raises
        ------
        FeatureShapeError
            Items or context have another width than the fit's.
        """
        y = self.features.context(context)
        loading = np.concatenate([y, adapter.mean @ y])
        x = self.features.items(items)
        place = self.places(items, item_ids)
        mean, projected = self._projected(adapter, x, y, place)
        if reference is not None:
            x0 = self.features.items(reference.features[None])
            x = x - x0
            mean = mean - (x0 @ (self.Theta_0 @ y + self.B @ (adapter.mean @ y)))[0]
            mean = mean - reference.bias - reference.loadings @ adapter.mean[:, 0]
            projected = projected - np.einsum("mk,b->mkb", x0 @ self.B, y).reshape(1, -1)
            projected[:, :: self.features.d2] -= reference.loadings
        own = np.zeros(len(x))
        if len(self.shared.items):
            own = self.shared.items.bias_variance[place] + self._loading_variance(adapter)[place]
        shared = x @ compressed(np.einsum("alr,l->ar", self.shared_error, loading))
        return self._belief(adapter, mean, projected @ covariance_root(adapter.covariance), shared, own)

    def projected_rewards(
        self, adapter: Adapter, items: Real, context: Real | None = None, *, item_ids: ArrayLike | None = None
    ) -> tuple[Real, Real]:
        """(m,) rewards of items, without a common zero, and (m, p) what the adapter's entries multiply in them."""
        place = self.places(items, item_ids)
        return self._projected(adapter, self.features.items(items), self.features.context(context), place)

    def _projected(self, adapter: Adapter, x: Real, y: Real, place: NDArray[np.int32]) -> tuple[Real, Real]:
        projected = np.einsum("mk,b->mkb", x @ self.B, y)
        mean = x @ (self.Theta_0 @ y)
        if len(self.shared.items):
            mean = mean + self.shared.items.bias[place]
            projected[:, :, 0] += self.shared.items.loadings[place]
        flat = projected.reshape(len(x), len(self.T))
        return mean + flat @ adapter.mean.ravel(), flat

    def mean_item(self, items: Real, item_ids: ArrayLike | None = None) -> ReferenceItem:
        """The mean of items (m, d1), m > 0, given raw."""
        effects, place = self.shared.items, self.places(items, item_ids)
        features = np.asarray(items.mean(axis=0, dtype=np.float64))
        return ReferenceItem(features, float(effects.bias[place].mean()), effects.loadings[place].mean(axis=0))

    def places(self, items: Real, item_ids: ArrayLike | None = None) -> NDArray[np.int32]:
        """(m,) rows of `shared.items` of items (m, d1) given raw; its last one for items that are not in it."""
        known = self.shared.items.ids
        if not len(known):
            return place_of(known, known, len(items))
        return place_of(known, content_ids(real(items)) if item_ids is None else integers(item_ids), len(items))

    def _loading_variance(self, adapter: Adapter) -> Real:
        """(E + 1,) tr(C_m E[W_0 W_0^T]) of this user."""
        d2 = self.features.d2
        second = adapter.covariance[::d2, ::d2] + np.outer(adapter.mean[:, 0], adapter.mean[:, 0])
        return np.asarray(np.einsum("mkl,kl->m", self.shared.items.covariance, second))

    def reward_table(self, adapter: Adapter, states: Table | None = None, actions: Real | None = None) -> RewardBelief:
        """Rewards of every state and action of a tabular environment, m = S * A in C order.

        Parameters
        ----------
        states, actions
            (S, d1) and (A, d2) tables that rewards are linear in, as in `Comparisons.from_trajectories`; by default
            indicators. With a state table of H * S rows m = H * S * A.
        """
        d1, d2 = self.features.d1, self.features.d2
        mean = _through(states, (self.Theta_0 + self.B @ adapter.mean)[:, :, None], actions)[:, 0]
        shared = self.shared_error[:, :d2] + np.einsum("acr,cb->abr", self.shared_error[:, d2:], adapter.mean)
        shared = compressed(shared.reshape(d1 * d2, shared.shape[2]))
        shared = compressed(_through(states, shared.reshape(d1, d2, shared.shape[1]), actions))
        B = self.B if states is None else product(states, self.B)
        root = covariance_root(adapter.covariance).reshape(self.width, d2, len(self.T))
        own = _through(None, np.einsum("sk,kbp->sbp", B, root, optimize=True), actions)
        return self._belief(adapter, mean, own, shared, self._entry_variances(adapter, states, actions, len(mean)))

    def _entry_variances(self, adapter: Adapter, states: Table | None, actions: Real | None, rewards: int) -> Real:
        """(rewards,) what the shared parameters' errors, each by itself, make of a table's."""
        if self.entry_errors is None:
            return np.zeros(rewards)
        d2 = self.features.d2
        entries = self.entry_errors[:, :d2] + self.entry_errors[:, d2:] @ adapter.mean**2
        squares = None if states is None else states.power(2) if issparse(states) else states**2
        return _through(squares, entries[:, :, None], None if actions is None else actions**2)[:, 0]

    def table_rows(self, states: Table | None = None, actions: Real | None = None) -> Real:
        """(S * A, p) what the adapter's entries multiply in the rewards of `reward_table`."""
        X = self.B if states is None else product(states, self.B)
        Y = np.eye(self.features.d2) if actions is None else actions
        return np.asarray(np.kron(X, Y), dtype=np.float64)

    def _belief(self, adapter: Adapter, mean: Real, personal: Real, shared: Real, own: Real) -> RewardBelief:
        """From factors of what is not known of the user and of what all share."""
        factor = self.inflation * np.hstack([personal, shared])
        dimension = len(adapter.covariance) or shared.shape[1]
        return RewardBelief(mean, factor, dimension, self.inflation**2 * own, self.calibration.joint)

    def predict(self, comparisons: Comparisons, adapters: Adapters | Sequence[Adapter] | None = None) -> Real:
        """(n,) probabilities that `chosen` is preferred, the adapter's uncertainty integrated out.

        For a user without comparisons they are those of `everybody`: users are not spread as a normal distribution
        is, so that the average over T would promise less than the model for everybody keeps.

        Parameters
        ----------
        adapters
            Those that `comparisons.user` points into; by default the fit's own.
        """
        design = self.design(comparisons)
        means, covariances, heard = _stacked(self.adapters if adapters is None else adapters)
        user = design.user
        if design.n and user[-1] >= len(means):
            raise InvalidComparisonsError(f"user {user[-1]} has no adapter; there are {len(means)}.")
        N, p = len(means), len(self.T)
        mean, variance = predictive_moments(design, self.shared, means.reshape(N, p), covariances.reshape(N, p, p))
        if self.everybody is not None and not heard.all():
            alone = predictive_moments(design, self.everybody, np.zeros((N, 0)), np.zeros((N, 0, 0)))
            mean, variance = (np.where(heard[user], a, b) for a, b in zip((mean, variance), alone, strict=True))
        out = np.empty(design.n)
        out[design.order] = expected_probability(mean, variance)
        return out

    def design(self, comparisons: Comparisons) -> Design:
        """Comparisons as operators in this model's features, at this model's dependence."""
        return design_of(
            comparisons,
            self.features,
            item_ids=self.shared.items.ids,
            dependence=self.dependence,
            half_life_seconds=self.half_life_seconds,
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The shared part by name; adapters are stored user by user."""
        f, s = self.features, self.shared
        return {
            "feature_centre": f.centre,
            "feature_scale": f.scale,
            "context_centre": f.context_centre,
            "context_basis": f.context_basis,
            "tabular": np.array(f.tabular),
            "theta_0": s.Theta_0,
            "subspace": s.B,
            "adapter_covariance": s.T,
            "ridge": s.ridge,
            "residual": np.array(s.residual),
            "item_ids": s.items.ids,
            **{f"item_{name}": np.asarray(getattr(s.items, name)) for name in ITEM_ARRAYS},
            **_everybody_arrays(self.everybody),
            **_chosen_arrays(self.chosen),
            "shared_error": self.shared_error,
            **({} if self.entry_errors is None else {"entry_errors": self.entry_errors}),
            "dependence": np.array(self.dependence),
            "scalars": np.array(
                [self.effective_weight, self.half_life_seconds or np.inf, self.inflation, self.ending.objective]
            ),
            "calibration": np.array(
                [self.calibration.joint, self.calibration.spread, _or_nan(self.calibration.covered)]
            ),
            "ending": np.array([int(self.ending.converged), self.ending.passes], dtype=np.int64),
            "words": np.array([self.estimator, self.ending.reason]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Model":
        """The model that `to_arrays` described, with no users.

        Items of models from before they had effects of their own have none.
        """

        def number(name: str) -> Real:
            return real(np.asarray(arrays[name], dtype=np.float64))

        weight, half_life, inflation, objective = (float(v) for v in number("scalars"))
        converged, passes = (int(v) for v in np.asarray(arrays["ending"], dtype=np.int64))
        estimator, reason = (str(v) for v in arrays["words"])
        joint, spread, *rest = (float(v) for v in np.asarray(arrays.get("calibration", (1.0, 1.0)), dtype=np.float64))
        covered = rest[0] if rest and np.isfinite(rest[0]) else None
        items = _items_from(arrays)
        Theta_0, B, T, ridge = map(number, ("theta_0", "subspace", "adapter_covariance", "ridge"))
        shared = Shared(Theta_0, B, T, ridge, items, int(np.asarray(arrays.get("residual", 0), dtype=np.int64)))
        return cls(
            features=FeatureMap(
                number("feature_centre"),
                number("feature_scale"),
                number("context_centre"),
                number("context_basis"),
                tabular=bool(arrays["tabular"]),
            ),
            shared=shared,
            shared_error=number("shared_error"),
            adapters=no_adapters(shared),
            estimator=estimator,
            effective_weight=weight,
            dependence=float(np.asarray(arrays.get("dependence", 0.0), dtype=np.float64)),
            half_life_seconds=None if np.isinf(half_life) else half_life,
            calibration=Calibration(inflation, joint, spread, covered),
            ending=Ending(bool(converged), passes, reason, objective),
            diagnostics=None,
            everybody=_everybody_from(arrays, items),
            chosen=_chosen_from(arrays),
            entry_errors=number("entry_errors") if "entry_errors" in arrays else None,
        )


def _through(states: Table | None, table: Real, actions: Real | None) -> Real:
    """(S * A, r) of every state's and action's rows, X T_r Y^T, for T (d1, d2, r); no table stands for indicators."""
    flat = table.reshape(len(table), -1)
    rows = table if states is None else product(states, flat).reshape(-1, *table.shape[1:])
    both = rows if actions is None else np.einsum("sbr,ab->sar", rows, actions)
    return np.ascontiguousarray(both.reshape(both.shape[0] * both.shape[1], table.shape[2]))


def _chosen_arrays(chosen: Chosen | None) -> dict[str, NDArray[np.generic]]:
    if chosen is None:
        return {}
    asked = -1 if chosen.rank == "auto" else chosen.rank
    return {"chosen": np.array([asked, chosen.comparisons, chosen.everybody], dtype=np.float64)}


def _chosen_from(arrays: Mapping[str, NDArray[np.generic]]) -> Chosen | None:
    if "chosen" not in arrays:
        return None
    asked, count, everybody = (float(v) for v in np.asarray(arrays["chosen"], dtype=np.float64))
    return Chosen("auto" if asked < 0 else int(asked), int(count), everybody)


def _everybody_arrays(everybody: Shared | None) -> dict[str, NDArray[np.generic]]:
    if everybody is None:
        return {}
    items = everybody.items
    return {
        "everybody_theta": everybody.Theta_0,
        "everybody_ridge": everybody.ridge,
        "everybody_bias": items.bias,
        "everybody_bias_variance": items.bias_variance,
        "everybody_bias_prior": np.array(items.bias_prior),
    }


def _everybody_from(arrays: Mapping[str, NDArray[np.generic]], items: Items) -> Shared | None:
    if "everybody_theta" not in arrays:
        return None
    Theta, ridge, bias, variance, prior = (
        real(np.asarray(arrays[f"everybody_{name}"], dtype=np.float64))
        for name in ("theta", "ridge", "bias", "bias_variance", "bias_prior")
    )
    own = replace(no_items(0), ids=items.ids, bias=bias, bias_variance=variance, bias_prior=float(prior))
    E = len(items)
    own = replace(own, loadings=np.zeros((E + 1, 0)), covariance=np.zeros((E + 1, 0, 0)))
    return Shared(Theta, np.zeros((len(Theta), 0)), np.zeros((0, 0)), ridge, own)


def _items_from(arrays: Mapping[str, NDArray[np.generic]]) -> Items:
    if "item_ids" not in arrays:
        return no_items(arrays["subspace"].shape[1])
    parts = {name: real(np.asarray(arrays[f"item_{name}"], dtype=np.float64)) for name in ITEM_ARRAYS}
    return Items(
        integers(np.asarray(arrays["item_ids"], dtype=np.int64)),
        parts["bias"],
        parts["bias_variance"],
        parts["loadings"],
        writable(parts["covariance"]),
        float(parts["bias_prior"]),
        parts["prior"],
    )


def fold_in(model: Model, comparisons: Comparisons, *, tolerance: float = ADAPTER_TOLERANCE) -> Adapter:
    """Estimate one user's adapter at the published subspace.

    The fit's own solve for one user with (Theta_0, B, T) held fixed; rewards are in log-odds.

    Parameters
    ----------
    comparisons
        The user's own n comparisons, in any order; n = 0 gives the population's adapter.
    tolerance
        Largest change of the mean (evidence) or gradient entry (mle) at which the solve counts as converged.

    Raises
    ------
    InvalidComparisonsError
        The comparisons are of several users.
    """
    if len(comparisons) == 0:
        return model.population()
    if comparisons.n_users == 1:
        return fold_in_users(model, comparisons, tolerance=tolerance)[0]
    users = np.unique(comparisons.user)
    if len(users) > 1:
        raise InvalidComparisonsError(f"comparisons of one user were expected; found users {users[0]} and {users[1]}.")
    return fold_in_users(model, comparisons.of_users(users), tolerance=tolerance)[0]


def fold_in_users(model: Model, comparisons: Comparisons, *, tolerance: float = ADAPTER_TOLERANCE) -> Adapters:
    """`fold_in` for the users 0 .. n_users - 1 of these comparisons at once."""
    with threads_to_ourselves(len(comparisons)):
        return solve_adapters(model.shared, model.design(comparisons), model.estimator, tolerance=tolerance)


def solve_adapters(shared: Shared, design: Design, estimator: str, *, tolerance: float = ADAPTER_TOLERANCE) -> Adapters:
    """Every user's adapter at these shared parameters, solved to convergence."""
    if estimator == "mle":
        offset, Z = design.scores(shared.Theta_0), design.project(shared.B)
        return penalised_maximum(design, offset, Z, shared.T, tolerance=tolerance)
    return posterior(design, shared, tolerance=tolerance).adapters(design, shared.k)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def no_adapters(shared: Shared) -> Adapters:
    p = len(shared.T)
    nobody = np.zeros(0, dtype=np.int64)
    return Adapters(np.zeros((0, shared.k, shared.d2)), np.zeros((0, p, p)), nobody, nobody.astype(np.bool_), nobody)


def covariance_root(covariance: Real) -> Real:
    """A symmetric root; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def compressed(factor: Real) -> Real:
    """A factor of the same covariance with no more columns than rows."""
    if factor.shape[1] <= factor.shape[0]:
        return factor
    return np.ascontiguousarray(np.linalg.qr(factor.T)[1].T)


def _stacked(adapters: Adapters | Sequence[Adapter]) -> tuple[Real, Real, NDArray[np.bool_]]:
    """(N, k, d2) means, (N, p, p) covariances and (N,) whether there are comparisons."""
    if isinstance(adapters, Adapters):
        return adapters.means, adapters.covariances, adapters.n_comparisons > 0
    heard = np.array([a.n_comparisons > 0 for a in adapters])
    return np.stack([a.mean for a in adapters]), np.stack([a.covariance for a in adapters]), heard
