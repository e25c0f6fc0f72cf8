"""The default estimator: (Theta_0, B, T) and items' own effects, at the maximum of a bound on the evidence.

The adapters are random effects, vec(W_i) ~ N(0, T) with T = R (x) S, and R alone where d2 = 1. So are the items' biases
and loadings (app.learning.items). Their posteriors are Gaussian and independent of each other, adapters user by user,
effects item by item. One pass is
- E: the posterior of every adapter, two steps towards it (app.learning.adapters). An uncertain item says less: its
  loadings' covariances C add to the information, z z^T + C_chosen + C_rejected, which is what keeps many dimensions
  safe;
- parameter expansion: the adapters' mean moves into Theta_0 and the biases, their second moment into T;
- M: weighted least squares for (Theta_0, biases, B, loadings) under E[vec(W) vec(W)^T], by truncated conjugate
  gradients;
- the items' covariances and the priors;
- balance: the adapters' spread is made 1 along every direction, B and the loadings absorb it.
The bound itself:

    sum_j a_j E[label_j eta_j - log(1 + exp(eta_j))] - sum_i KL(q_i || N(0, T)) - sum_m KL(q_m || priors)
    - 1/2 sum_b ridge_b ||Theta_0[:, b]||^2 - stiffness / 2 tr(B R B^T)

The last is the prior of a subspace (`subspace_precision`), learnt where it has many rows (`Told`). Without it, what few
users say and nothing contradicts is believed without end. The first is the expectation under a Gaussian score itself.
Jaakkola and Jordan's quadratic bound on it, which gives closed forms, shrinks users who are far from each other:
benchmarks/peers.py shows it.

Source: Opper & Archambeau 2009 for the Gaussian approximation; Monahan & Stefanski 1992 for the logistic mixture;
Jaakkola & Jordan 2000 for the quadratic that touches a symmetric loss; parameter expansion after Liu, Rubin & Wu 1998;
posteriors on both sides of a factorisation after Lim & Teh 2007; the subspace's prior after MacKay 1992.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from app.learning import kernels
from app.learning.adapters import ADAPTER_TOLERANCE, Moments, Solution, posterior, rounded_up
from app.learning.arrays import Int, Real, on_lines, product, symmetric
from app.learning.conjugate import conjugate_gradients
from app.learning.design import Design, place_of
from app.learning.grams import EXHAUSTED, Grams, SparseGrams, grams_of
from app.learning.items import Items, narrowed, turned, widened
from app.learning.lanes import LANES
from app.learning.parameters import Ending, Shared
from app.learning.preconditioner import RIDGE_BOUNDS, BlockPreconditioner
from app.learning.residual import beside, factor_analytic, in_gauge_beside, without_residual

INITIAL_SPREAD = 0.5
"""Prior variance of an adapter's entries before the first pass, in squared log-odds."""
INITIAL_BIAS_VARIANCE = 1.0
OPEN_BIAS_VARIANCE, SEEN_BIAS_VARIANCE = 0.05, 0.01
"""After a sample of users that has found less than the latter."""
INITIAL_LOADING_VARIANCE = 0.05
"""Of an item's own loading, relative to a direction of the features."""
SMALLEST_VARIANCE = 1e-8
"""Floor of T's eigenvalues: a direction below it is switched off, and the solves stay finite."""
SMALLEST_SPREAD = 1e-4
"""Floor of the adapters' spread, in log-odds, along a direction that nobody needs any more."""
SMALLEST_EFFECT = 1e-5
"""Floor of the variance of items' biases and loadings."""
SMALLEST_SHARE = 0.05
"""Floor of what the data determine of an item's effect, in the step of its prior."""
SMALLEST_KNOWN = 0.6
"""Floor of what comparisons determine of an adapter's variance, in the step of its prior."""
SMALLEST_KNOWN_OF_COLUMNS = 0.2
"""The same in the step of the columns' part, which B does not take over: what users don't have there must fade from it,
which EM's steps, the shorter the less is left, don't do in hundreds of passes."""
EVEN_ROWS = 10
"""Rows of W, spread evenly along the columns, that S is learnt from beside the users' own (an inverse Wishart prior).
At the likeliest value of few users with few comparisons, nobody differs along some columns."""
SMALLEST_COLUMN = 1e-4
"""Floor of the eigenvalues of S, whose mean is 1: below it a context is switched off, and the solves stay precise."""
LARGEST_STRIDE = 1.0
"""Of the logarithm of the adapters' prior in one pass."""
DIRECTION_VARIANCE = 2.0
"""In squared log-odds, at most: with standardised features, B's entries have variance 1 / d1."""
FEWEST_ROWS = 12
"""Of B, for its prior to be learnt: of fewer the largest variance is as good a guess as what they tell."""
LARGEST_CAUTION = 1e4
"""Factor of that prior's precision: beyond it a direction is nothing, and solves would suffer."""
SIZE_COMPARISONS = 200
"""Comparisons that tell how large designs are."""
STRETCH = 1.5
"""Of the M step, to the minimum of a quadratic above the loss: below 2, none raises it. Where items have effects, whose
priors are learnt meanwhile, it saves passes, but trials of the same rank end further from each other."""
ALONE, WITH_RESIDUAL = (15, 0.1), (40, 0.003)
"""Iterations and tolerance of the M step: B and a residual are told apart slowly, and by coarse steps passes swing."""
CAUTION = 1.0 / 3.0
"""Share of Newton's step that the priors of items' effects take in a pass."""
LARGEST_STEP = 2.0
"""Of a prior variance's logarithm in one pass."""
GRAM_COMPARISONS = 50_000
"""Comparisons that stand for all in the preconditioner and in the ridge's estimate."""
FRESH_GRAMS = (1, 10)
"""Passes at which the Gram matrices are formed anew."""

