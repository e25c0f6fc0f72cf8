"""The loops over comparisons, compiled: what NumPy could only do with arrays of n * k numbers.

Every function works on the users `first <= u < last`, whose comparisons lie together, and releases the interpreter's
lock, so that several threads can share one pass (`over_users`). A comparison's terms are rows of a table, columns of Y
and signs; its projected design is

    z[c, b] = sum over terms of  sign * (P[row, c] * Y[col, b]  +  own[row, c] where b = 0),

with P = X B and `own` the items' own loadings. Without contexts (Y = [[1]]) the two are added up beforehand and `own`
is empty.

Loops that divide have NumPy's errors, which are none: one that looks out for zeros is not made of vector instructions.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from app.learning.arrays import LINE
from app.learning.lanes import LANES, add_product, add_row, add_rows, add_scaled, add_singles, fetch, turn

Result = TypeVar("Result")

CHUNKS = 4
"""Parts of a large pass; the same on every machine, so that sums are too."""
FAST = {"reassoc", "nsz", "contract"}
"""Sums may be taken in any order, so that they use vector instructions; not-a-number stays what it is."""
ROWS = 256
"""Comparisons of a user that are worked on together."""
BLOCK_NUMBERS = 32_768
"""Numbers of the designs' squares that stay at hand: they fit a core's own cache."""
ROOM = 16
"""Numbers a comparison that the parts of a pass may hold for their sums."""
SMALL = 20_000
"""Terms below which threads cost more than they save."""
AHEAD = 2
"""Comparisons of each lane by which rows of tables are fetched early: tables don't fit a core's own cache."""
FAR_AHEAD = 16
"""The same where users are worked on one after the other."""
LOGISTIC_SHARES = (0.14447567977790932, 0.5997675271113672, 0.25575679311072375)
LOGISTIC_VARIANCES = (7.894175713443343, 3.067628632798784, 1.2069653873935529)
"""Normal distributions whose mixture is the logistic one, its function and its integral within 8e-5 (minimax).

