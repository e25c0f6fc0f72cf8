"""A fitted model: everything needed to serve rewards, and the adapters of the users it was fitted on.

Rewards are log-odds: an option worth 1 is chosen 73% of the time against one worth 0. Only differences are identified.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.learning.adapters import Adapter, Adapters, penalised_maximum, posterior
from app.learning.arrays import Real, real, sigmoid
from app.learning.belief import RewardBelief
from app.learning.comparisons import Comparisons
from app.learning.design import Design, design_of
from app.learning.diagnostics import Diagnostics
from app.learning.errors import InvalidComparisonsError
from app.learning.features import FeatureMap
from app.learning.parameters import Ending, Shared


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
    """What one comparison counts in a user's own solve."""
    half_life_seconds: float | None
    inflation: float
    """Factor on every standard error, calibrated."""
    ending: Ending
    diagnostics: Diagnostics | None
    """None in a model read back: the store keeps them beside the arrays."""

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
        return self.shared.k

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
            mean=real(np.zeros((self.rank, self.features.d2))),
            covariance=real(self.T),
            n_comparisons=0,
            converged=True,
            iterations=0,
        )

    def raw_subspace(self) -> Real:
        """(d1, k) orthonormal basis of the same subspace in raw features, comparable across feature maps."""
        return np.ascontiguousarray(np.linalg.qr(self.B / self.features.scale[:, None])[0])

    def adapter(self, user_index: int) -> Adapter:
        if not 0 <= user_index < len(self.adapters):
            raise IndexError(f"user {user_index} is not in the fit, which had {len(self.adapters)} users.")
        return self.adapters[user_index]

    def rewards(self, adapter: Adapter, items: Real, context: Real | None = None) -> RewardBelief:
        """Rewards of m items for one user.

        Parameters
        ----------
        items
            (m, d1) raw features.
        context
            (c,) raw features; none stands for the average context.

        Returns
        -------
        RewardBelief
            Mean (m,) and factor (m, p + r) in log-odds.

        Raises
        ------
        FeatureShapeError
            Items or context have another width than the fit's.
        """
        x, y = self.features.items(items), self.features.context(context)
        loading = np.concatenate([y, adapter.mean @ y])
        mean = x @ (self.Theta_0 @ y + self.B @ (adapter.mean @ y))
        projected = np.einsum("mk,b->mkb", x @ self.B, y).reshape(len(x), len(self.T))
        shared = x @ compressed(np.einsum("alr,l->ar", self.shared_error, loading))
        return self._belief(adapter, mean, projected, shared)

    def reward_table(self, adapter: Adapter) -> RewardBelief:
        """Rewards of every state and action of a tabular environment, m = S * A in C order."""
        mean = (self.Theta_0 + self.B @ adapter.mean).ravel()
        projected = np.asarray(np.kron(self.B, np.eye(self.features.d2)), dtype=np.float64)
        d2 = self.features.d2
        shared = self.shared_error[:, :d2] + np.einsum("acr,cb->abr", self.shared_error[:, d2:], adapter.mean)
        return self._belief(adapter, mean, projected, compressed(shared.reshape(len(mean), shared.shape[2])))

    def _belief(self, adapter: Adapter, mean: Real, projected: Real, shared: Real) -> RewardBelief:
        factor = self.inflation * np.hstack([projected @ covariance_root(adapter.covariance), shared])
        return RewardBelief(mean, factor, dimension=len(adapter.covariance) or shared.shape[1])

    def predict(self, comparisons: Comparisons, adapters: Adapters | Sequence[Adapter] | None = None) -> Real:
        """(n,) probabilities that `chosen` is preferred, the adapter's uncertainty integrated out.

        Parameters
        ----------
        adapters
            Those that `comparisons.user` points into; by default the fit's own.
        """
        design = self.design(comparisons)
        means, covariances = _stacked(self.adapters if adapters is None else adapters)
        user = design.user
        if design.n and user[-1] >= len(means):
            raise InvalidComparisonsError(f"user {user[-1]} has no adapter; there are {len(means)}.")
        p = len(self.T)
        Z = design.project(self.B).reshape(design.n, p)
        mean = design.scores(self.Theta_0) + np.einsum("np,np->n", Z, means.reshape(len(means), p)[user])
        out = np.empty(design.n)
        out[design.order] = expected_probability(mean, _variances(Z, covariances, user))
        return out

    def design(self, comparisons: Comparisons) -> Design:
        """Comparisons as operators in this model's features, at this model's effective weight."""
        return design_of(
            comparisons,
            self.features,
            effective_weight=self.effective_weight,
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
            "shared_error": self.shared_error,
            "scalars": np.array(
                [self.effective_weight, self.half_life_seconds or np.inf, self.inflation, self.ending.objective]
            ),
            "ending": np.array([int(self.ending.converged), self.ending.passes], dtype=np.int64),
            "words": np.array([self.estimator, self.ending.reason]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Model":
        """The model that `to_arrays` described, with no users."""

        def number(name: str) -> Real:
            return real(np.asarray(arrays[name], dtype=np.float64))

        weight, half_life, inflation, objective = (float(v) for v in number("scalars"))
        converged, passes = (int(v) for v in np.asarray(arrays["ending"], dtype=np.int64))
        estimator, reason = (str(v) for v in arrays["words"])
        shared = Shared(number("theta_0"), number("subspace"), number("adapter_covariance"), number("ridge"))
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
            half_life_seconds=None if np.isinf(half_life) else half_life,
            inflation=inflation,
            ending=Ending(bool(converged), passes, reason, objective),
            diagnostics=None,
        )


def fold_in(model: Model, comparisons: Comparisons, *, tolerance: float = 1e-8) -> Adapter:
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
    users = np.unique(comparisons.user)
    if len(users) > 1:
        raise InvalidComparisonsError(f"comparisons of one user were expected; found users {users[0]} and {users[1]}.")
    if len(users) == 0:
        return model.population()
    return fold_in_users(model, comparisons.of_users(users), tolerance=tolerance)[0]


def fold_in_users(model: Model, comparisons: Comparisons, *, tolerance: float = 1e-8) -> Adapters:
    """`fold_in` for the users 0 .. n_users - 1 of these comparisons at once."""
    return solve_adapters(model.shared, model.design(comparisons), model.estimator, tolerance=tolerance)


def solve_adapters(shared: Shared, design: Design, estimator: str, *, tolerance: float = 1e-8) -> Adapters:
    """Every user's adapter at these shared parameters, solved to convergence."""
    offset, Z = design.scores(shared.Theta_0), design.project(shared.B)
    solve = penalised_maximum if estimator == "mle" else posterior
    return solve(design, offset, Z, shared.T, tolerance=tolerance).adapters(design, shared.k)


def expected_probability(mean: Real, variance: Real) -> Real:
    """E[sigmoid(eta)] for eta ~ N(mean, variance), by MacKay's probit-style correction."""
    return sigmoid(mean / np.sqrt(1.0 + np.pi * variance / 8.0))


def no_adapters(shared: Shared) -> Adapters:
    p = len(shared.T)
    nobody = np.zeros(0, dtype=np.int64)
    return Adapters(np.zeros((0, shared.k, shared.d2)), np.zeros((0, p, p)), nobody, nobody.astype(np.bool_), nobody)


def with_inflation(model: Model, inflation: float) -> Model:
    return replace(model, inflation=inflation)


def covariance_root(covariance: Real) -> Real:
    """A symmetric root; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def compressed(factor: Real) -> Real:
    """A factor of the same covariance with no more columns than rows."""
    if factor.shape[1] <= factor.shape[0]:
        return factor
    return np.ascontiguousarray(np.linalg.qr(factor.T)[1].T)


def _stacked(adapters: Adapters | Sequence[Adapter]) -> tuple[Real, Real]:
    """(N, k, d2) means and (N, p, p) covariances."""
    if isinstance(adapters, Adapters):
        return adapters.means, adapters.covariances
    return np.stack([a.mean for a in adapters]), np.stack([a.covariance for a in adapters])


def _variances(Z: Real, covariances: Real, user: NDArray[np.int64]) -> Real:
    """(n,) z_j^T V_user(j) z_j, in blocks of comparisons so that no (n, p, p) array is formed."""
    out, p = np.zeros(len(Z)), max(Z.shape[1], 1)
    step = max(1, 4_000_000 // p**2)
    for begin in range(0, len(Z), step):
        rows = slice(begin, begin + step)
        out[rows] = np.einsum("np,npq,nq->n", Z[rows], covariances[user[rows]], Z[rows], optimize=True)
    return out