GIVEN_PRIORS = 5
"""First passes of adapters from scratch in which priors of items' effects are as given: before adapters have found
their spread, loadings look like nothing, and priors that follow never let them back. No fit ends before it learns
them."""
FIRST_TIGHTENINGS = 5
TIGHTENINGS = 2
"""Steps of the E step in a pass, the first one and all others: a second costs a third of the first."""
SLOWEST = 0.95
"""Largest ratio of successive gains that the estimate of what is left believes."""
FASTEST = 0.5
"""Smallest ratio of successive gains that it believes while priors are on their way."""
SLOWEST_FROM_NEARBY = 0.9
"""Ratio of successive gains that is believed where there is one gain only."""
NEARBY_TOLERANCE = 1e-3
"""As ADAPTER_TOLERANCE, of E steps near the maximum that are not the last: the bound is within its square."""
STRIDES = (1.1, 2.5)
"""Of M steps near the maximum, in turn. Where adapters take part of every change upon themselves, a pass leaves up
to 0.7 of what is missing, and elsewhere next to nothing: after these two strides, Chebyshev's, at most a sixth is left,
and after two of one length half. Without adapters there is no such difference."""

Unknowns = tuple[Real, Real, Real, Real]
"""Theta_0 (d1, d2), biases (E + 1,), B (d1, k), loadings (E + 1, k), or changes of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What a pass leaves behind for the next one."""

    shared: Shared
    scores: Moments
    """Of the comparisons, under the posteriors."""
    bound: float
    """Of `shared` before this pass changed it."""
    grams: Grams
    """That the pass was preconditioned with."""
    told: "Told"
    """Of B before this pass."""


def starting_point(
    Theta_0: Real, B: Real, ridge: Real, item_ids: Int | None = None, loadings: Real | None = None
) -> Shared:
    """Adapters of unit spread; items (E,) with these loadings (E, k) and no biases yet."""
    k, ids = B.shape[1], np.zeros(0, dtype=np.int64) if item_ids is None else item_ids
    E = len(ids)
    own = np.zeros((E, k)) if loadings is None else loadings
    prior = INITIAL_LOADING_VARIANCE / (len(B) + E) * np.eye(k) + own.T @ own / max(E, 1)
    items = Items(
        ids,
        np.zeros(E + 1),
        np.zeros(E + 1),
        np.concatenate([own, np.zeros((1, k))]),
        np.zeros((E + 1, k, k)),
        INITIAL_BIAS_VARIANCE,
        prior,
    )
    T = INITIAL_SPREAD * np.eye(k * Theta_0.shape[1])
    return Shared(Theta_0, B, T, ridge, items) if E else Shared(Theta_0, B, T, ridge)


def continued(shared: Shared, item_ids: Int) -> Shared:
    """The same parameters for these items (E,), ascending: those not known yet have the prior."""
    items = shared.items
    if not len(items):
        fresh = starting_point(shared.Theta_0, shared.B[:, : shared.rank], shared.ridge, item_ids)
        return replace(shared, items=widened(fresh.items, shared.residual))
    row = np.append(place_of(items.ids, item_ids, len(item_ids)), len(items.ids))
    own = replace(
        items,
        ids=item_ids,
        bias=items.bias[row],
        bias_variance=items.bias_variance[row],
        loadings=items.loadings[row],
        covariance=items.covariance[row],
    )
    return replace(shared, items=own)


def with_biases_open(shared: Shared) -> Shared:
    """The same start, with room for items' biases where a sample of users has found next to none.

    It knows few of each item's comparisons, and a prior that has fallen to its floor never gets off it. Items have no
    posteriors until a pass has looked at them, so that the prior is not learnt in the first one.
    """
    items = shared.items
    if not len(items) or items.bias_prior >= SEEN_BIAS_VARIANCE:
        return shared
    variance = np.append(np.zeros(len(items)), OPEN_BIAS_VARIANCE)
    return replace(shared, items=replace(items, bias_prior=OPEN_BIAS_VARIANCE, bias_variance=variance))


def without_adapters(shared: Shared) -> Shared:
    """The same for everybody: where a fit of rank 0 is near its end."""
    items, none = shared.items, np.zeros((0, 0))
    E = len(items) + 1
    own = replace(items, loadings=np.zeros((E, 0)), covariance=np.zeros((E, 0, 0)), prior=none)
    return Shared(shared.Theta_0, np.zeros((len(shared.B), 0)), none, shared.ridge, own)


