"""Errors that all users share, and the calibration of every standard error.

`shared_error` inverts the information of (Theta_0, B) after the adapters are eliminated (Schur complement),

    I = sum_i J_i^T (w - w Z_i V_i Z_i^T w) J_i + prior,   J_j = [vec(DPhi_j), vec(DPhi_j W_i^T)],

with B moving only across its own span (B^T dB = 0). `bootstrap` simulates labels from the fit, refits and asks by how
much the standard errors must grow until 95% intervals cover 95% of the simulated rewards, and 95% ellipsoids 95% of the
simulated adapters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from app.learning import kernels
from app.learning.adapters import Adapters
from app.learning.arrays import Int, Real, curvature, inverse, real, sigmoid, symmetric
from app.learning.design import Design
from app.learning.grams import KrylovGrams, SparseGrams, grams_of
from app.learning.parameters import Shared
from app.learning.wide import entry_variances, score_variances, table_error

MAX_UNKNOWNS = 1200
"""Above this many shared unknowns the blocks of Theta_0 and B are taken as independent."""
MAX_WORK = 1.5e9
"""Multiplications spent on the information matrix; beyond, evenly spaced users stand for all."""
CALIBRATION_LEVEL = 0.95
DENSE_ENTRIES = 1_000_000
"""Numbers in the few designs that are formed at a time."""
INFORMATION_ENTRIES = 250_000
"""The same of each thread where information is summed."""
CALIBRATION_TARGETS = 4000
"""Simulated rewards that one refit is checked on."""
TARGET_NUMBERS = 4_000_000
"""In the designs of those rewards: of wide ones, fewer are looked at."""
CALIBRATION_USERS = 1000
"""Simulated users whose ellipsoids one refit is checked on."""
SPREAD_REFITS, ERROR_REFITS = 4, 3
"""Refits that find the simulated users' spread, and those, after them, whose errors count."""
MANY_COMPARISONS = 20_000
"""From here on half as many of both: each refit says more, and costs more."""
SPREAD_BOUNDS = (0.5, 10.0)
UNEVENNESS_BOUNDS = (0.1, 1.0)
STRIDE = 1.4
"""What a refit finds grows by less than what it is given."""
INFLATION_BOUNDS = (0.5, 8.0)
JOINT_BOUNDS = (1.0, 3.0)

Refit = Callable[[Design], tuple[Shared, Adapters]]


def shared_error(design: Design, shared: Shared, adapters: Adapters, scores: Real) -> Real:
    """(d1, d2 + k, r) a factor of the covariance of [Theta_0, B]; with r = 0 where only `entry_errors` are known.

    Parameters
    ----------
    scores
        (n,) fitted scores, at whose curvature the information is taken.
    """
    d1, d2, k = design.d1, design.d2, shared.k
    if not isinstance(design.X, np.ndarray):
        return np.zeros((d1, d2 + k, 0))
    w = design.weight * curvature(scores)
    if design.wide:
        grams = grams_of(design, w)
        assert isinstance(grams, KrylovGrams)
        return table_error(grams, shared.ridge, shared.B, _strength(adapters))
    k = shared.rank
    across = np.linalg.qr(np.hstack([shared.B[:, :k], np.eye(d1)]))[0][:, k:d1]
    beside = across.shape[1]
    if d1 * d2 + beside * k <= MAX_UNKNOWNS:
        root = _leading_root(inverse(_information(design, shared, adapters, w, across)), MAX_UNKNOWNS)
        r = root.shape[1]
        Theta, C = root[: d1 * d2].reshape(d1, d2, r), root[d1 * d2 :].reshape(beside, k, r)
        error = np.concatenate([Theta, np.einsum("ax,xcr->acr", across, C)], axis=1)
    else:
        error = _block_error(design, shared, adapters, w, across)
    # Which basis the residual has is no matter of error.
    return np.pad(error, ((0, 0), (0, shared.residual), (0, 0)))


