"""Fitting a model: choose rank and dependence, estimate, bring into the gauge, calibrate, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.linalg import block_diag

from app.learning import evidence, mle
from app.learning.adapters import ADAPTER_TOLERANCE, Adapters, posterior, predictive_moments
from app.learning.arrays import Int, Real, occurring, real
from app.learning.bounded import user_shares
from app.learning.btl import fit_global_with_ridge
from app.learning.comparisons import Comparisons
from app.learning.confidence import Calibration, bootstrap, entry_errors, shared_error
from app.learning.design import NO_ITEMS, Design, design_of
from app.learning.diagnostics import Diagnostics, PersonalGain, RankTrial, log_bracketing, singular_values
from app.learning.errors import InvalidComparisonsError
from app.learning.features import FeatureMap, feature_map_of
from app.learning.items import NO_IDENTITY
from app.learning.kernels import one_blas_thread
from app.learning.metrics import SMALLEST_PROBABILITY
from app.learning.mle import Start
from app.learning.model import Chosen, Model, no_adapters, solve_adapters
from app.learning.parameters import Ending, Shared, rotated
from app.learning.reduction import reduced_comparisons, reduced_features, reduced_model, restored_model, row_space
from app.learning.residual import residual_columns, residual_spread, with_residual
from app.learning.selection import (
    DEPENDENCES,
    MOST_SPLITS,
    Choice,
    Split,
    Trial,
    choose,
    further_splits,
    personal_gain,
    rank_ladder,
    split_comparisons,
)
from app.learning.spectral import leftover_energy, rank_by_permutation, spectral_start_with_items
from app.learning.subspace import canonical_rotation, principal_angle_distance, procrustes_rotation

Estimator = Literal["evidence", "mle"]

TRIAL_PASSES = 40
TRIAL_TOLERANCE = 1e-4
"""Trials on held-out comparisons need less than a published fit."""
REFIT_PASSES = 60
"""Of a bootstrap's refit, at most."""
CALIBRATION_COMPARISONS = 50_000
"""Comparisons, of evenly spaced users, that the bootstrap answers anew: what it finds is a ratio, and needs no more."""
COARSE_COMPARISONS = 20_000
"""A larger fit begins on evenly spaced users with about so many comparisons, then on four times as many, ..."""
COARSE_USERS = 1_000
"""Fewest users to begin on."""
COARSE_GROWTH = 4
COARSE_TOLERANCE = 2e-4
SEEN_OFTEN = 100
"""Comparisons of an item, on average, from which on its bias can be told from nothing."""
START_TOLERANCE = 1e-4
"""Of the global fit that a start is taken from."""
GLOBAL_TOLERANCE = 1e-7
"""Of the global fit that predicts for users nobody has heard of."""
TRIAL_COMPARISONS = 200_000
"""Comparisons, of evenly spaced users, that trials, calibration and diagnostics are content with."""
KEPT_GROWTH = 1.1
"""Factor of the number of comparisons up to which a warm start's rank, dependence and calibration are kept."""
HARDLY_RECURS = 0.01
"""Share of all weight that the strongest dependence would take, below which none is looked for."""
SAME_SCALE = 1.5
"""A warm start's feature map is kept while no feature's spread changed by more than this factor."""


@dataclass(frozen=True, slots=True)
class FitProgress:
    """How far a fit is."""

    phase: Literal["choosing", "fitting", "calibrating", "done"]
    done: float
    """0 to 1 over the whole fit."""
    passes: int
    objective: float
    """Of the running estimation, in nats."""