def maximise_evidence(
    design: Design,
    start: Shared,
    *,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None] | None = None,
) -> tuple[Shared, Ending]:
    """Passes until what is left to gain falls below `tolerance` of the bound, or `max_passes`.

    What is left is told from the last gains, as of a geometric series; a pass that learns priors may lower the bound,
    or gain little by accident, so that one small gain alone ends nothing (`still_to_gain_from_afar`). What B's prior
    costs counts there, or its changes would look like gains and losses.
    """
    scores, shared, grams, before, objective, gains = None, _balanced(start), None, -np.inf, -np.inf, list[float]()
    given = GIVEN_PRIORS if start.k and len(start.items) and not start.items.bias_variance[-1] > 0 else 0
    least = stiffness = subspace_precision(design)
    for passes in range(1, max_passes + 1):
        step = evidence_pass(
            design,
            shared,
            scores,
            grams=None if passes in FRESH_GRAMS else grams,
            stiffness=stiffness,
            tightenings=FIRST_TIGHTENINGS if passes == 1 else TIGHTENINGS,
            learn_item_priors=passes > given,
        )
        if report is not None:
            report(passes, step.bound)
        shared, scores, grams, objective = step.shared, step.scores, step.grams, step.bound
        evidence = objective - step.told.cost(stiffness)
        gains.append(evidence - before)
        before = evidence
        if passes > given + 3 and still_to_gain_from_afar(gains[-3:]) <= tolerance * abs(objective):
            ending = Ending(converged=True, passes=passes, reason="the bound stands still", objective=objective)
            return orthonormalised(shared), ending
        if passes > given:
            # Half of the way: where nothing is known of any adapter, all of it would swing for ever.
            stiffness = float(np.sqrt(stiffness * step.told.likeliest_precision(shared, least)))
    ending = Ending(converged=False, passes=max_passes, reason="the pass limit was reached", objective=objective)
    return orthonormalised(shared), ending


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """Where passes from nearby ended."""

    shared: Shared
    """In the gauge of the passes."""
    ending: Ending
    solution: Solution
    """Every adapter's posterior there."""

    def moved(self, shared: Shared) -> Solution:
        """The adapters' posteriors in the gauge of `shared`, the same model with [B; loadings] orthonormal."""
        k, p = shared.k, len(shared.T)
        if not k:
            return self.solution
        turn = shared.B.T @ self.shared.B + shared.items.loadings.T @ self.shared.items.loadings
        K = np.kron(turn, np.eye(shared.d2))
        covariances = self.solution.covariances.reshape(-1, p * p) @ np.kron(K, K).T
        return replace(self.solution, means=self.solution.means @ K.T, covariances=covariances.reshape(-1, p, p))


def maximise_from_nearby(
    design: Design,
    start: Shared,
    *,
    max_passes: int,
    tolerance: float,
    least: int = 1,
    settled: float = ADAPTER_TOLERANCE,
    report: Callable[[int, float], None] | None = None,
) -> Maximum:
    """The same from a start near the maximum, such as the previous model's parameters: one or two passes are enough.

    Every E step is solved to its end. So the bound tells what the parameters have gained, not what adapters on their
    way have; two small gains, or one that is very small, are no accident then; and the last E step is the model's own.

    Parameters
    ----------
    least
        Gains that are known before what is left is told from them.
    settled
        As the tolerance of `posterior`, of every E step but the first.
    """
    scores, shared, grams, before, rates = None, _balanced(start), None, -np.inf, list[float]()
    smallest, strides = subspace_precision(design), STRIDES if start.k and not start.residual else (1.0, 1.0)
    # The first bound of items without posteriors says nothing of them.
    first = 2 if len(start.items) and not start.items.bias_variance[0] > 0 else 1
    for passes in range(1, max_passes + 1):
        solution = posterior(design, shared, start=scores, tolerance=NEARBY_TOLERANCE if scores is None else settled)
        scores, crowd = (solution.score_mean, solution.score_variance), Crowd.of(solution, shared.T)
        if grams is None:
            grams = grams_of(design, solution.mean_weight, at_most=GRAM_COMPARISONS)
        if passes == 1 or least > 1:
            # What a sample has found of B is less than there is.
            stiffness = told_of_subspace(design, shared, solution, grams).likeliest_precision(shared, smallest)
        bound = evidence_bound(shared, solution, crowd, stiffness)
        if report is not None:
            report(passes, bound)
        if passes > first:
            # What is slow gains by the length of the stride: a short one after a long one doesn't look like an end.
            rates.append((bound - before) / strides[passes % 2])
            last, more = last_and_more(rates[-3:])
            left = max(last * strides[passes % 2], more * sum(strides) / 2)
            if len(rates) >= least and left <= tolerance * abs(bound):
                ending = Ending(converged=True, passes=passes, reason="the bound stands still", objective=bound)
                return Maximum(shared, ending, solution)
            strides = strides if rates[-1] >= 0 else (1.0, 1.0)
        before = bound
        step = improved(
            design,
            shared,
            Expectation(solution, crowd, bound),
            grams=None if passes in FRESH_GRAMS[1:] else grams,
            stiffness=stiffness,
            stretch=strides[(passes - 1) % 2],
        )
        shared, grams = step.shared, step.grams
    ending = Ending(converged=False, passes=max_passes, reason="the pass limit was reached", objective=before)
    return Maximum(shared, ending, posterior(design, shared, start=scores, tolerance=settled))