def entry_errors(design: Design, shared: Shared, adapters: Adapters, scores: Real) -> Real | None:
    """(d1, d2 + k) variances of the entries of [Theta_0, B], independent of each other; none beside a factor."""
    if isinstance(design.X, np.ndarray):
        return None
    grams = grams_of(design, design.weight * curvature(scores))
    assert isinstance(grams, SparseGrams)
    return entry_variances(grams, shared.ridge, _strength(adapters))


def _strength(adapters: Adapters) -> Real:
    """(k,) the adapters' mean squares along the columns of B."""
    N, _, d2 = adapters.means.shape
    return np.asarray(np.einsum("icb,icb->c", adapters.means, adapters.means) / max(N * d2, 1))


def _information(design: Design, shared: Shared, adapters: Adapters, w: Real, across: Real) -> Real:
    """(q, q), q = d1 d2 + x k: of vec(Theta_0) and of vec(C), dB = across C with across (d1, x).

    J_j = vec(DPhi_j) (I (x) A_i) with A_i = [I, W_i^T], so that a user's share is (I (x) A_i)^T S_i (I (x) A_i) with
    S_i (d1 d2, d1 d2) of the designs alone: that is summed over users, the small A_i outside.
    """
    d1, d2, k = design.d1, design.d2, shared.rank
    work = (d1 * (d2 + k)) ** 2 * design.n_users + design.n * (d1 * d2) ** 2
    blocks = list(_blocks(design, max(1, round(work / MAX_WORK))))
    P, own = design.tables(shared.B, shared.items.loadings)

    def of_users(users: Int, index: Int) -> tuple[Real, float]:
        real_rows = index < design.n
        rows = np.where(real_rows, index, 0).ravel()
        D = design.dense(rows).reshape(*index.shape, d1 * d2)
        weight = np.where(real_rows, w[np.minimum(index, design.n - 1)], 0.0)
        Z = np.empty((len(rows), shared.k * d2))
        kernels.projections(0, len(rows), rows, *design.terms, P, own, design.Y, Z)
        Z = Z.reshape(*index.shape, shared.k * d2)
        weighted = weight[..., None] * D
        cross = np.swapaxes(Z, 1, 2) @ weighted
        S = np.swapaxes(D, 1, 2) @ weighted - np.swapaxes(cross, 1, 2) @ (adapters.covariances[users] @ cross)
        S = S.reshape(-1, d1, d2, d1, d2).transpose(1, 3, 0, 2, 4).reshape(d1 * d1, -1)
        A = np.concatenate(
            [np.broadcast_to(np.eye(d2), (len(users), d2, d2)), adapters.means[users, :k].swapaxes(1, 2)], 2
        )
        return S @ np.einsum("ube,ucf->ubcef", A, A).reshape(-1, (d2 + k) ** 2), float(weight.sum())

    def of_blocks(first: int, last: int) -> tuple[Real, float]:
        total, counted = np.zeros((d1 * d1, (d2 + k) ** 2)), 0.0
        for users, index in blocks[first:last]:
            more, weight = of_users(users, index)
            total += more
            counted += weight
        return total, counted

    parts = kernels.over(len(blocks), of_blocks, small=kernels.CHUNKS)
    total = np.sum([part[0] for part in parts], axis=0)
    total *= float(w.sum()) / max(sum(part[1] for part in parts), 1e-300)
    q, beside = d1 * d2, across.shape[1] * k
    turn = np.zeros((d1, d2 + k, q + beside))
    turn[:, :d2, :q] = np.eye(q).reshape(d1, d2, q)
    turn[:, d2:, q:] = np.einsum("ax,cd->acxd", across, np.eye(k)).reshape(d1, k, beside)
    turn = turn.reshape(d1 * (d2 + k), q + beside)
    full = total.reshape(d1, d1, d2 + k, d2 + k).transpose(0, 2, 1, 3).reshape(len(turn), len(turn))
    prior = np.concatenate([np.tile(shared.ridge, d1), np.full(beside, float(d1))])
    return symmetric(turn.T @ full @ turn) + np.diag(prior)