With its slope at 0 exactly: choices that nothing contradicts say nothing of their own spread, and would seem to with
another curvature than that of the score's variance.
"""
MEAN_RELAXATION = 1.5
"""Of the means of scores between steps, each to the minimum of a quadratic above: below 2, none raises the loss."""
VARIANCE_DAMPING = 0.4
"""Least damping of the variances of scores between steps, far from the end."""
NEAR = 0.5
"""Of a step in log-odds, below which a user's next ones are Newton's: the logistic function's slope changes by less
than a factor of e^NEAR on the way, so that they contract."""
PACES = (0.6, 1.7)
"""Of those steps, relatively; which one is told by how the last two compare (Aitken's relaxation)."""


def over_users(pointers: NDArray[np.int64], work: Callable[[int, int], Result], *, room: int = 0) -> list[Result]:
    """`work(first, last)` for parts of the users with about equally many comparisons, in order.

    Where a part's result is `room` numbers, and few comparisons go to many rows, there is one part only.
    """
    n_users, n = len(pointers) - 1, int(pointers[-1])
    divided = n >= SMALL and CHUNKS * room <= ROOM * n
    inner = np.searchsorted(pointers, np.arange(1, CHUNKS) * n // CHUNKS).tolist() if divided else []
    return _concurrently([0, *inner, n_users], work)


def over_lanes(
    order: NDArray[np.int64], pointers: NDArray[np.int64], work: Callable[[int, int], Result]
) -> list[Result]:
    """The same over parts of the users `order`, whole vectors of them, with about equally many comparisons."""
    n = int(pointers[-1])
    if n < SMALL:
        return [work(0, len(order))]
    done = np.cumsum(pointers[order + 1] - pointers[order])
    inner = np.searchsorted(done, np.arange(1, CHUNKS) * n // CHUNKS) // LANES * LANES
    return _concurrently([0, *inner.tolist(), len(order)], work)


def _concurrently(edges: list[int], work: Callable[[int, int], Result]) -> list[Result]:
    if len(edges) == 2:
        return [work(edges[0], edges[1])]
    return list(_pool(os.getpid()).map(work, edges[:-1], edges[1:]))


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Threads of this process, which no fork inherits."""
    return ThreadPoolExecutor(CHUNKS, thread_name_prefix="learning")


@contextmanager
def threads_to_ourselves(n: int) -> Iterator[None]:
    """BLAS keeps to one thread while passes over n comparisons have their own: its idle threads spin for a while."""
    with one_blas_thread() if n >= SMALL else nullcontext():
        yield


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """For whoever multiplies many small matrices: where the cores are busy, waiting for a second thread is slow."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def over(n: int, work: Callable[[int, int], Result], *, small: int = SMALL) -> list[Result]:
    """`work(first, last)` for parts of n comparisons; fewer than `small` are not worth a thread."""
    return _concurrently([0, *(n * part // CHUNKS for part in range(1, CHUNKS)), n] if n >= small else [0, n], work)


@njit(nogil=True, cache=True)
def project(first, last, indptr, rows, cols, signs, P, own, Y, Z):
    """Z[j - first] (k * d2) of the comparisons first <= j < last."""
    k, d2 = P.shape[1], Y.shape[1]
    for j in range(first, last):
        i = j - first
        for a in range(k * d2):
            Z[i, a] = 0.0
        for t in range(indptr[j], indptr[j + 1]):
            s, row = signs[t], rows[t]
            if d2 == 1:
                for c in range(k):
                    Z[i, c] += s * P[row, c]
            else:
                for c in range(k):
                    v = s * P[row, c]
                    for b in range(d2):
                        Z[i, c * d2 + b] += v * Y[cols[t], b]
            if own.shape[0] > 0:
                for c in range(k):
                    Z[i, c * d2] += s * own[row, c]


@njit(nogil=True, cache=True)
def projections(first, last, index, indptr, rows, cols, signs, P, own, Y, out):
    """out[i] = z of the comparisons index[i], first <= i < last."""
    for i in range(first, last):
        project(index[i], index[i] + 1, indptr, rows, cols, signs, P, own, Y, out[i : i + 1])


@njit(nogil=True, cache=True)
def dense(index, indptr, rows, cols, signs, X, Y, out):
    """out[i] (d1, d2) += sum of sign * X[row] Y[col]^T of the comparisons index[i]."""
    for i in range(len(index)):
        for t in range(indptr[index[i]], indptr[index[i] + 1]):
            for b in range(Y.shape[1]):
                v = signs[t] * (Y[cols[t], b] if Y.shape[1] > 1 else 1.0)
                if v != 0.0:
                    for a in range(X.shape[1]):
                        out[i, a, b] += v * X[rows[t], a]


@njit(nogil=True, cache=True)
def constant_moment(m, V, k, d2, second):
    """Write E[W_0 W_0^T], packed, to `second` (k (k + 1) / 2,); W_0 is the adapter's constant column."""
    i = 0
    for a in range(k):
        for b in range(a + 1):
            v = V[a * d2, b * d2] + m[a * d2] * m[b * d2]
            second[i] = v if a == b else 2.0 * v
            i += 1


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def exponentials(n, c, power, scale, e):
    """Write exp(-c), c >= 0, to e; `power` are the bits of `scale`. A polynomial, so that it is a vector's work."""
    for i in range(n):
        t = -min(c[i], 700.0) * 1.4426950408889634
        whole = np.floor(t + 0.5)
        f = (t - whole) * 0.6931471805599453
        power[i] = (np.int64(whole) + 1023) << 52
        s = 1.6059043836821613e-10 * f + 2.08767569878681e-09
        s = s * f + 2.505210838544172e-08
        s = s * f + 2.755731922398589e-07
        s = s * f + 2.7557319223985893e-06
        s = s * f + 2.48015873015873e-05
        s = s * f + 1.984126984126984e-04
        s = s * f + 1.388888888888889e-03
        s = s * f + 8.333333333333333e-03
        s = s * f + 4.1666666666666664e-02
        s = s * f + 1.6666666666666666e-01
        s = s * f + 0.5
        e[i] = (s * f + 1.0) * f + 1.0
    for i in range(n):
        e[i] *= scale[i]


@njit(nogil=True, cache=True, inline="always")
def ravelled(array):
    return array.reshape(array.size)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def moments(n, o, vo, w, e):
    """From z.m in w and <R, S> in e: w becomes E[eta], e becomes Var[eta]."""
    for i in range(n):
        mean = o[i] + w[i]
        e[i] = max(vo[i] + e[i] - w[i] * w[i], 0.0)
        w[i] = mean


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def relax(n, new_mean, new_variance, pace, far, mean, variance):
    """Move the scores' moments in use towards the new ones, by `pace`; the variances more carefully, where `far`.

    A variance v's weight, about that of a normal density of variance s^2 = v + LOGISTIC_VARIANCES[2] at the mean m,
    changes by (m^2 / s^2 - 1) v / 2 s^2 times as much as v, relatively: where scores are sure, full steps would go to
    and fro ever further.
    """
    for i in range(n):
        mean[i] += pace[i] * (new_mean[i] - mean[i])
        spread = 1.0 / (variance[i] + LOGISTIC_VARIANCES[2])
        steep = 0.5 * (mean[i] * mean[i] * spread - 1.0) * variance[i] * spread
        share = pace[i] / (1.0 + (MEAN_RELAXATION - 1.0) * far[i]) / (1.0 + max(steep, VARIANCE_DAMPING * far[i]))
        least = 0.5 * min(variance[i], new_variance[i])
        variance[i] = max(variance[i] + share * (new_variance[i] - variance[i]), least)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def expectations(n, mean, variance, power, scale, c, x, r, low, slope, loss):
    """Write E[sigmoid(-|eta|)] to low, E[sigmoid'(eta)] to slope, E[log(1 + exp(eta))] less max(mean, 0) to loss.

    For eta ~ N(mean, variance), with the logistic function as a mixture of normal ones, and those after Abramowitz and
    Stegun 26.2.17.
    """
    low[:n] = 0.0
    slope[:n] = 0.0
    loss[:n] = 0.0
    for part in range(len(LOGISTIC_SHARES)):
        share, width = 0.3989422804014327 * LOGISTIC_SHARES[part], LOGISTIC_VARIANCES[part]
        for i in range(n):
            r[i] = 1.0 / np.sqrt(variance[i] + width)
            a = mean[i] * r[i]
            c[i] = 0.5 * a * a
        exponentials(n, c, power, scale, x)
        for i in range(n):
            density = share * x[i]
            t = 1.0 / (1.0 + 0.2316419 * abs(mean[i]) * r[i])
            tail = ((1.330274429 * t - 1.821255978) * t + 1.781477937) * t
            low[i] += density * ((tail - 0.356563782) * t + 0.319381530) * t
            slope[i] += density * r[i]
            loss[i] += density * (variance[i] + width) * r[i]
    for i in range(n):
        loss[i] -= abs(mean[i]) * low[i]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def bend(n, mean, low, slope, o, far, weight, kappa, w, more, pull):
    """Weights w = a E[sigmoid'(eta)] of the covariance, how much `more` the mean's are, and what pulls the mean.

    The mean's, a (E[sigmoid(eta)] - 1/2) / mean, are those of a quadratic that touches the expected loss at +-mean and
    lies above it everywhere else; where not `far`, they are the covariance's own, as in Newton's step. `w` comes with
    the scores' means as the adapter has them: `pull` leaves out what `more` adds to the slope there.
    """
    for i in range(n):
        size, own = abs(mean[i]), w[i] - o[i]
        bound = max((0.5 - low[i]) / max(size, 1e-3), slope[i]) if size >= 1e-3 else slope[i]
        w[i] = weight[i] * slope[i]
        more[i] = far[i] * weight[i] * (bound - slope[i])
        pull[i] = kappa[i] - weight[i] * bound * mean[i] + w[i] * (mean[i] - o[i]) + more[i] * (mean[i] - o[i] - own)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def load(users, start, size, pointers, indptr, rows, cols, signs, P, own, Y, C, places, z, doubt, Z, S):
    """Z[i] and S[i] = z z^T + C_chosen + C_rejected (packed) of each lane's comparisons start <= i < start + size.

    The entries of C stand at `places` of S. Of Z and S, (.., LANES), LANES vectors behind the last are scratch.
    """
    p, q = z.shape[1], z.shape[1] * (z.shape[1] + 1) // 2
    if Y.shape[1] == 1:
        load_plain(users, start, size, pointers, indptr, rows, signs, P, C, z.shape[1], Z, S)
    else:
        load_placed(users, start, size, pointers, indptr, rows, cols, signs, P, own, Y, C, places, z, doubt, Z, S)
    for i in range(size):  # apart from the loops above: numbers just stored one by one are slow to read as a vector
        at = 0
        for a in range(p):
            add_scaled(S, i * q + at, Z, i * p, Z, i * p + a, a + 1)
            at += a + 1


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def load_plain(users, start, size, pointers, indptr, rows, signs, P, C, p, Z, S):
    """The same before the squares, without contexts: rows of P and C as vectors, turned into lanes together.

    P (M, .) has columns of zeros up to a multiple of LANES.
    """
    near, wide, q = P.shape[1], C.shape[1] if len(C) > 0 else 0, p * (p + 1) // 2
    zs, doubts = np.empty(LANES * near), np.empty(LANES * wide)
    for i in range(size):
        zs[:] = 0.0
        doubts[:] = 0.0
        for lane in range(len(users)):
            j, end = pointers[users[lane]] + start + i, pointers[users[lane] + 1]
            if j + AHEAD < end:
                for t in range(indptr[j + AHEAD], indptr[j + AHEAD + 1]):
                    for line in range(0, near, LINE // 8):
                        fetch(P, rows[t] * near + line)
                    for line in range(0, wide, LINE // 4):
                        fetch(C, rows[t] * wide + line)
            if j < end:
                for t in range(indptr[j], indptr[j + 1]):
                    add_row(zs, lane * near, P, rows[t] * near, float(signs[t]), near)
                    if wide > 0:
                        add_singles(doubts, lane * wide, C, rows[t] * wide, wide)
        turn(Z, i * p, zs, near)
        if wide > 0:
            turn(S, i * q, doubts, wide)
        else:
            S[i * q : (i + 1) * q] = 0.0


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def load_placed(users, start, size, pointers, indptr, rows, cols, signs, P, own, Y, C, places, z, doubt, Z, S):
    """The same before the squares, with contexts."""
    p, wide = z.shape[1], C.shape[1]
    q = p * (p + 1) // 2
    zs, ss = Z.reshape(Z.size), S.reshape(S.size)
    ss[: size * q * LANES] = 0.0
    for lane in range(LANES):
        begin, count = 0, 0
        if lane < len(users):
            begin = pointers[users[lane]] + start
            count = min(size, pointers[users[lane] + 1] - begin)
        if count > 0:
            project(begin, begin + count, indptr, rows, cols, signs, P, own, Y, z)
        for i in range(count):
            for a in range(p):
                zs[(i * p + a) * LANES + lane] = z[i, a]
        for i in range(max(count, 0), size):
            for a in range(p):
                zs[(i * p + a) * LANES + lane] = 0.0
    for i in range(size if len(C) > 0 else 0):
        for lane in range(len(users)):
            j = pointers[users[lane]] + start + i
            if j >= pointers[users[lane] + 1]:
                continue
            doubt[:] = 0.0
            for t in range(indptr[j], indptr[j + 1]):
                add_singles(doubt, 0, C, rows[t] * wide, wide)
            at = i * q * LANES + lane
            for b in range(len(places)):
                ss[at + places[b] * LANES] = doubt[b]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def factorise(A, y):
    """A (packed) becomes its Cholesky factor, the diagonal inverted; y (1, LANES) is scratch."""
    p = int(np.sqrt(2 * len(A)))
    for a in range(p):
        row = a * (a + 1) // 2
        for b in range(a + 1):
            other = b * (b + 1) // 2
            y[0] = 0.0
            add_product(y, 0, A, row, A, other, b)
            if a == b:
                for lane in range(LANES):
                    root = np.sqrt(A[row + a, lane] - y[0, lane])
                    A[row + a, lane] = 1.0 / root
            else:
                for lane in range(LANES):
                    A[row + b, lane] = (A[row + b, lane] - y[0, lane]) * A[other + b, lane]
    return p


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def maximise(A, right, y, m):
    """Solve A m = right; A (packed) is overwritten by its factor."""
    p = factorise(A, y)
    for a in range(p):
        row = a * (a + 1) // 2
        y[0] = 0.0
        add_product(y, 0, A, row, m, 0, a)
        m[a] = (right[a] - y[0]) * A[row + a]
    for a in range(p - 1, -1, -1):
        row = a * (a + 1) // 2
        m[a] *= A[row + a]
        y[0] = -m[a]
        add_scaled(m, 0, A, row, y, 0, a)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def solve(A, R, G, y):
    """R = A^-1 (packed, A is overwritten by its factor and G by the factor's inverse)."""
    p = factorise(A, y)
    R[:] = 0.0
    for a in range(p):  # row a of the factor's inverse, and what it adds to the inverse itself
        row = a * (a + 1) // 2
        G[row : row + a + 1] = 0.0
        for c in range(a):
            add_scaled(G, row, G, c * (c + 1) // 2, A, row + c, c + 1)
        for b in range(a):
            for lane in range(LANES):
                G[row + b, lane] *= -A[row + a, lane]
        G[row + a] = A[row + a]
        for b in range(a + 1):
            add_scaled(R, b * (b + 1) // 2, G, row, G, row + b, b + 1)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def times(R, x, y):
    """R x, with R packed and symmetric, is written to y."""
    p = len(x)
    y[:] = 0.0
    for a in range(p):
        row = a * (a + 1) // 2
        add_product(y, a, R, row, x, 0, a + 1)
        add_scaled(y, 0, R, row, x, a, a)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def pool(table):
    """Every lane becomes the sum of all."""
    for i in range(len(table)):
        table[i] = table[i].sum()


@njit(nogil=True, cache=True)
def set_pace(gap, step, last, distant, pace):
    """How far each lane goes next: where its scores moved by less than NEAR, by how its last two `step`s compare."""
    for lane in range(LANES):
        was_near = distant[lane] == 0.0
        distant[lane] = 1.0 if gap[lane] > NEAR else 0.0
        along, size = 0.0, 0.0
        for a in range(len(step)):
            along += step[a, lane] * last[a, lane]
            size += last[a, lane] * last[a, lane]
        if distant[lane] > 0.0:
            pace[lane] = MEAN_RELAXATION
        elif was_near and size > 0.0:
            pace[lane] = min(max(pace[lane] / max(1.0 - along / size, 0.1), PACES[0]), PACES[1])
        else:
            pace[lane] = 1.0


@njit(nogil=True, cache=True)
def pack(first, last, which, matrices, out):
    """out[i] = the lower triangle of matrices[which[i]] (k, k), for first <= i < last."""
    for i in range(first, last):
        at = 0
        for a in range(matrices.shape[1]):
            for b in range(a + 1):
                out[i, at] = matrices[which[i], a, b]
                at += 1


@njit(nogil=True, cache=True)
def unpack(first, last, packed, matrices):
    """Symmetric matrices[i] (k, k) of the lower triangle packed[i], for first <= i < last."""
    for i in range(first, last):
        at = 0
        for a in range(matrices.shape[1]):
            for b in range(a + 1):
                matrices[i, a, b] = packed[i, at]
                matrices[i, b, a] = packed[i, at]
                at += 1


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def inverses(first, last, matrices, V, log):
    """V[i] = matrices[i]^-1 (E, k, k), symmetric positive definite, and log |V[i]|, for first <= i < last."""
    p = matrices.shape[1]
    q = p * (p + 1) // 2
    A, R, G = np.empty((q, LANES)), np.empty((q, LANES)), np.empty((q, LANES))
    y = np.empty((1, LANES))
    for begin in range(first, last, LANES):
        for lane in range(LANES):
            one = min(begin + lane, last - 1)
            at = 0
            for a in range(p):
                for b in range(a + 1):
                    A[at, lane] = matrices[one, a, b]
                    at += 1
        solve(A, R, G, y)
        for lane in range(min(LANES, last - begin)):
            at = 0
            for a in range(p):
                for b in range(a + 1):
                    V[begin + lane, a, b] = R[at, lane]
                    V[begin + lane, b, a] = R[at, lane]
                    at += 1
            log[begin + lane] = 0.0
            for a in range(p):
                log[begin + lane] += 2.0 * np.log(A[a * (a + 3) // 2, lane])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def e_step(
    first, last, order, pointers, indptr, rows, cols, signs, P, own, Y, C, places, offset, offset_variance, kappa,
    weight, T, precision, iterations, tolerance, used, means, covariances, score_mean, score_variance, mean_weight,
    variance_weight, likelihood, log_volume, steps, done, together,
):  # fmt: skip
    """The posterior of every user's adapter, `iterations` times or until no mean moves by more than `tolerance`.

    Of the users order[first:last], LANES at a time, which have about equally many comparisons. C (M, k (k + 1) / 2) are
    the covariances of the rows' own loadings, lower triangles. Scores' moments, (2, n) in `used` to start from, move as
    `relax` says; a user who has settled moves no more. With R = V + m m^T, a score's variance is its offset's plus
    <R, z z^T + C_chosen + C_rejected> - (z.m)^2. Those of a vector who are parts of one user are taken `together`.
    """
    p, q = T.shape[0], T.shape[0] * (T.shape[0] + 1) // 2
    most = 0
    for g in range(first, last):
        most = max(most, pointers[order[g] + 1] - pointers[order[g]])
    block = min(most, max(1, BLOCK_NUMBERS // (LANES * max(q, 1))))
    Z, S = np.empty((block * p + LANES, LANES)), np.empty((block * q + LANES, LANES))
    room = np.zeros((17, block, LANES))
    o, vo, kappas, weights, pull, w, e = room[0], room[1], room[2], room[3], room[4], room[5], room[6]
    free, mean, variance, low, slope, loss = room[7], room[8], room[9], room[10], room[11], room[12]
    more, far = room[15], room[16]
    scratch = (ravelled(room[13]), ravelled(room[14]), ravelled(pull), ravelled(low), ravelled(slope), ravelled(loss))
    power = np.empty(block * LANES, np.int64)
    scale = power.view(np.float64)
    prior, A, H, G, R, V = (
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
    )
    right, m, new, y = np.empty((p, LANES)), np.empty((p, LANES)), np.empty((p, LANES)), np.empty((1, LANES))
    roots = np.ones((p, LANES))
    z, doubt = np.empty((block, p)), np.empty(C.shape[1])
    counts, settled, change = np.empty(LANES, np.int64), np.empty(LANES, np.bool_), np.empty(LANES)
    gap, distant = np.empty(LANES), np.empty(LANES)
    pace, step = np.empty(LANES), np.zeros((p, LANES))
    at = 0
    for a in range(p):
        for b in range(a + 1):
            prior[at] = precision[a, b]
            at += 1
    for g in range(first, last, LANES):
        users = order[g : min(g + LANES, last)]
        counts[:] = 0
        settled[:] = True
        longest = 0
        for lane in range(len(users)):
            counts[lane] = pointers[users[lane] + 1] - pointers[users[lane]]
            settled[lane] = counts[lane] == 0
            longest = max(longest, counts[lane])
            means[users[lane]] = 0.0
            likelihood[users[lane]] = 0.0
            steps[users[lane]] = 0
            if counts[lane] == 0:
                covariances[users[lane]] = T
                log_volume[users[lane]] = np.nan
        m[:] = 0.0
        distant[:] = 1.0
        pace[:] = MEAN_RELAXATION
        taken, fresh = 0, True
        while longest > 0:
            ending = taken == iterations or settled.all()
            A[:] = prior
            if together:
                A[:, 1:] = 0.0
            H[:] = 0.0
            right[:] = 0.0
            gap[:] = 0.0
            any_far = distant.any()
            for start in range(0, longest, block):
                size = min(block, longest - start)
                if fresh or longest > block:
                    load(users, start, size, pointers, indptr, rows, cols, signs, P, own, Y, C, places, z, doubt, Z, S)
                    room[:] = 0.0
                    for lane in range(len(users)):
                        for i in range(min(size, counts[lane] - start)):
                            j = pointers[users[lane]] + start + i
                            o[i, lane], vo[i, lane], kappas[i, lane] = offset[j], offset_variance[j], kappa[j]
                            mean[i, lane], variance[i, lane], weights[i, lane] = used[0, j], used[1, j], weight[j]
                flat = size * LANES
                if taken == 0:
                    w[:size] = o[:size]
                else:
                    w[:size] = 0.0
                    e[:size] = 0.0
                    for i in range(size):
                        add_product(w, i, Z, i * p, m, 0, p)
                        add_product(e, i, S, i * q, R, 0, q)
                    moments(flat, ravelled(o), ravelled(vo), ravelled(w), ravelled(e))
                if ending:
                    mean[:size], variance[:size], far[:size] = w[:size], e[:size], 1.0
                else:
                    for i in range(size):
                        for lane in range(LANES):
                            far[i, lane] = distant[lane]
                            free[i, lane] = 0.0 if settled[lane] else pace[lane]
                    if taken > 0:
                        for i in range(size):
                            for lane in range(LANES):
                                gap[lane] = max(gap[lane], abs(w[i, lane] - mean[i, lane]))
                        relax(
                            flat,
                            ravelled(w),
                            ravelled(e),
                            ravelled(free),
                            ravelled(far),
                            ravelled(mean),
                            ravelled(variance),
                        )
                expectations(flat, ravelled(mean), ravelled(variance), power, scale, *scratch)
                bend(
                    flat,
                    ravelled(mean),
                    ravelled(low),
                    ravelled(slope),
                    ravelled(o),
                    ravelled(far),
                    ravelled(weights),
                    ravelled(kappas),
                    ravelled(w),
                    ravelled(more),
                    ravelled(pull),
                )
                if ending:
                    for lane in range(len(users)):
                        for i in range(min(size, counts[lane] - start)):
                            j = pointers[users[lane]] + start + i
                            score_mean[j], score_variance[j] = mean[i, lane], variance[i, lane]
                            mean_weight[j], variance_weight[j] = w[i, lane] + more[i, lane], w[i, lane]
                            missed = 0.5 * abs(mean[i, lane]) + loss[i, lane]
                            likelihood[users[lane]] += kappa[j] * mean[i, lane] - weight[j] * missed
                    continue
                if longest > block:
                    for lane in range(len(users)):
                        for i in range(min(size, counts[lane] - start)):
                            j = pointers[users[lane]] + start + i
                            used[0, j], used[1, j] = mean[i, lane], variance[i, lane]
                for i in range(size):
                    add_scaled(A, 0, S, i * q, w, i, q)
                    add_scaled(right, 0, Z, i * p, pull, i, p)
                    if any_far:
                        add_scaled(H, 0, S, i * q, more, i, q)
            if ending:
                break
            if together:
                pool(A)
                pool(H)
                pool(right)
                gap[:] = gap.max()
            if any_far:
                times(H, m, new)
                right += new
                H += A
            solve(A, V, G, y)
            for a in range(p):
                roots[a] = A[a * (a + 3) // 2]
            if any_far:
                maximise(H, right, y, new)
            else:
                times(V, right, new)
            new -= m
            change[:] = 0.0
            for a in range(p):
                for lane in range(LANES):
                    change[lane] = max(change[lane], abs(new[a, lane]))
            if taken > 0:
                set_pace(gap, new, step, distant, pace)
            step[:] = new
            new += m
            m[:] = new
            R[:] = V
            at = 0
            for a in range(p):
                add_scaled(R, at, m, 0, m, a, a + 1)
                at += a + 1
                R[at - 1 - a : at - 1] *= 2.0
            taken, fresh = taken + 1, False
            for lane in range(len(users)):
                if not settled[lane]:
                    steps[users[lane]] = taken
                    settled[lane] = p == 0 or (change[lane] <= tolerance and taken > 1)
        for lane in range(len(users)):
            if counts[lane] == 0:
                done[users[lane]] = True
                continue
            done[users[lane]] = settled[lane]
            log_volume[users[lane]] = 0.0
            at = 0
            for a in range(p):
                log_volume[users[lane]] += 2.0 * np.log(roots[a, lane])
                means[users[lane], a] = m[a, lane]
                for b in range(a + 1):
                    covariances[users[lane], a, b] = V[at, lane]
                    covariances[users[lane], b, a] = V[at, lane]
                    at += 1


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def predictive_moments(
    first, last, pointers, indptr, rows, cols, signs, P, own, Y, C, offset, offset_variance,
    means, covariances, score_mean, score_variance,
):  # fmt: skip
    """Mean and variance of every comparison's score under the users' posteriors."""
    p, k, d2, q = means.shape[1], P.shape[1], Y.shape[1], C.shape[1]
    Z, second = np.empty((1, p)), np.zeros(q)
    for u in range(first, last):
        if len(C) > 0:
            constant_moment(means[u], covariances[u], k, d2, second)
        for j in range(pointers[u], pointers[u + 1]):
            project(j, j + 1, indptr, rows, cols, signs, P, own, Y, Z)
            mean, variance = offset[j], offset_variance[j]
            for a in range(p):
                mean += Z[0, a] * means[u, a]
                row_sum = 0.0
                for b in range(p):
                    row_sum += covariances[u, a, b] * Z[0, b]
                variance += row_sum * Z[0, a]
            if len(C) > 0:
                for t in range(indptr[j], indptr[j + 1]):
                    row = rows[t]
                    for b in range(q):
                        variance += C[row, b] * second[b]
            score_mean[j], score_variance[j] = mean, variance


@njit(nogil=True, cache=True)
def scores(first, last, indptr, rows, cols, signs, P, own, Y, out):
    """out[j] of the comparisons first <= j < last: sum of sign * (P[row] . Y[col] + own[row]), P (M, e), Y (C, e)."""
    e = Y.shape[1]
    for j in range(first, last):
        total = 0.0
        for t in range(indptr[j], indptr[j + 1]):
            s, row = signs[t], rows[t]
            if e == 1:
                total += s * P[row, 0]
            else:
                for b in range(e):
                    total += s * P[row, b] * Y[cols[t], b]
            if len(own) > 0:
                total += s * own[row]
        out[j] = total


@njit(nogil=True, cache=True)
def adjoint(first, last, indptr, rows, cols, signs, r, Y, G):
    """G[row] (M, e) += sign * r_j * Y[col] over the terms of the comparisons first <= j < last."""
    e = Y.shape[1]
    for j in range(first, last):
        for t in range(indptr[j], indptr[j + 1]):
            v = signs[t] * r[j]
            if e == 1:
                G[rows[t], 0] += v
            else:
                for b in range(e):
                    G[rows[t], b] += v * Y[cols[t], b]


@njit(nogil=True, cache=True)
def row_sums(first, last, indptr, rows, values, out):
    """out[j] = the sum of values[row] over the terms of the comparisons first <= j < last."""
    for j in range(first, last):
        total = 0.0
        for t in range(indptr[j], indptr[j + 1]):
            total += values[rows[t]]
        out[j] = total


@njit(nogil=True, cache=True)
def recurrences(first, last, pointers, indptr, key, out):
    """out[j] = in how many of its user's comparisons the terms of comparison j occur, on average."""
    for u in range(first, last):
        begin, end = indptr[pointers[u]], indptr[pointers[u + 1]]
        order = np.argsort(key[begin:end])
        count = np.empty(end - begin)
        i = 0
        while i < end - begin:
            after = i + 1
            while after < end - begin and key[begin + order[after]] == key[begin + order[i]]:
                after += 1
            for t in range(i, after):
                count[order[t]] = after - i
            i = after
        for j in range(pointers[u], pointers[u + 1]):
            total = 0.0
            for t in range(indptr[j], indptr[j + 1]):
                total += count[t - begin]
            out[j] = total / max(indptr[j + 1] - indptr[j], 1)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def normal_product(
    first, last, pointers, indptr, rows, cols, signs, P, own, apart, Y, offset, w, v, kappa, means, covariances, G, H,
):  # fmt: skip
    """The quadratic of the M step, row by row of the table.

    With r_j = w_j (offset_j + z_j . m) - kappa_j and R_j = r_j m + v_j V z_j, adds r_j's share to G (M, d2) and R_j's
    to H (M, k), which take their columns' Y; where items' effects stand `apart` from the features', because of
    contexts, G has one and H has k columns more for them. `offset` holds the scores of Theta_0's direction, P and `own`
    the projections of B's.
    """
    k, d2 = P.shape[1], Y.shape[1]
    p = k * d2
    most = 0
    for u in range(first, last):
        most = max(most, pointers[u + 1] - pointers[u])
    most = min(most, ROWS)
    Zs, Rs = np.empty((most, p)), np.empty((most, p))
    for u in range(first, last):
        for begin in range(pointers[u], pointers[u + 1], ROWS):
            count = min(ROWS, pointers[u + 1] - begin)
            Z, R = Zs[:count], Rs[:count]
            project(begin, begin + count, indptr, rows, cols, signs, P, own, Y, Z)
            if p > 0:
                np.dot(Z, covariances[u], R)
            for i in range(count):
                j = begin + i
                score = offset[j]
                for a in range(p):
                    score += Z[i, a] * means[u, a]
                r = w[j] * score - (kappa[j] if len(kappa) > 0 else 0.0)
                for a in range(p):
                    R[i, a] = r * means[u, a] + v[j] * R[i, a]
                for t in range(indptr[j], indptr[j + 1]):
                    s, row = signs[t], rows[t]
                    if d2 == 1:
                        G[row, 0] += s * r
                        for c in range(k):
                            H[row, c] += s * R[i, c]
                    else:
                        for b in range(d2):
                            G[row, b] += s * r * Y[cols[t], b]
                            for c in range(k):
                                H[row, c] += s * R[i, c * d2 + b] * Y[cols[t], b]
                    if apart:
                        G[row, d2] += s * r
                        for c in range(k):
                            H[row, k + c] += s * R[i, c * d2]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def normal_product_plain(first, last, pointers, indptr, rows, signs, P, offset, w, v, kappa, means, covariances, G, H):
    """The same without contexts, a comparison at a time: P (M, .) and H have columns up to a multiple of LANES."""
    near, p = P.shape[1], means.shape[1]
    z, R, m, V = np.zeros(near), np.zeros(near), np.zeros(near), np.zeros(p * near)
    for u in range(first, last):
        for a in range(p):
            m[a] = means[u, a]
            for b in range(p):
                V[a * near + b] = covariances[u, a, b]
        for j in range(pointers[u], pointers[u + 1]):
            if j + FAR_AHEAD < pointers[last]:
                for t in range(indptr[j + FAR_AHEAD], indptr[j + FAR_AHEAD + 1]):
                    for line in range(0, near, LINE // 8):
                        fetch(P, rows[t] * near + line)
                        fetch(H, rows[t] * near + line)
            z[:] = 0.0
            for t in range(indptr[j], indptr[j + 1]):
                add_row(z, 0, P, rows[t] * near, float(signs[t]), near)
            score = offset[j]
            for a in range(near):
                score += z[a] * m[a]
            r = w[j] * score - (kappa[j] if len(kappa) > 0 else 0.0)
            for a in range(near):
                R[a] = r * m[a]
                z[a] *= v[j]
            add_rows(R, 0, V, 0, z, 0, p, near)
            for t in range(indptr[j], indptr[j + 1]):
                G[rows[t], 0] += signs[t] * r
                add_row(H, rows[t] * near, R, 0, float(signs[t]), near)


@njit(nogil=True, cache=True)
def row_information(first, last, pointers, indptr, rows, w, d2, means, covariances, h, J):
    """h[row] += w_j and J[row] += w_j E[W_0 W_0^T] (lower triangle), W_0 the constant column of the user's adapter.

    J (M, wide, LANES) has zeros behind the triangle.
    """
    k, wide = means.shape[1] // d2, J.shape[1]
    second, weight = np.zeros((wide, LANES)), np.empty((1, LANES))
    flat = ravelled(second)
    for u in range(first, last):
        i = 0
        for a in range(k):
            for b in range(a + 1):
                flat[i] = covariances[u, a * d2, b * d2] + means[u, a * d2] * means[u, b * d2]
                i += 1
        for j in range(pointers[u], pointers[u + 1]):
            weight[:] = w[j]
            if j + AHEAD < pointers[last]:
                for t in range(indptr[j + AHEAD], indptr[j + AHEAD + 1]):
                    for line in range(0, wide * LANES, LINE // 8):
                        fetch(J, rows[t] * wide * LANES + line)
            for t in range(indptr[j], indptr[j + 1]):
                h[rows[t]] += w[j]
                add_scaled(J, rows[t] * wide, second, 0, weight, 0, wide)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def score_rows(means, spreads, loading, spread, rows, mean, stderr):
    """Rewards and standard errors of some rows of a projection, which NumPy would copy first."""
    for i in range(len(rows)):
        row = rows[i]
        value = 0.0
        for c in range(len(loading)):
            value += means[row, c] * loading[c]
        variance = 0.0
        for c in range(len(spread)):
            variance += spreads[row, c] * spread[c]
        mean[i] = value
        stderr[i] = variance**0.5 if variance > 0.0 else 0.0