def subspace_precision(design: Design) -> float:
    """Of the prior of B's entries, adapters having unit spread.

    Such that every direction is expected to add DIRECTION_VARIANCE to the variance of a comparison's score over users:
    the same whatever the features' units, and where they are rotated or left out because no item differs in them.
    """
    some = np.unique(np.linspace(0, design.n - 1, SIZE_COMPARISONS).astype(np.int64))
    total = 0.0
    for j in some:
        terms = slice(design.indptr[j], design.indptr[j + 1])
        sides = design.signs[terms, None] * (design.Y[design.cols[terms]] if design.d2 > 1 else 1.0)
        total += float((product(design.X[design.rows[terms]].T, sides) ** 2).sum())
    return total / (len(some) * DIRECTION_VARIANCE)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What comparisons tell of B, adapters having unit spread: the eigenvalues of the information about its entries.

    As far as the adapters' means tell of it: where nothing is known of any adapter, nothing is known of B. Empty where
    B's prior is given.
    """

    information: Real
    counts: Real
    """How many entries each one stands for."""

    def cost(self, precision: float) -> float:
        """What the prior of B takes from the logarithm of the evidence beside its penalty, in nats."""
        return 0.5 * float(self.counts @ np.log1p(self.information / precision))

    def likeliest_precision(self, shared: Shared, given: float) -> float:
        """Of B's entries, but `given` at least: the root of MacKay's fixed point.

        The precision is the number of entries that are known, sum t / (t + precision), over the sum of their squares.
        So a direction is believed from where users differ along it so much that data tell it from chance: with N
        users, each informed g, and a variance v of theirs, from g v = sqrt(d1 / N) on, as principal components are
        (Baik, Ben Arous & Peche 2005).
        """
        size = float(np.vdot(shared.B.T @ shared.B, row_spread(shared.T, shared.k, shared.d2)))

        def too_small(precision: float) -> bool:
            known = float(self.counts @ (self.information / (self.information + precision)))
            return known > precision * size

        if not len(self.counts) or not too_small(given):
            return given
        low, high = np.log(given), np.log(given * LARGEST_CAUTION)
        for _ in range(40):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if too_small(float(np.exp(middle))) else (low, middle)
        return float(np.exp(low))


def told_of_subspace(design: Design, shared: Shared, solution: Solution, grams: Grams) -> Told:
    """At these posteriors of the adapters."""
    N, k, d2 = design.n_users, shared.k, shared.d2
    nothing = np.zeros(0)
    if not k or shared.residual or design.d1 < FEWEST_ROWS or isinstance(grams, SparseGrams):
        return Told(nothing, nothing)
    information = np.bincount(design.user, solution.mean_weight, minlength=N)
    means = solution.means.reshape(N, k, d2)
    moments = np.einsum(
        "i,iab,icb->bac", information / max(float(information.sum()), 1e-300), means, means, optimize=True
    )
    total = moments.sum(axis=0)
    values, counts = grams.pooled_spectrum(np.trace(moments, axis1=1, axis2=2) / max(float(np.trace(total)), 1e-300))
    if counts @ (values > EXHAUSTED * values.max()) < FEWEST_ROWS:
        return Told(nothing, nothing)
    back = np.linalg.inv(np.linalg.cholesky(floored(row_spread(shared.T, k, d2))))
    directions = np.linalg.eigvalsh(symmetric(back @ total @ back.T))
    return Told(np.maximum(np.outer(values, directions), 0.0).ravel(), np.repeat(counts, k))


def still_to_gain(gains: Sequence[float]) -> float:
    """At least what a series with these last terms, three at most, has left, if it goes on as slowly as it went."""
    return max(last_and_more(gains))


def last_and_more(gains: Sequence[float]) -> tuple[float, float]:
    """The size of such a series' last term, and of all that follow it."""
    sizes = [abs(gain) for gain in gains]
    ratios = [b / max(a, 1e-300) for a, b in pairwise(sizes)]
    slowest = min(max(ratios, default=SLOWEST_FROM_NEARBY), SLOWEST)
    last = sizes[-1] if min(gains) > 0 else max(sizes[-2:])
    return last, last * slowest / (1 - slowest)


def still_to_gain_from_afar(gains: Sequence[float]) -> float:
    """The same of three passes that learn priors from scratch, whose gains cross zero where nothing is at its end yet.

    So a last gain that is much smaller than the one before is not believed.
    """
    first, before, last = (abs(gain) for gain in gains)
    slowest = max(before / max(first, 1e-300), last / max(before, 1e-300))
    expected = max(last, min(max(slowest, FASTEST), SLOWEST) * before)
    return max(expected, still_to_gain(gains))


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """An E step."""

    solution: Solution
    crowd: "Crowd"
    bound: float


def evidence_pass(
    design: Design,
    shared: Shared,
    scores: Moments | None = None,
    *,
    grams: Grams | None = None,
    stiffness: float = 0.0,
    learn_priors: bool = True,
    learn_item_priors: bool = True,
    tightenings: int = TIGHTENINGS,
) -> Pass:
    """One E step, expansion, M step, update of the priors and return to the gauge; `stiffness` is B's prior precision.

    With fixed priors of Theta_0 and the items no pass lowers the bound; the fixed points that learn them are no ascent
    steps.
    """
    solution = posterior(design, shared, start=scores, iterations=tightenings)
    crowd = Crowd.of(solution, shared.T)
    return improved(
        design,
        shared,
        Expectation(solution, crowd, evidence_bound(shared, solution, crowd, stiffness)),
        grams=grams,
        stiffness=stiffness,
        learn_priors=learn_priors,
        learn_item_priors=learn_item_priors,
    )