Progress = Callable[[FitProgress], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What every step of one fit needs."""

    comparisons: Comparisons
    """With the weights that users have in what is shared."""
    shares: Real
    """(N,) what those weights are of the given ones: see app.learning.bounded."""
    features: FeatureMap
    estimator: Estimator
    residual: bool | Literal["auto"]
    start: Start
    half_life_seconds: float | None
    warm_start: Model | None
    rng: np.random.Generator
    progress: Progress

    def design(self, comparisons: Comparisons, dependence: float) -> Design:
        return design_of(
            comparisons,
            self.features,
            item_ids=self.item_ids(comparisons),
            dependence=dependence,
            half_life_seconds=self.half_life_seconds,
        )

    def residual_columns(self, rank: int) -> int:
        """How many columns a residual beside this rank has."""
        if self.estimator == "mle" or self.comparisons.tabular:
            return 0
        return residual_columns(self.features.d1, self.features.d2, rank, len(self.item_ids(self.comparisons)))

    def item_ids(self, comparisons: Comparisons) -> Int:
        """(E,) ascending: the items that occur; the paper's estimator knows items by their features only."""
        c = comparisons
        if c.item_ids is None or self.estimator == "mle":
            return NO_ITEMS
        ids = np.unique(c.item_ids[occurring(c.rows, len(c.X))])
        return np.asarray(ids[ids != NO_IDENTITY], dtype=np.int64)


def fit(
    comparisons: Comparisons,
    *,
    rank: int | Literal["auto"] = "auto",
    dependence: float | Literal["auto"] = "auto",
    residual: bool | Literal["auto"] = "auto",
    estimator: Estimator = "evidence",
    start: Start = "spectral",
    rng: np.random.Generator | None = None,
    warm_start: Model | None = None,
    max_passes: int = 200,
    tolerance: float = 3e-5,
    calibrate: bool = True,
    half_life_seconds: float | None = None,
    progress: Progress | None = None,
) -> Model:
    """Learn the shared subspace and every user's adapter.

    Parameters
    ----------
    rank
        k, or "auto": the best on held-out comparisons; 0 is one model for everybody.
    dependence
        How much of what the model leaves unexplained recurs with an option, 0 to 1, or "auto": the best on held-out
        comparisons. With both rank and dependence given nothing is held out, and the fit is many times faster.
    residual
        Whether users differ outside the shared directions too, each by themselves, or "auto": if it is better on
        held-out comparisons. Only `evidence` in a catalogue of few features has room for it; elsewhere there is none.
    estimator
        "evidence": random effects by variational EM; "mle": the paper's joint maximum (3.3).
    start
        Of `mle`; `evidence` always begins at the spectral start, or at `warm_start`.
    rng
        For the held-out split, random starts and the bootstrap; a fixed one by default, so that fits repeat.
    warm_start
        The previous model: its feature map and gauge are kept where they still fit, so that versions compare; and its
        rank, dependence and calibration while the number of comparisons has changed by less than a tenth.
    tolerance
        Share of the objective that is left to gain when a pass is the last; the default is some 2e-5 nats a comparison.
    half_life_seconds
        Halves a comparison's weight for every such age; needs `age_seconds`.
    progress
        Called now and then; what it raises ends the fit.

    Returns
    -------
    Model
        `converged`, `passes` and `reason` say how it ended.

    Raises
    ------
    InvalidComparisonsError
        There is no comparison at all.
    ValueError
        The rank is negative or larger than the number of row features.

    Source: Liu et al. 2025, Algorithm 1; derived in docs/explanation/estimators.md.
    """
    if len(comparisons) == 0:
        raise InvalidComparisonsError("no comparisons: at least one was expected.")
    if rank != "auto" and rank < 0:
        raise ValueError(f"rank: {rank} is negative.")
    if dependence != "auto" and not 0 <= dependence <= 1:
        raise ValueError(f"dependence: {dependence} lies outside 0 to 1.")
    shares = user_shares(comparisons)
    if shares.min(initial=1.0) < 1.0:
        comparisons = replace(comparisons, weight=comparisons.weight * shares[comparisons.user])
    job = _Job(
        comparisons,
        shares,
        _features(comparisons, warm_start),
        estimator,
        residual,
        start,
        half_life_seconds,
        warm_start,
        np.random.default_rng(0) if rng is None else rng,
        progress or (lambda _: None),
    )
    with one_blas_thread():
        if comparisons.tabular:
            return _fit(job, rank, dependence, max_passes=max_passes, tolerance=tolerance, calibrate=calibrate)
        V = row_space(comparisons, job.features)
        small = _reduced(job, V)
        model = _fit(small, rank, dependence, max_passes=max_passes, tolerance=tolerance, calibrate=calibrate)
        return _restored(job, model, V)


def _reduced(job: _Job, V: Real | None) -> _Job:
    """The same fit of mapped rows, in the few dimensions that they span where V does."""
    features, warm = reduced_features(job.features, V), job.warm_start
    known = warm is not None and warm.features is job.features
    return replace(
        job,
        comparisons=reduced_comparisons(job.comparisons, job.features, V),
        features=features,
        warm_start=reduced_model(warm, features, V) if known and warm is not None else warm if V is None else None,
    )


def _restored(job: _Job, reduced: Model, V: Real | None) -> Model:
    model, found, warm = restored_model(reduced, job.features, V), reduced.diagnostics, job.warm_start
    if found is None:
        return model
    comparable = warm is not None and warm.rank and model.rank and warm.features.d1 == model.features.d1
    distance = principal_angle_distance(model.raw_subspace(), warm.raw_subspace()) if warm and comparable else None
    n = found.n_comparisons
    bounds = log_bracketing(job.features.d1, found.d2, found.rank, found.n_users, n)
    told = replace(found, d1=job.features.d1, log_bracketing=bounds, distance_to_previous=distance)
    return replace(model, diagnostics=told)


def _fit(
    job: _Job,
    rank: int | Literal["auto"],
    dependence: float | Literal["auto"],
    *,
    max_passes: int,
    tolerance: float,
    calibrate: bool,
) -> Model:
    choice = (_kept(job, rank) if dependence == "auto" else None) or _choose(job, rank, dependence)
    design = job.design(job.comparisons, choice.dependence)

    def report(passes: int, objective: float) -> None:
        job.progress(FitProgress("fitting", 0.5 + 0.3 * passes / max_passes, passes, objective))

    stride = -(-design.n // TRIAL_COMPARISONS)
    sample = design.thinned(stride)
    found = _estimated(job, design, sample, choice, max_passes=max_passes, tolerance=tolerance, report=report)
    shared, ending = found.shared, found.ending
    model = replace(_assemble(job, design, found, choice), everybody=_everybody(job, design, shared, choice))
    warm = job.warm_start
    if warm and choice.kept:
        model = replace(model, chosen=warm.chosen)
    elif dependence == "auto":
        model = replace(model, chosen=Chosen(rank, len(job.comparisons), choice.everybody))
    if calibrate and warm and choice.kept and warm.calibration != Calibration():
        model = replace(model, calibration=warm.calibration)
    elif calibrate:
        model = replace(model, calibration=_calibration(job, design, model, tolerance))
    scores = found.scores[design.user % stride == 0]
    model = replace(model, diagnostics=_diagnostics(job, design, sample, scores, model, choice))
    job.progress(FitProgress("done", 1.0, ending.passes, ending.objective))
    return model


def _everybody(job: _Job, design: Design, shared: Shared, choice: Choice) -> Shared | None:
    """The model for users nobody has heard of, at the dependence that is best for it; none where it is the model.

    Begun where the personal fit ended, or where the warm start's did.
    """
    if choice.rank == 0:
        return None
    if choice.everybody != choice.dependence:
        design = job.design(job.comparisons, choice.everybody)
    if not design.n_items:
        Theta_0, ridge = fit_global_with_ridge(design, tolerance=GLOBAL_TOLERANCE, start=(shared.Theta_0, shared.ridge))
        return Shared(Theta_0, np.zeros((design.d1, 0)), np.zeros((0, 0)), ridge)
    known = job.warm_start.everybody if choice.kept and job.warm_start else None
    begin = evidence.without_adapters(shared) if known is None else evidence.continued(known, design.item_ids)
    return evidence.maximise_from_nearby(design, begin, max_passes=TRIAL_PASSES, tolerance=TRIAL_TOLERANCE).shared


def _features(comparisons: Comparisons, warm_start: Model | None) -> FeatureMap:
    """The warm start's feature map while it still fits, so that parameters keep their meaning; else a fresh one."""
    new = feature_map_of(comparisons)
    if warm_start is None:
        return new
    old = warm_start.features
    if old.tabular != new.tabular or old.d1 != new.d1 or len(old.context_centre) != len(new.context_centre):
        return new
    ratio = np.concatenate([new.scale / old.scale, old.scale / new.scale])
    grown = new.context_basis.shape[1] > old.context_basis.shape[1]
    return new if grown or ratio.max() > SAME_SCALE else old


def _personal_gain(job: _Job, choice: Choice) -> PersonalGain | None:
    """Where the choice was kept, what was found when it was made."""
    warm = job.warm_start
    return warm.diagnostics.personal_gain if choice.kept and warm and warm.diagnostics else personal_gain(choice)


def _differing(job: _Job, sample: Design, model: Model, choice: Choice) -> int | None:
    """In how many directions users differ, by permutations; where the choice was kept, as it was when it was made."""
    if choice.kept and job.warm_start and job.warm_start.diagnostics:
        return job.warm_start.diagnostics.permutation_rank
    start = None if model.everybody is None else (model.everybody.Theta_0, model.everybody.ridge)
    Theta_0 = fit_global_with_ridge(sample, tolerance=START_TOLERANCE, start=start)[0]
    return rank_by_permutation(sample, sample.scores(Theta_0), job.rng)


def _kept(job: _Job, rank: int | Literal["auto"]) -> Choice | None:
    """What was chosen for the warm start, while about as many comparisons speak for it: choosing takes long."""
    warm, n = job.warm_start, len(job.comparisons)
    if warm is None or warm.chosen is None or warm.features is not job.features:
        return None
    if (warm.estimator, warm.half_life_seconds) != (job.estimator, job.half_life_seconds):
        return None
    then = warm.chosen.comparisons
    if job.residual != "auto" or warm.chosen.rank != rank or not then / KEPT_GROWTH <= n <= then * KEPT_GROWTH:
        return None
    reason = f"kept from the previous model: rank and dependence were chosen on {then} comparisons, now there are {n}"
    everybody, residual = warm.chosen.everybody, warm.shared.residual > 0
    return Choice(warm.rank, warm.dependence, (), reason, everybody=everybody, kept=True, residual=residual)


def _choose(job: _Job, rank: int | Literal["auto"], dependence: float | Literal["auto"]) -> Choice:
    if rank != "auto" and dependence != "auto":
        dimensions = job.features.d1 + len(job.item_ids(job.comparisons))
        given, reason = min(rank, dimensions), "rank and dependence were given"
        residual = job.residual is True and job.residual_columns(given) > 0
        return Choice(given, dependence, (), reason, everybody=dependence, residual=residual)
    c = job.comparisons.thinned(TRIAL_COMPARISONS)
    n_active = len(occurring(c.user, c.n_users))
    if n_active < 2:
        return Choice(0, 0.0, (), "fewer than two users have comparisons, so there is nothing to share")
    if rank == 0 and (job.estimator == "mle" or c.tabular):
        return Choice(0, 0.0, (), "rank 0 was asked for")
    # The joint maximum is slow, and its choice matters less: one split is enough.
    splits = split_comparisons(c, job.rng, most=1 if job.estimator == "mle" else MOST_SPLITS)
    dimensions = job.features.d1 + len(job.item_ids(c))
    if rank != "auto":
        rank = min(rank, dimensions)
    ranks = rank_ladder(dimensions, job.features.d2, n_active) if rank == "auto" else tuple(sorted({0, rank}))
    if not splits:
        few = "there are too few comparisons to hold any out"
        return Choice(0 if rank == "auto" else rank, 0.0, (), few)
    begin = (4, 0.0) if job.warm_start is None else (job.warm_start.rank or 4, job.warm_start.dependence)
    # From scratch: the warm start has learnt from what is held out here.
    trials = _Trials(replace(job, warm_start=None), c, splits, expected=len(ranks) + 3)
    return choose(
        trials.run,
        ranks=ranks,
        start=begin,
        differ=lambda: _permutation_rank(job, c) > 0,
        again=(lambda trial: trial) if job.estimator == "mle" else trials.again,
        dependences=_dependences(job, c) if dependence == "auto" else (dependence,),
        residuals=lambda rank: _residuals(job, rank),
    )


def _residuals(job: _Job, rank: int) -> tuple[bool, ...]:
    """With and without what residual this rank may be tried."""
    if not job.residual or not job.residual_columns(rank):
        return (False,)
    return (False, True) if job.residual == "auto" else (True,)


def _dependences(job: _Job, comparisons: Comparisons) -> tuple[float, ...]:
    """To be tried: none but 0 where users hardly meet an option again, so that all are the same."""
    strongest, independent = (float(job.design(comparisons, d).weight.sum()) for d in (DEPENDENCES[-1], 0.0))
    return DEPENDENCES if strongest < (1 - HARDLY_RECURS) * independent else (0.0,)


def _permutation_rank(job: _Job, comparisons: Comparisons) -> int:
    design = job.design(comparisons, 0.0)
    Theta_0 = fit_global_with_ridge(design, tolerance=START_TOLERANCE)[0]
    return rank_by_permutation(design, design.scores(Theta_0), job.rng)


class _Trials:
    """Fits on one side of every split, measured on the other.

    Each from scratch: begun where another dependence's ended, a trial is nearer to its own end than others are, and
    ranks are no longer compared fairly.
    """

    def __init__(self, job: _Job, comparisons: Comparisons, splits: Sequence[Split], *, expected: int) -> None:
        self.job, self.expected, self.finished = job, expected * len(splits), 0
        self.comparisons, self.splits, self.further = comparisons, splits, list[Split]()
        self.parts = [(comparisons.subset(s.fit), comparisons.subset(s.validate)) for s in splits]
        held_out = np.concatenate([part.user for _, part in self.parts])
        weight = np.concatenate([part.weight for _, part in self.parts])
        self.counts = real(np.bincount(held_out, weight, minlength=comparisons.n_users))
        self.designs: dict[tuple[int, float], Design] = {}
        self.starts: dict[tuple[int, float], _Start] = {}

    def run(self, rank: int, dependence: float, *, residual: bool = False) -> Trial:
        losses = np.zeros(self.comparisons.n_users)
        trial = Trial(rank, dependence, losses, self.counts, residual)
        for number, (_, held) in enumerate(self.parts):
            losses += self._losses(self._design(number, dependence), held, trial, self._start(number, dependence))
        return trial

    def again(self, trial: Trial) -> Trial:
        """The same on fresh splits, of which no design is kept."""
        if not self.further:
            self.further = further_splits(self.comparisons, self.job.rng, self.splits) or list(self.splits)
        losses = counts = np.zeros(self.comparisons.n_users)
        for split in self.further:
            known, held = (self.comparisons.subset(part) for part in (split.fit, split.validate))
            design = self.job.design(known, trial.dependence)
            losses = losses + self._losses(design, held, trial)
            counts = counts + np.bincount(held.user, held.weight, held.n_users)
        return replace(trial, user_losses=losses, user_counts=counts)

    def _losses(self, design: Design, held: Comparisons, trial: Trial, start: "_Start | None" = None) -> Real:
        """(N,) summed held-out log-loss of each user."""
        job = self.job
        shared, _ = _estimate(
            job,
            design,
            trial.rank,
            residual=trial.residual,
            max_passes=TRIAL_PASSES,
            tolerance=TRIAL_TOLERANCE,
            report=self._report,
            start=start,
        )
        self.finished += 1
        model = _bare_model(
            job, shared, solve_adapters(shared, design, job.estimator, tolerance=1e-4), design, trial.dependence
        )
        p = np.clip(model.predict(held), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        losses = -held.weight * (held.label * np.log(p) + (1 - held.label) * np.log1p(-p))
        return np.asarray(np.bincount(held.user, losses, minlength=held.n_users), dtype=np.float64)

    def _design(self, number: int, dependence: float) -> Design:
        if (number, dependence) not in self.designs:
            self.designs[number, dependence] = self.job.design(self.parts[number][0], dependence)
        return self.designs[number, dependence]

    def _start(self, number: int, dependence: float) -> "_Start | None":
        """Which all ranks begin from."""
        design = self._design(number, dependence)
        if self.job.estimator == "mle" or not design.n_items:
            return None
        if (number, dependence) not in self.starts:
            self.starts[number, dependence] = _Start.of(design)
        return self.starts[number, dependence]

    def _report(self, passes: int, objective: float) -> None:
        share = min(1.0, (self.finished + passes / TRIAL_PASSES) / self.expected)
        self.job.progress(FitProgress("choosing", 0.5 * share, passes, objective))


@dataclass(frozen=True, slots=True, eq=False)
class _Estimated:
    """The end of the estimation, in the model's gauge."""

    shared: Shared
    ending: Ending
    adapters: Adapters
    scores: Real
    """(n,) mean scores of all comparisons."""


def _estimated(
    job: _Job,
    design: Design,
    sample: Design,
    choice: Choice,
    *,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None],
) -> _Estimated:
    """The estimation and every user's adapter; from nearby they come from the same last E step."""
    rank, residual = choice.rank, choice.residual
    iterates = job.estimator == "evidence" and bool(rank or design.n_items)
    known = _known(job, design, rank, residual=residual) if iterates else None
    if known is not None and (not design.n_items or known.items.bias_variance[0] > 0):
        # It has learnt the items' effects, and is near the maximum.
        begin, least = known, 1
    elif iterates and len(coarse_strides(design)) > 1:
        # What was learnt from a sample may be further from the maximum than two gains tell.
        begin, least = _begin(job, design, rank, residual=residual), 3
    else:
        shared, ending = _estimate(
            job, design, rank, residual=residual, max_passes=max_passes, tolerance=tolerance, report=report
        )
        shared = _in_gauge(job, sample, shared)
        return _Estimated(shared, ending, *_solved(job, design, shared))
    found = evidence.maximise_from_nearby(
        design, begin, max_passes=max_passes, tolerance=tolerance, least=least, report=report
    )
    shared = _in_gauge(job, sample, evidence.orthonormalised(found.shared))
    adapters = found.moved(shared).adapters(design, shared.k)
    return _Estimated(shared, found.ending, adapters, found.solution.score_mean)


def _estimate(
    job: _Job,
    design: Design,
    rank: int,
    *,
    residual: bool,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None] | None,
    start: "_Start | None" = None,
) -> tuple[Shared, Ending]:
    if rank == 0 and not design.n_items:
        Theta_0, ridge = fit_global_with_ridge(design)
        shared = Shared(Theta_0, np.zeros((design.d1, 0)), np.zeros((0, 0)), ridge)
        objective = -mle.joint_loss(design, Theta_0, shared.B, np.zeros((design.n_users, 0)), ridge)
        return shared, Ending(converged=True, passes=1, reason="one convex problem", objective=objective)
    begin = _begin(job, design, rank, residual=residual, start=start)
    return _maximise(job, design, begin, max_passes, tolerance, report)


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A model for everybody on features alone, of some users where there are many: adapters are sought beside it."""

    coarse: Design
    Theta_0: Real
    ridge: Real

    @classmethod
    def of(cls, design: Design) -> "_Start":
        coarse = design.thinned(coarse_strides(design)[0])
        return cls(coarse, *fit_global_with_ridge(coarse, tolerance=START_TOLERANCE))


def _known(job: _Job, design: Design, rank: int, *, residual: bool) -> Shared | None:
    """The warm start's parameters, where its coordinates and rank are still ours."""
    warm = job.warm_start
    if warm is None or warm.features is not job.features or warm.estimator != job.estimator:
        return None
    same = warm.rank == rank and (warm.shared.residual > 0) == residual
    known = warm.shared if same else warm.everybody if rank == 0 else None
    return None if known is None else evidence.continued(known, design.item_ids)


def _begin(job: _Job, design: Design, rank: int, *, residual: bool, start: _Start | None = None) -> Shared:
    """The warm start where there is one, else the start that was asked for; `start` where it is known already."""
    known = _known(job, design, rank, residual=residual)
    if known is not None:
        return known
    if job.estimator == "mle":
        Theta_0, ridge = fit_global_with_ridge(design, tolerance=START_TOLERANCE)
        return mle.starting_point(design, Theta_0, ridge, rank, job.start, job.rng)
    strides, start = coarse_strides(design), start or _Start.of(design)
    coarse = start.coarse
    B, loadings = spectral_start_with_items(coarse, coarse.scores(start.Theta_0), rank, job.rng)
    shared = evidence.starting_point(start.Theta_0, B, start.ridge, design.item_ids, loadings)
    if residual:
        shared = with_residual(shared)
    if len(strides) > 1:
        shared, _ = _maximise(job, coarse, shared, TRIAL_PASSES, COARSE_TOLERANCE, None)
    for stride in strides[1:-1]:
        shared = _opened(design, stride, shared)
        shared = evidence.maximise_from_nearby(
            design.thinned(stride),
            shared,
            max_passes=TRIAL_PASSES,
            tolerance=COARSE_TOLERANCE,
            settled=evidence.NEARBY_TOLERANCE,
        ).shared
    return _opened(design, 1, shared) if len(strides) > 1 else shared


def _opened(design: Design, stride: int, shared: Shared) -> Shared:
    """With room for items' biases, where every stride-th user has said enough of an item to see them."""
    seen = len(design.rows) >= SEEN_OFTEN * stride * design.n_items
    return evidence.with_biases_open(shared) if seen else shared


def coarse_strides(design: Design) -> list[int]:
    """Of users, descending to 1: what all share is nearly known from a few of them, so that few passes need all."""
    strides = [1]
    while design.n >= COARSE_GROWTH * strides[0] * COARSE_COMPARISONS and (
        design.n_users >= COARSE_GROWTH * strides[0] * COARSE_USERS
    ):
        strides.insert(0, COARSE_GROWTH * strides[0])
    return strides


def _maximise(
    job: _Job,
    design: Design,
    begin: Shared,
    max_passes: int,
    tolerance: float,
    report: Callable[[int, float], None] | None,
) -> tuple[Shared, Ending]:
    maximise = mle.maximise_likelihood if job.estimator == "mle" else evidence.maximise_evidence
    return maximise(design, begin, max_passes=max_passes, tolerance=tolerance, report=report)


def _in_gauge(job: _Job, design: Design, shared: Shared) -> Shared:
    """Adapters with a diagonal, descending second moment; or turned towards the warm start's subspace."""
    if shared.k == 0:
        return shared
    warm, k = job.warm_start, shared.rank
    B = shared.B[:, :k]
    if warm is not None and warm.features is job.features and warm.rank == k:
        Q = procrustes_rotation(B, warm.B[:, :k])
    else:
        found = solve_adapters(shared, design, job.estimator, tolerance=1e-4)
        blocks = found.covariances.reshape(design.n_users, shared.k, shared.d2, shared.k, shared.d2)
        second = np.einsum("icb,ieb->ce", found.means[:, :k], found.means[:, :k])
        second += np.einsum("icbeb->ce", blocks[:, :k, :, :k])
        Q = canonical_rotation(B, second / design.n_users)
    Q = block_diag(Q, np.eye(shared.residual))
    nobody = no_adapters(shared)
    return rotated(shared, nobody.means.reshape(0, len(shared.T)), nobody.covariances, Q)[0]


def _assemble(job: _Job, design: Design, found: _Estimated, choice: Choice) -> Model:
    shared, adapters = found.shared, found.adapters
    known = (design, shared, adapters, found.scores)
    if job.shares.min(initial=1.0) < 1.0:
        in_full = design.answered(design.label, design.weight / job.shares[design.user])
        adapters = solve_adapters(shared, in_full, job.estimator)
    model = _bare_model(job, shared, adapters, design, choice.dependence)
    return replace(model, shared_error=shared_error(*known), entry_errors=entry_errors(*known), ending=found.ending)


def _bare_model(job: _Job, shared: Shared, adapters: Adapters, design: Design, dependence: float) -> Model:
    return Model(
        features=job.features,
        shared=shared,
        shared_error=np.zeros((shared.B.shape[0], shared.d2 + shared.k, 0)),
        adapters=adapters,
        estimator=job.estimator,
        effective_weight=effective_weight(job, design) if dependence else 1.0,
        dependence=dependence,
        half_life_seconds=job.half_life_seconds,
        calibration=Calibration(),
        ending=Ending(converged=False, passes=0, reason="not yet estimated", objective=float("nan")),
        diagnostics=None,
    )


def effective_weight(job: _Job, design: Design) -> float:
    """What a comparison of this design counts on average, whatever its age."""
    given = job.design(job.comparisons, 0.0).weight if design.n == len(job.comparisons) else design.weight
    return float(design.weight.sum() / given.sum())


def _solved(
    job: _Job, design: Design, shared: Shared, *, tolerance: float = ADAPTER_TOLERANCE
) -> tuple[Adapters, Real]:
    """Every user's adapter, and (n,) the mean score of every comparison at them."""
    if job.estimator == "mle":
        adapters, (N, p) = solve_adapters(shared, design, "mle", tolerance=tolerance), (design.n_users, len(shared.T))
        return adapters, predictive_moments(design, shared, adapters.means.reshape(N, p), adapters.covariances)[0]
    solution = posterior(design, shared, tolerance=tolerance)
    return solution.adapters(design, shared.k), solution.score_mean


def _calibration(job: _Job, design: Design, model: Model, tolerance: float) -> Calibration:
    """By the parametric bootstrap on a sample of the users, whose own errors are compared with those predicted.

    Where real comparisons were found not to be independent, errors are never shrunk.
    """
    sample = design.thinned(-(-design.n // CALIBRATION_COMPARISONS))

    def report(passes: int, objective: float) -> None:
        job.progress(FitProgress("calibrating", 0.9, passes, objective))

    def refit(relabelled: Design) -> tuple[Shared, Adapters]:
        # From scratch: started at the truth, a few passes would hardly leave it, and the errors would look small.
        found, _ = _estimate(
            replace(job, warm_start=None),
            relabelled,
            model.rank,
            residual=model.shared.residual > 0,
            max_passes=REFIT_PASSES,
            tolerance=tolerance,
            report=report,
        )
        return found, solve_adapters(found, relabelled, job.estimator, tolerance=1e-4)

    adapters, scores = _solved(job, sample, model.shared, tolerance=1e-4)
    known = (sample, model.shared, adapters, scores)
    found = bootstrap(
        sample,
        model.shared,
        shared_error(*known),
        refit,
        job.rng,
        entries=entry_errors(*known),
        effective_weight=model.effective_weight,
    )
    return found if model.dependence == 0.0 else replace(found, inflation=max(1.0, found.inflation))


def _tail_energy(sample: Design, scores: Real, model: Model) -> float:
    """Of the sample's users: what the residual has, and what is left over outside of it too."""
    own = np.trace(model.T[model.rank * sample.d2 :, model.rank * sample.d2 :])
    return sample.n_users * float(own) + leftover_energy(sample, scores, model.B)


def _diagnostics(job: _Job, design: Design, sample: Design, scores: Real, model: Model, choice: Choice) -> Diagnostics:
    """Statistics of residuals, and whether users differ, are those of the sample's users, with these scores (n,)."""
    k, N = model.rank, int((design.counts() > 0).sum())
    sigma = singular_values(model.adapters.means[:, :k])
    warm = job.warm_start
    comparable = warm is not None and warm.rank > 0 and k > 0 and warm.features.d1 == model.features.d1
    share = sample.n_users / design.n_users
    return Diagnostics(
        n_users=N,
        n_comparisons=design.n,
        d1=design.d1,
        d2=design.d2,
        rank=k,
        singular_values=tuple(float(s) for s in sigma),
        nu=float(sigma[-1] ** 2 / N) if k else 0.0,
        tail_energy=_tail_energy(sample, scores, model) / share,
        log_bracketing=log_bracketing(design.d1, design.d2, k, N, design.n),
        ridge=tuple(float(v) for v in model.shared.ridge),
        effective_weight=model.effective_weight,
        dependence=model.dependence,
        inflation=model.inflation,
        coverage=model.calibration.covered,
        joint_inflation=model.calibration.joint,
        hidden_spread=model.calibration.spread,
        permutation_rank=_differing(job, sample, model, choice) if N > 1 else None,
        distance_to_previous=principal_angle_distance(model.raw_subspace(), warm.raw_subspace())
        if warm and comparable
        else None,
        trials=tuple(RankTrial(t.rank, t.dependence, t.log_loss, t.residual) for t in choice.trials),
        residual=residual_spread(model.shared),
        rank_reason=choice.reason,
        personal_gain=_personal_gain(job, choice),
    )