def _blocks(design: Design, stride: int) -> Iterator[tuple[Int, Int]]:
    """Users and their padded rows, few enough at a time that dense designs and their squares stay small."""
    q = design.d1 * design.d2
    for bucket in design.buckets:
        users, index = bucket.users[::stride], bucket.index[::stride]
        step = max(1, INFORMATION_ENTRIES // (q * max(index.shape[1], q)))
        for begin in range(0, len(users), step):
            yield users[begin : begin + step], index[begin : begin + step]


def _leading_root(covariance: Real, components: int) -> Real:
    values, vectors = np.linalg.eigh(symmetric(covariance))
    kept = slice(max(0, len(values) - components), None)
    return np.asarray(vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0.0)))


def _block_error(design: Design, shared: Shared, adapters: Adapters, w: Real, across: Real) -> Real:
    """The same with Theta_0's columns and B's rows independent: for very many features."""
    d1, d2, k = design.d1, design.d2, shared.rank
    grams = design.grams(w)
    parts, kept = [], max(1, MAX_UNKNOWNS // (d2 + k))
    for b in range(d2):
        root = _leading_root(inverse(grams[b] + shared.ridge[b] * np.eye(d1)), kept)
        parts.append(_placed(root, b, d2 + k))
    pooled = across.T @ grams.sum(axis=0) @ across
    strength = _strength(adapters)
    for c in range(k):
        spread = inverse(strength[c] * pooled + d1 * np.eye(across.shape[1]))
        parts.append(_placed(across @ _leading_root(spread, kept), d2 + c, d2 + k))
    return np.concatenate(parts, axis=2)


def _placed(root: Real, column: int, width: int) -> Real:
    out = np.zeros((root.shape[0], width, root.shape[1]))
    out[:, column] = root
    return out


@dataclass(frozen=True, slots=True)
class Calibration:
    inflation: float = 1.0
    """Factor on all standard errors."""
    joint: float = 1.0
    """Factor on the radius of ellipsoids, beside that of the standard errors."""
    spread: float = 1.0
    """The simulated users' prior variances over the fit's: how much of the spread the fit does not see."""
    covered: float | None = None
    """Share of the simulated users' rewards inside 95% intervals before the factor; None when not simulated anew."""


def bootstrap(
    design: Design,
    shared: Shared,
    error: Real,
    refit: Refit,
    rng: np.random.Generator,
    *,
    entries: Real | None = None,
    effective_weight: float = 1.0,
) -> Calibration:
    """Have the fit's own questions answered by users of a known truth, refit, and see how far that is missed.

    The bound makes a fit find less spread among users than there is, the more so the fewer their comparisons and the
    larger their log-odds. Users drawn with the spread found would be easier to know than the real ones: they are drawn
    with that spread at which refits find, on average, what the fit has found.

    Parameters
    ----------
    error, entries
        As of `shared_error` and `entry_errors`.
    refit
        Estimates the shared part and the adapters from relabelled designs, to the same convergence as the fit: passes
        that are left out would be mistaken for spread.
    effective_weight
        Below 1, that share of the comparisons is answered anew, each with full weight: simulated answers are
        independent, so all of them would say more than the real ones do.
    """
    offset = design.scores(shared.Theta_0, shared.items.bias)
    Z = design.project(shared.B, shared.items.loadings).reshape(design.n, len(shared.T))
    share = 2 if design.n >= MANY_COMPARISONS else 1
    settling = SPREAD_REFITS // share if shared.k else 0
    spread, ratios, distances = _Spread(shared.T), list[Real](), list[Real]()
    for number in range(settling + -(-ERROR_REFITS // share)):
        W = rng.standard_normal((design.n_users, len(shared.T))) @ spread.root().T
        eta = offset + np.einsum("np,np->n", Z, W[design.user])
        labels = (rng.random(design.n) < sigmoid(eta)).astype(np.float64)
        heard = np.where(rng.random(design.n) < effective_weight, design.weight / effective_weight, 0.0)
        found, adapters = refit(design.answered(labels, heard))
        if number >= settling:
            rows, users = _targets(design, rng)
            truth = offset[rows] + np.einsum("np,np->n", Z[rows], W[users])
            missed = truth - _scores_of(design, found, adapters, rows, users)
            ratios.append(np.abs(missed) / _errors_of(design, found, adapters, (error, entries), rows, users))
            asked = np.unique(users)[:CALIBRATION_USERS]
            distances.append(_distances(shared, W, found, adapters, (error, entries), asked))
        spread.learn(found.T)
    missed_by, nominal = np.concatenate(ratios), norm.ppf(0.5 + 0.5 * CALIBRATION_LEVEL)
    reach, covered = float(np.quantile(missed_by, CALIBRATION_LEVEL)) / nominal, float((missed_by <= nominal).mean())
    inflation = float(np.clip(reach, *INFLATION_BOUNDS))
    if not shared.k:
        return Calibration(inflation, covered=covered)
    radius = np.sqrt(np.quantile(np.concatenate(distances), CALIBRATION_LEVEL)) / inflation
    joint = float(radius / np.sqrt(chi2.ppf(CALIBRATION_LEVEL, len(shared.T))))
    return Calibration(inflation, float(np.clip(joint, *JOINT_BOUNDS)), spread.factor, covered)


class _Spread:
    """The prior covariance at which refits find, on average, the mean and the dispersion of the fit's eigenvalues.

    With lambda_i the fit's and m their mean, the simulated users' are factor * m * (lambda_i / m)^unevenness: what is
    known of few users makes some directions look stronger than others, as it makes all of them look weaker than they
    are. Every refit says which two numbers would have led to the fit's own; the first two, from afar, don't count.
    """

    def __init__(self, T: Real) -> None:
        values, vectors = np.linalg.eigh(symmetric(T))
        self.values, self.vectors = real(values), real(vectors)
        self.factor, self.unevenness = 1.0, 1.0
        self.factors, self.unevennesses = list[float](), list[float]()

    def root(self) -> Real:
        """(p, p) a factor of the simulated users' covariance."""
        if not len(self.values):
            return self.vectors
        mean = self.values.mean()
        shape = np.maximum(self.values / max(mean, 1e-300), 1e-12) ** self.unevenness
        return np.asarray(self.vectors * np.sqrt(self.factor * mean * shape / max(shape.mean(), 1e-300)))

    def learn(self, T: Real) -> None:
        if not len(self.values):
            return
        again = real(np.linalg.eigvalsh(symmetric(T)))
        mean, uneven = _mean_and_dispersion(self.values)
        mean_again, uneven_again = _mean_and_dispersion(again)
        ahead = STRIDE * np.log(mean / mean_again)
        self.factors.append(float(np.clip(np.log(self.factor) + ahead, *np.log(SPREAD_BOUNDS))))
        self.unevennesses.append(float(np.clip(self.unevenness * uneven / uneven_again, *UNEVENNESS_BOUNDS)))
        late = min(2, len(self.factors) - 1)
        self.factor = float(np.exp(np.mean(self.factors[late:])))
        self.unevenness = float(np.mean(self.unevennesses[late:]))


def _mean_and_dispersion(values: Real) -> tuple[float, float]:
    mean = max(float(values.mean()), 1e-12)
    return mean, max(float(values.std()) / mean, 1e-6)


def _targets(design: Design, rng: np.random.Generator) -> tuple[Int, Int]:
    """Designs, and users drawn apart from them, as often as they have comparisons."""
    formed = TARGET_NUMBERS // (design.d1 * design.d2) if isinstance(design.X, np.ndarray) else CALIBRATION_TARGETS
    most = min(design.n, CALIBRATION_TARGETS, max(100, formed))
    rows = rng.choice(design.n, size=most, replace=False)
    return rows, rng.permutation(design.user)[: len(rows)]


def adapter_covariance(B: Real, error: Real, covariances: Real, entries: Real | None = None) -> Real:
    """(N, p, p) of adapters with these posterior covariances, as coordinates along a B that is not quite known.

    dB moves across B, so that only Theta_0's error falls on the adapters' own directions.
    """
    d2, p = error.shape[1] - B.shape[1], covariances.shape[-1]
    common = np.einsum("ac,abr->cbr", B, error[:, :d2]).reshape(p, error.shape[2])
    total = covariances + common @ common.T
    if entries is not None:
        apart = np.einsum("ac,ab,ae->bce", B, entries[:, :d2], B)
        total = total + np.einsum("bce,bf->cbef", apart, np.eye(d2)).reshape(p, p)
    return np.asarray(total)


def _distances(
    true: Shared, W: Real, found: Shared, adapters: Adapters, errors: tuple[Real, Real | None], users: Int
) -> Real:
    """(len(users),) squared, in uncalibrated standard errors: from the found adapters to the truth's coordinates."""
    k, d2 = found.k, found.d2
    turn = found.B.T @ true.B + found.items.loadings.T @ true.items.loadings
    shift = found.B.T @ (true.Theta_0 - found.Theta_0)
    shift[:, 0] += found.items.loadings.T @ (true.items.bias - found.items.bias)
    coordinates = shift + turn @ W[users].reshape(len(users), k, d2)
    missed = (coordinates - adapters.means[users]).reshape(len(users), k * d2)
    spread = adapter_covariance(found.B, errors[0], adapters.covariances[users], errors[1])
    return np.asarray(np.einsum("np,np->n", missed, np.linalg.solve(spread, missed[..., None])[..., 0]))


def _scores_of(design: Design, shared: Shared, adapters: Adapters, rows: Int, users: Int) -> Real:
    Z = design.project(shared.B, shared.items.loadings, rows)
    own = np.einsum("ncb,ncb->n", Z, adapters.means[users])
    return np.asarray(design.scores(shared.Theta_0, shared.items.bias)[rows] + own)


def _errors_of(
    design: Design, shared: Shared, adapters: Adapters, errors: tuple[Real, Real | None], rows: Int, users: Int
) -> Real:
    """(len(rows),) uncalibrated standard errors of the designs `rows` for `users`."""
    Z = design.project(shared.B, shared.items.loadings, rows).reshape(len(rows), len(shared.T))
    own = np.einsum("np,npq,nq->n", Z, adapters.covariances[users], Z, optimize=True)
    common = _shared_variances(design, adapters.means[users], errors, rows)
    variance = own + common + _item_variances(design, shared, adapters, rows, users)
    return np.asarray(np.sqrt(np.maximum(variance, 1e-300)))


def _shared_variances(design: Design, W: Real, errors: tuple[Real, Real | None], rows: Int) -> Real:
    """(m,) what the error of [Theta_0, B] adds to the variances of designs `rows`, of users with W (m, k, d2)."""
    error, entries = errors
    if entries is not None:
        return score_variances(design, rows, W, entries)
    (d1, width, r), out = error.shape, np.empty(len(rows))
    step = max(1, DENSE_ENTRIES // (d1 * width))
    for begin in range(0, len(rows), step):
        D = design.dense(rows[begin : begin + step])
        loaded = np.concatenate([D, D @ np.swapaxes(W[begin : begin + step], 1, 2)], axis=2)
        common = loaded.reshape(len(D), d1 * width) @ error.reshape(d1 * width, r)
        out[begin : begin + step] = np.einsum("nr,nr->n", common, common)
    return out


def _item_variances(design: Design, shared: Shared, adapters: Adapters, rows: Int, users: Int) -> Real:
    """(len(rows),) what the items' own effects add to the variances of these designs' scores."""
    if not design.n_items:
        return np.zeros(len(rows))
    lengths = np.diff(design.indptr)[rows]
    place = np.repeat(np.arange(len(rows)), lengths)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    terms = np.repeat(design.indptr[rows] - begins[:-1], lengths) + np.arange(begins[-1])
    item, items = design.item[design.rows[terms]], shared.items
    first = adapters.means[users][:, :, 0]
    second = adapters.covariances[users][:, :: design.d2, :: design.d2] + first[:, :, None] * first[:, None, :]
    each = items.bias_variance[item] + np.einsum("tkl,tkl->t", items.covariance[item], second[place])
    return np.asarray(np.bincount(place, each, minlength=len(rows)), dtype=np.float64)