def improved(
    design: Design,
    shared: Shared,
    expected: Expectation,
    *,
    grams: Grams | None = None,
    stiffness: float = 0.0,
    stretch: float | None = None,
    learn_priors: bool = True,
    learn_item_priors: bool = True,
) -> Pass:
    """What a pass does after its E step."""
    solution, crowd, bound = expected.solution, expected.crowd, expected.bound
    scores = solution.score_mean, solution.score_variance
    w, v = solution.mean_weight, solution.variance_weight
    if grams is None:
        grams = grams_of(design, w, at_most=GRAM_COMPARISONS)
    told = told_of_subspace(design, shared, solution, grams)
    expanded, means = _absorb(design, shared, solution, crowd, stiffness)
    if learn_priors:
        expanded = hastened(shared, expanded, crowd.covariance / crowd.size, crowd.size)
    solution = replace(solution, means=means)
    ready, tail = without_residual(expanded), expanded.B[:, expanded.rank :]
    # The prior's step takes the posteriors of the pass before, which belong to the prior as it is.
    learn_items = learn_priors and learn_item_priors and ready.items.bias_variance[0] > 0
    ready = with_item_priors(ready) if learn_items else ready
    ready = with_item_posteriors(ready, *row_information(design, solution.along(len(ready.T)), v, ready.k))
    if stretch is None:
        stretch = 1.0 if len(ready.items) else STRETCH
    moved = weighted_least_squares(
        design, ready, solution, w, v, grams, stiffness=stiffness, stretch=stretch, residual=tail,
        effort=WITH_RESIDUAL if tail.size else ALONE,
    )  # fmt: skip
    if learn_priors:
        moved = with_ridge(moved, grams)
    return Pass(_balanced(beside(moved, expanded)), scores, bound, grams, told)


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """Sums over the users with comparisons."""

    size: int
    total: Real
    """(p,) of the adapters' means."""
    second: Real
    """(p, p) of the means' squares."""
    covariance: Real
    """(p, p) of the covariances."""
    log_volume: float

    @classmethod
    def of(cls, solution: Solution, T: Real) -> "Crowd":
        means, p = solution.means, len(T)
        heard = np.isfinite(solution.log_volume)
        others = len(heard) - int(heard.sum())
        # All others have the mean 0 and the covariance T.
        total = np.ones(len(means)) @ solution.covariances.reshape(len(means), p * p)
        return cls(
            len(heard) - others,
            means.sum(axis=0),
            means.T @ means,
            total.reshape(p, p) - others * T,
            float(solution.log_volume[heard].sum()),
        )


def evidence_bound(shared: Shared, solution: Solution, crowd: Crowd, stiffness: float) -> float:
    """The bound in nats at these posteriors."""
    prior = 0.5 * float((shared.ridge * shared.Theta_0**2).sum())
    prior += 0.5 * stiffness * float(np.vdot(shared.B.T @ shared.B, row_spread(shared.T, shared.k, shared.d2)))
    items = narrowed(shared.items, shared.rank)
    return float(solution.likelihood.sum()) - prior - _divergence(shared.T, crowd) - items_divergence(items)


def _divergence(T: Real, crowd: Crowd) -> float:
    """The sum over users of KL(N(m_i, V_i) || N(0, T))."""
    p, N = len(T), crowd.size
    if p == 0 or N == 0:
        return 0.0
    spread = float(np.vdot(np.linalg.inv(T), crowd.second + crowd.covariance))
    return 0.5 * (spread - p * N - crowd.log_volume + N * float(np.linalg.slogdet(T)[1]))


def items_divergence(items: Items) -> float:
    """The sum over items of KL(posterior || prior) of biases and loadings; 0 before the first update."""
    E, k = len(items), items.rank
    if not E or not items.bias_variance[0] > 0:
        return 0.0
    bias, variance, loadings, covariance = (
        a[:-1] for a in (items.bias, items.bias_variance, items.loadings, items.covariance)
    )
    ratio = variance / items.bias_prior
    total = float((ratio - 1.0 - np.log(ratio) + bias**2 / items.bias_prior).sum())
    if k:
        second = loadings.T @ loadings + covariance.sum(axis=0)
        volumes = -float(inverses(covariance)[1].sum())
        total += float(np.vdot(np.linalg.inv(items.prior), second)) - k * E - volumes
        total += E * float(np.linalg.slogdet(items.prior)[1])
    return 0.5 * total


def _absorb(design: Design, shared: Shared, solution: Solution, crowd: Crowd, stiffness: float) -> tuple[Shared, Real]:
    """Move the adapters' common mean into Theta_0 and the biases, and their spread into T; the centred means too."""
    if shared.k == 0:
        return shared, solution.means
    k, d2, items, N = shared.k, shared.d2, shared.items, crowd.size
    precision = np.linalg.inv(shared.T)
    pull = np.kron(shared.B.T @ shared.B, np.diag(shared.ridge))
    target = precision @ crowd.total - (shared.B.T @ (shared.Theta_0 * shared.ridge)).ravel()
    if len(items):
        constant = np.eye(1, d2)[0]
        pull += np.kron(items.loadings.T @ items.loadings / items.bias_prior, np.diag(constant))
        target -= np.kron(items.loadings.T @ items.bias / items.bias_prior, constant)
    common = np.linalg.solve(N * precision + pull, target)
    means = solution.means - common
    means[design.counts() == 0] = 0.0
    moved = np.outer(common, crowd.total / N)
    second_moment = (crowd.second + crowd.covariance) / N - moved - moved.T + np.outer(common, common)
    pull = stiffness / N * shared.B.T @ shared.B
    T = separable_covariance(second_moment, shared.T, k, d2, pull, residual=shared.residual)
    A = common.reshape(k, d2)
    items = replace(items, bias=items.bias + items.loadings @ A[:, 0])
    return replace(shared, Theta_0=shared.Theta_0 + shared.B @ A, T=T, items=items), means


def row_spread(T: Real, k: int, d2: int) -> Real:
    """(k, k) R of T = R (x) S, S of trace d2."""
    return np.asarray(np.einsum("abcb->ac", T.reshape(k, d2, k, d2)) / d2)


def factors(T: Real, k: int, d2: int) -> tuple[Real, Real]:
    """R (k, k) and S (d2, d2) of T = R (x) S, S of trace d2."""
    S = np.einsum("abad->bd", T.reshape(k, d2, k, d2))
    return row_spread(T, k, d2), floored(S * (d2 / np.trace(S)))


def separable_covariance(
    second_moment: Real, T: Real, k: int, d2: int, pull: Real | None = None, *, residual: int = 0
) -> Real:
    """The next T = R (x) S, R (k, k) and S (d2, d2), by one round of the matrix normal's alternating updates.

    A free (p, p) covariance has too many entries for the users there are; each update maximises the bound in its
    factor. `pull` (k, k) is the Hessian of B's prior in R, a user.
    """
    moment, (_, S) = second_moment.reshape(k, d2, k, d2), factors(T, k, d2)
    G = np.zeros((k, k)) if pull is None else pull
    R = factor_analytic(_penalised(np.einsum("abcd,bd->ac", moment, np.linalg.inv(S)) / d2, G / d2), residual)
    if d2 > 1:
        own = float(np.vdot(G, R)) / (k * d2)
        S = _penalised(np.einsum("abcd,ac->bd", moment, np.linalg.inv(R)) / k, own * np.eye(d2))
    return symmetric(np.asarray(np.kron(R, S), dtype=np.float64))


def _penalised(M: Real, pull: Real) -> Real:
    """R with R pull R + R = M: the covariance of effects with second moment M and a penalty of tr(R pull) each."""
    root = _power(floored(M), 0.5)
    values, vectors = np.linalg.eigh(symmetric(root @ pull @ root))
    shrunk = (vectors * (2.0 / (1.0 + np.sqrt(1.0 + 4.0 * np.maximum(values, 0.0))))) @ vectors.T
    return floored(root @ shrunk @ root)


def hastened(before: Shared, after: Shared, covariance: Real, users: int) -> Shared:
    """The adapters' prior moved further: EM's step of T is the shorter, the less is known about each user.

    `covariance` (p, p) is the average of the posteriors of so many.

    With G the share of an adapter's variance that comparisons determine, whitened by T, EM's step of T's logarithm is
    about G (.) G of Newton's.
    """
    k, d2 = before.k, before.d2
    if not k:
        return after
    unknown = covariance.reshape(k, d2, k, d2)
    (R, S), (of_rows, of_columns) = factors(before.T, k, d2), factors(after.T, k, d2)
    # What T grows by as a whole is R's.
    growth = float(np.exp((np.linalg.slogdet(of_columns)[1] - np.linalg.slogdet(S)[1]) / d2))
    left = np.einsum("abcd,bd->ac", unknown, np.linalg.inv(S)) / d2
    T = factor_analytic(further(R, growth * of_rows, left, SMALLEST_KNOWN), after.residual)
    if after.residual:
        # One number of so many entries needs less care, and may have to vanish.
        tail, last = range(k - after.residual, k), slice(k - 1, k)
        mean = left[tail, tail].mean(keepdims=True)[None]
        T[tail, tail] = further(R[last, last], growth * of_rows[last, last], mean, SMALLEST_SHARE)
    if d2 > 1:
        left = np.einsum("abcd,ac->bd", unknown, np.linalg.inv(R)) / k
        even = float(np.trace(of_columns)) / d2 * np.eye(d2)
        share = EVEN_ROWS / (users * k + EVEN_ROWS)
        of_columns = (1.0 - share) * of_columns + share * even
        columns = further(S, of_columns / growth, left, SMALLEST_KNOWN_OF_COLUMNS, share / growth * even)
        T = np.asarray(np.kron(T, floored(columns, SMALLEST_COLUMN * float(np.trace(columns)) / d2)))
    return replace(after, T=symmetric(T))


def further(old: Real, new: Real, left: Real, smallest_known: float, pull: Real | None = None) -> Real:
    """From a covariance (q, q) past EM's new one, `left` being what posteriors leave of the old one on average.

    `pull` (q, q) is a prior's part of the new one, whose step is not short.
    """
    root = _power(floored(old), 0.5)
    back = np.linalg.inv(root)
    determined = floored(np.eye(len(old)) - symmetric(back @ left @ back), smallest_known)
    slope = determined @ determined if pull is None else determined @ determined + back @ pull @ back
    known = _power(slope, -0.5)
    values, vectors = np.linalg.eigh(symmetric(back @ floored(new) @ back))
    step = symmetric(known @ ((vectors * np.log(values)) @ vectors.T) @ known)
    values, vectors = np.linalg.eigh(step)
    stride = np.exp(np.clip(values, -LARGEST_STRIDE, LARGEST_STRIDE))
    return symmetric(root @ ((vectors * stride) @ vectors.T) @ root)


def floored(T: Real, smallest: float = SMALLEST_VARIANCE) -> Real:
    values, vectors = np.linalg.eigh(symmetric(T))
    if values.size == 0 or values[0] >= smallest:
        return symmetric(T)
    return symmetric((vectors * np.maximum(values, smallest)) @ vectors.T)


def _balanced(shared: Shared) -> Shared:
    """The gauge of the passes: adapters of unit spread, so that a direction nobody needs fades from B, not from T."""
    if shared.k == 0:
        return shared
    k, d2 = shared.k, shared.d2
    spread = floored(row_spread(shared.T, k, d2))
    root = np.asarray(np.linalg.cholesky(spread), dtype=np.float64)
    K = np.kron(np.linalg.inv(root), np.eye(d2))
    return replace(shared, B=shared.B @ root, T=symmetric(K @ shared.T @ K.T), items=turned(shared.items, root))


def orthonormalised(shared: Shared) -> Shared:
    """The gauge of a model: [B; loadings] orthonormal, and the adapters take what that needs."""
    if shared.k == 0:
        return shared
    if shared.residual:
        return in_gauge_beside(orthonormalised(without_residual(shared)), shared)
    F = len(shared.B)
    Q, spread, turn = np.linalg.svd(np.concatenate([shared.B, shared.items.loadings]), full_matrices=False)
    spread = np.maximum(spread, SMALLEST_SPREAD)
    K = np.kron(spread[:, None] * turn, np.eye(shared.d2))
    items = replace(
        turned(shared.items, np.asarray(turn.T / spread, dtype=np.float64)), loadings=np.ascontiguousarray(Q[F:])
    )
    return replace(shared, B=np.ascontiguousarray(Q[:F]), T=floored(K @ shared.T @ K.T), items=items)


def row_information(design: Design, solution: Solution, w: Real, k: int) -> tuple[Real, Real]:
    """(E,) the information about every item's bias, and (E, k, k) about its loadings."""
    if not design.n_items:
        return np.zeros(0), np.zeros((0, k, k))
    if k == 0:
        return design.of_items(design.row_weights(w)), np.zeros((design.n_items, 0, 0))
    M, packed = design.n_rows, k * (k + 1) // 2

    def work(first: int, last: int) -> tuple[Real, Real]:
        h, J = np.zeros(M), on_lines((M, -(-packed // LANES), LANES))
        kernels.row_information(
            first,
            last,
            design.pointers,
            design.indptr,
            design.rows,
            w,
            design.d2,
            solution.means,
            solution.covariances,
            h,
            J,
        )
        return h, J

    parts = kernels.over_users(design.pointers, work, room=M * (1 + packed))
    h, J = parts[0]
    for more_h, more_J in parts[1:]:
        h += more_h
        J += more_J
    by_item, loaded = design.of_items(J.reshape(M, -1)), np.empty((design.n_items, k, k))
    kernels.over(design.n_items, lambda i, j: kernels.unpack(i, j, by_item, loaded))
    return design.of_items(h), loaded


def with_item_posteriors(shared: Shared, information: Real, loaded: Real) -> Shared:
    """The items' variances, each item by itself, at this information about them."""
    items = shared.items
    if not len(items):
        return shared
    variance = np.append(1.0 / (information + 1.0 / items.bias_prior), items.bias_prior)
    precision = np.linalg.inv(items.prior) if shared.k else items.prior
    covariance = inverses(loaded + precision)[0] if shared.k else loaded
    return replace(
        shared,
        items=replace(
            items,
            bias_variance=variance,
            covariance=np.ascontiguousarray(np.concatenate([covariance, items.prior[None]])),
        ),
    )


def inverses(matrices: Real) -> tuple[Real, Real]:
    """(E, k, k) inverses of symmetric positive definite matrices, and (E,) the logarithms of their determinants."""
    V, log = np.empty(matrices.shape), np.empty(len(matrices))
    kernels.over(len(matrices), lambda i, j: kernels.inverses(i, j, matrices, V, log))
    return V, log


def with_ridge(shared: Shared, grams: Grams) -> Shared:
    """The prior precisions of Theta_0's columns, by MacKay's fixed point."""
    ridge = np.clip(grams.determined(shared.ridge) / np.maximum((shared.Theta_0**2).sum(axis=0), 1e-12), *RIDGE_BOUNDS)
    return replace(shared, ridge=ridge)


def with_item_priors(shared: Shared) -> Shared:
    """The priors of the items' effects, towards the second moments of their posteriors: see `variance_step`."""
    items, E, k = shared.items, len(shared.items), shared.k
    if not E:
        return shared
    bias = variance_step(
        np.array([[items.bias_prior]]), items.bias[:-1, None], np.array([[items.bias_variance[:-1].sum()]])
    )
    loadings = variance_step(items.prior, items.loadings[:-1], items.covariance[:-1].sum(axis=0)) if k else items.prior
    bias_variance, covariance = items.bias_variance.copy(), items.covariance.copy()
    bias_variance[-1], covariance[-1] = bias[0, 0], loadings
    own = replace(
        items, bias_prior=float(bias[0, 0]), prior=loadings, bias_variance=bias_variance, covariance=covariance
    )
    return replace(shared, items=own)


def variance_step(prior: Real, means: Real, covariances: Real) -> Real:
    """A step of the prior covariance (q, q) of E effects towards its own posterior second moment.

    EM sets it to that moment, M + C with M the means' and C the average posterior covariance, and then needs thousands
    of passes to see that an effect is nothing: both shrink with the prior. Whitened by the prior, G = I - C is the
    share of an effect that the data determine; MacKay's update is G^-1/2 M G^-1/2. Its logarithm changes by about -G of
    a change of the prior's, so that G^-1/2 log(.) G^-1/2 is Newton's step in logarithms. A third of it is taken,
    because items that are compared with each other change together: at half of it, a prior of which nothing is known
    swings for ever.

    Parameters
    ----------
    means
        (E, q)
    covariances
        (q, q) the sum of the posterior covariances.
    """
    E = len(means)
    root = _power(prior, 0.5)
    back = np.linalg.inv(root)
    M = symmetric(back @ (means.T @ means) @ back) / E
    determined = floored(np.eye(len(prior)) - symmetric(back @ covariances @ back) / E, SMALLEST_SHARE)
    half = _power(determined, -0.5)
    values, vectors = np.linalg.eigh(symmetric(half @ M @ half))
    logarithm = (vectors * np.log(np.maximum(values, 1e-300))) @ vectors.T
    values, vectors = np.linalg.eigh(symmetric(half @ logarithm @ half))
    step = (vectors * np.exp(np.clip(CAUTION * values, -LARGEST_STEP, LARGEST_STEP))) @ vectors.T
    return floored(root @ step @ root, SMALLEST_EFFECT)


def _power(matrix: Real, power: float) -> Real:
    values, vectors = np.linalg.eigh(symmetric(matrix))
    return np.asarray((vectors * values**power) @ vectors.T)


def weighted_least_squares(
    design: Design,
    shared: Shared,
    solution: Solution,
    w: Real,
    v: Real,
    grams: Grams,
    *,
    effort: tuple[int, float] = ALONE,
    stiffness: float = 0.0,
    stretch: float = 1.0,
    residual: Real | None = None,
) -> Shared:
    """The M step, truncated: the expected complete-data quadratic never rises.

    Parameters
    ----------
    effort
        Iterations, at most, and the share of the gradient at which they end.
    solution
        Of the adapters, and behind them of what users have along `residual` (d1, r), which stays as it is.
    w, v
        (n,) weights of the scores' means and of their variances.
    stiffness
        B's prior precision.
    stretch
        How many times as far as to the minimum.
    grams
        Of the features, about; only the speed depends on them.
    """
    items = shared.items
    precision = np.linalg.inv(items.prior) if len(items) and shared.k else np.zeros((shared.k, shared.k))
    spread = stiffness * row_spread(shared.T, shared.k, shared.d2)

    def penalty(x: Unknowns) -> Unknowns:
        weight = 1.0 / items.bias_prior if len(items) else 0.0
        return shared.ridge * x[0], weight * x[1], x[2] @ spread, x[3] @ precision

    own = solution.along(len(shared.T))

    def operator(x: Unknowns) -> Unknowns:
        return _sum(quadratic(design, own, w, v, x), penalty(x))

    here: Unknowns = (shared.Theta_0, items.bias, shared.B, items.loadings)
    kappa = design.weight * (design.label - 0.5)
    slope = _sum(_slope(design, solution, w, v, here, kappa, residual), penalty(here))
    moments = user_moments(design, w, own.means, own.covariances, shared.k)
    blocks = BlockPreconditioner.of(grams, shared.ridge, moments)

    def precondition(x: Unknowns) -> Unknowns:
        change, turn = blocks((x[0], x[2]))
        if not len(items):
            return change, x[1], turn, x[3]
        bias, loadings = items.bias_variance * x[1], np.einsum("mkl,ml->mk", items.covariance, x[3])
        return change, bias, turn, loadings

    rhs: Unknowns = (-slope[0], -slope[1], -slope[2], -slope[3])
    change = conjugate_gradients(operator, precondition, rhs, iterations=effort[0], tolerance=effort[1])
    return replace(
        shared,
        Theta_0=shared.Theta_0 + stretch * change[0],
        B=shared.B + stretch * change[2],
        items=replace(items, bias=items.bias + stretch * change[1], loadings=items.loadings + stretch * change[3]),
    )


def _slope(
    design: Design, solution: Solution, w: Real, v: Real, x: Unknowns, kappa: Real, residual: Real | None
) -> Unknowns:
    """The gradient at x of the M step's loss, users having `residual` (d1, r) beside what x gives them."""
    if residual is None or not residual.shape[1]:
        return quadratic(design, solution, w, v, x, kappa)
    k, r = x[2].shape[1], residual.shape[1]
    whole = x[0], x[1], np.hstack([x[2], residual]), np.pad(x[3], ((0, 0), (0, r)))
    Theta, bias, B, loadings = quadratic(design, solution, w, v, whole, kappa)
    return Theta, bias, B[:, :k], loadings[:, :k]


def _sum(a: Unknowns, b: Unknowns) -> Unknowns:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def quadratic(design: Design, solution: Solution, w: Real, v: Real, x: Unknowns, kappa: Real | None = None) -> Unknowns:
    """The M step's Hessian times x, without priors; with `kappa` the gradient of its loss at x."""
    Theta, bias, B, loadings = x
    k, d2, M = B.shape[1], design.d2, design.n_rows
    offset, P, own = design.scores_and_tables(Theta, bias, B, loadings)
    apart = design.n_items > 0 and d2 > 1
    pull = np.zeros(0) if kappa is None else kappa
    if d2 == 1:
        P = rounded_up(P)

    def work(first: int, last: int) -> tuple[Real, Real]:
        G, H = np.zeros((M, d2 + int(apart))), on_lines((M, 2 * k if apart else P.shape[1]))
        if d2 == 1:
            kernels.normal_product_plain(
                first, last, design.pointers, design.indptr, design.rows, design.signs, P, offset, w, v, pull,
                solution.means, solution.covariances, G, H,
            )  # fmt: skip
            return G, H
        kernels.normal_product(
            first,
            last,
            design.pointers,
            *design.terms,
            P,
            own,
            apart,
            design.Y,
            offset,
            w,
            v,
            pull,
            solution.means,
            solution.covariances,
            G,
            H,
        )
        return G, H

    parts = kernels.over_users(design.pointers, work, room=M * (1 + k) * (1 + int(apart)))
    G, H = np.asarray(sum(part[0] for part in parts)), np.asarray(sum(part[1] for part in parts))
    H = H if apart else H[:, :k]
    of_bias, of_loadings = np.zeros_like(bias), np.zeros_like(loadings)
    if design.n_items:
        of_bias[:-1] = design.of_items(G[:, d2] if apart else G[:, 0])
        of_loadings[:-1] = design.of_items(H[:, k:] if apart else H)
    back = design.back(np.hstack([G[:, :d2], H[:, :k]]))
    return back[:, :d2], of_bias, back[:, d2:], of_loadings


def user_moments(design: Design, w: Real, means: Real, covariances: Real, k: int) -> Real:
    """(k, k) the users' E[W W^T] / d2, weighted by their information."""
    information = np.bincount(design.user, w, minlength=design.n_users)
    share = information / max(float(information.sum()), 1e-300)
    N, d2 = design.n_users, design.d2
    mean = means.reshape(N, k, d2)
    own = np.einsum("i,iab,icb->ac", share, mean, mean, optimize=True)
    spread = np.einsum("i,iabcb->ac", share, covariances.reshape(N, k, d2, k, d2))
    return np.asarray((own + spread) / d2)
