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
from app.learning.lanes import (
    LANES,
    add_product,
    add_products,
    add_row,
    add_rows,
    add_scaled,
    add_scaled_rows,
    add_singles,
    bits_of,
    fetch,
    number_of,
    put,
    put_difference,
    put_inverse,
    put_scaled,
    put_sum,
    take_triangle,
    turn,
    widest,
)

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
NEAR = 2.0
"""Of a step in log-odds, below which a user's next ones are Newton's, mixed with the last two (Anderson's mixing)."""
PATIENCE = 4
"""Mixed steps without a new best after which a user's are mixed no more, but damped."""
CLOSE = 0.5
"""As NEAR, of damped steps: the logistic function's slope changes by less than a factor of e^CLOSE on the way, so that
they contract."""
PACES = (0.6, 1.7)
"""Of damped steps, relatively; which one is told by how the last two compare (Aitken's relaxation)."""
ALIKE = 1e-10
"""Relative to their squares: two steps whose difference says no more than this are taken for one."""


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


@njit(nogil=True, cache=True, inline="always", fastmath=FAST, error_model="numpy")
def exponential(c):
    """exp(-c) for c >= 0, within 1e-9 of itself: a polynomial, so that it is a vector's work."""
    t = -min(c, 700.0) * 1.4426950408889634
    whole = np.floor(t + 0.5)
    f = (t - whole) * 0.6931471805599453
    s = 2.48015873015873e-05 * f + 1.984126984126984e-04
    s = s * f + 1.388888888888889e-03
    s = s * f + 8.333333333333333e-03
    s = s * f + 4.1666666666666664e-02
    s = s * f + 1.6666666666666666e-01
    s = s * f + 0.5
    return ((s * f + 1.0) * f + 1.0) * number_of((np.int64(whole) + 1023) << 52)


@njit(nogil=True, cache=True, inline="always", fastmath=FAST, error_model="numpy")
def inverse_root(x):
    """1 / sqrt(x) for x > 0, within 1e-10 of itself: Newton's steps from a guess by the exponent."""
    r = number_of(0x5FE6EB50C7B537A9 - (bits_of(x) >> 1))
    r *= 1.5 - 0.5 * x * r * r
    r *= 1.5 - 0.5 * x * r * r
    return r * (1.5 - 0.5 * x * r * r)


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


@njit(nogil=True, cache=True)
def spread(n, lanes, out):
    """Write what each lane has to n vectors."""
    for i in range(n):
        put(out, i, lanes, 0, 1)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def relax(n, new_mean, new_variance, pace, far, damped, mean, variance):
    """Move the scores' moments in use towards the new ones, by `pace`; the variances more carefully, where `damped`.

    A variance v's weight, about that of a normal density of variance s^2 = v + LOGISTIC_VARIANCES[2] at the mean m,
    changes by (m^2 / s^2 - 1) v / 2 s^2 times as much as v, relatively: where scores are sure, full steps would go to
    and fro ever further.
    """
    for i in range(n):
        mean[i] += pace[i] * (new_mean[i] - mean[i])
        spread = 1.0 / (variance[i] + LOGISTIC_VARIANCES[2])
        steep = damped[i] * 0.5 * (mean[i] * mean[i] * spread - 1.0) * variance[i] * spread
        share = pace[i] / (1.0 + (MEAN_RELAXATION - 1.0) * far[i]) / (1.0 + max(steep, VARIANCE_DAMPING * far[i]))
        least = 0.5 * min(variance[i], new_variance[i])
        variance[i] = max(variance[i] + share * (new_variance[i] - variance[i]), least)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def expectations(n, mean, variance, low, slope, loss):
    """Write E[sigmoid(-|eta|)] to low, E[sigmoid'(eta)] to slope, E[log(1 + exp(eta))] less max(mean, 0) to loss.

    For eta ~ N(mean, variance), with the logistic function as a mixture of normal ones, and those after Abramowitz and
    Stegun 26.2.17, whose three quotients are had by one division.
    """
    first, second, third = LOGISTIC_SHARES
    for i in range(n):
        size = abs(mean[i])
        d1, d2, d3 = (
            variance[i] + LOGISTIC_VARIANCES[0],
            variance[i] + LOGISTIC_VARIANCES[1],
            variance[i] + LOGISTIC_VARIANCES[2],
        )
        r1, r2, r3 = inverse_root(d1), inverse_root(d2), inverse_root(d3)
        a1, a2, a3 = size * r1, size * r2, size * r3
        q1, q2, q3 = 1.0 + 0.2316419 * a1, 1.0 + 0.2316419 * a2, 1.0 + 0.2316419 * a3
        one = 1.0 / (q1 * q2 * q3)
        f1 = 0.3989422804014327 * first * exponential(0.5 * a1 * a1)
        f2 = 0.3989422804014327 * second * exponential(0.5 * a2 * a2)
        f3 = 0.3989422804014327 * third * exponential(0.5 * a3 * a3)
        low[i] = f1 * tail(one * q2 * q3) + f2 * tail(one * q1 * q3) + f3 * tail(one * q1 * q2)
        slope[i] = f1 * r1 + f2 * r2 + f3 * r3
        loss[i] = f1 * d1 * r1 + f2 * d2 * r2 + f3 * d3 * r3 - size * low[i]


@njit(nogil=True, cache=True, inline="always", fastmath=FAST, error_model="numpy")
def tail(t):
    """A normal distribution's tail over its density."""
    s = ((1.330274429 * t - 1.821255978) * t + 1.781477937) * t
    return ((s - 0.356563782) * t + 0.319381530) * t


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def bend(n, mean, low, slope, o, far, weight, kappa, w, more, pull):
    """Weights w = a E[sigmoid'(eta)] of the covariance, how much `more` the mean's are, and what pulls the mean.

    The mean's, a (E[sigmoid(eta)] - 1/2) / mean, are those of a quadratic that touches the expected loss at +-mean and
    lies above it everywhere else; where not `far`, they are the covariance's own, as in Newton's step. `w` comes with
    the scores' means as the adapter has them: `pull` leaves out what `more` adds to the slope there.
    """
    # Three loops, since one over so many arrays is not made of vector instructions: they might overlap.
    for i in range(n):
        size = abs(mean[i])
        bound = max((0.5 - low[i]) / max(size, 1e-3), slope[i])
        more[i] = bound if size >= 1e-3 else slope[i]
    for i in range(n):
        above = far[i] * (more[i] - slope[i]) * (mean[i] - w[i])
        pull[i] = kappa[i] + weight[i] * (slope[i] * (mean[i] - o[i]) - more[i] * mean[i] + above)
    for i in range(n):
        more[i] = far[i] * weight[i] * (more[i] - slope[i])
        w[i] = weight[i] * slope[i]


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
    zs, ss = ravelled(Z), ravelled(S)
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
def invert(A, pivots, column, scaled):
    """A (packed, positive definite) becomes its inverse; the pivots (p, LANES) multiply to its determinant.

    By sweeps (Goodnight 1979): no step of theirs waits for the one before as a factor's do. The rest is scratch.
    """
    p = len(pivots)
    for a in range(p):
        row = a * (a + 1) // 2
        for b in range(p):
            put(column, b, A, row + b if b < a else b * (b + 1) // 2 + a, 1)
        put_inverse(pivots, a, column, a)
        put_scaled(scaled, 0, column, 0, pivots, a, p)
        take_triangle(A, 0, scaled, 0, column, 0, p)
        for b in range(p):
            put(A, row + b if b < a else b * (b + 1) // 2 + a, scaled, b, 1)
        for lane in range(LANES):
            A[row + a, lane] = -pivots[a, lane]
        put(pivots, a, column, a, 1)
    for i in range(len(A)):
        for lane in range(LANES):
            A[i, lane] *= -1.0


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def add_times(R, x, p, y):
    """R x, with R packed and symmetric (p, p), is added to y."""
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
def set_pace(gap, size, step, last, p, history, best, stale, damped, distant, pace):
    """How far each lane goes next, `size` being its step's square.

    Where its scores moved by less than NEAR the whole way, to be mixed with the `history` of so many steps just like
    it; where that has not come closer for a while, as far as the last two steps' comparison says.
    """
    for lane in range(LANES):
        was_near = distant[lane] == 0.0
        if was_near and damped[lane] == 0.0:
            history[lane] += 1
            stale[lane] = 0 if size[0, lane] < best[lane] else stale[lane] + 1
            best[lane] = min(best[lane], size[0, lane])
            if stale[lane] == PATIENCE:
                damped[lane], was_near = 1.0, False
        distant[lane] = 1.0 if gap[lane] > (CLOSE if damped[lane] > 0.0 else NEAR) else 0.0
        if distant[lane] > 0.0 or damped[lane] > 0.0:
            history[lane], stale[lane], best[lane] = 0, 0, np.inf
        along, before = 0.0, 0.0
        for a in range(p):  # of the mean alone
            along += step[a, lane] * last[a, lane]
            before += last[a, lane] * last[a, lane]
        if distant[lane] > 0.0:
            pace[lane] = MEAN_RELAXATION
        elif was_near and damped[lane] > 0.0 and before > 0.0:
            pace[lane] = min(max(pace[lane] / max(1.0 - along / before, 0.1), PACES[0]), PACES[1])
        else:
            pace[lane] = 1.0


@njit(nogil=True, cache=True)
def set_shares(products, history, settled, shares):
    """How much of the last two differences each lane adds, such that its step would change least.

    `products` of the newer difference d, the older e and the step s: dd, ee, de, ds, es.
    """
    for lane in range(LANES):
        dd, ee, de = products[0, lane], products[1, lane], products[2, lane]
        ds, es = products[3, lane], products[4, lane]
        shares[0, lane], shares[1, lane] = 0.0, 0.0
        if settled[lane] or history[lane] < 2 or not dd > 0.0:
            continue
        shares[0, lane] = -ds / dd
        apart = dd * ee - de * de
        if history[lane] > 2 and apart > ALIKE * dd * ee:
            shares[0, lane] = (de * es - ee * ds) / apart
            shares[1, lane] = (de * ds - dd * es) / apart


@njit(nogil=True, cache=True)
def mix(belief, step, last_step, image, last_image, turns, bends, taken, history, settled, products, shares):
    """Move the belief on to where its step would be least, as far as its last two changes tell (Anderson's mixing).

    Of images and of steps the last two differences are kept, in turn.
    """
    size = len(step)
    newer, older = taken % 2 * size, (1 - taken % 2) * size
    put_difference(turns, newer, image, 0, last_image, 0, size)
    put_difference(bends, newer, step, 0, last_step, 0, size)
    if largest(history) < 2:
        return
    products[:] = 0.0
    add_product(products, 0, bends, newer, bends, newer, size)
    add_product(products, 1, bends, older, bends, older, size)
    add_product(products, 2, bends, newer, bends, older, size)
    add_product(products, 3, bends, newer, step, 0, size)
    add_product(products, 4, bends, older, step, 0, size)
    set_shares(products, history, settled, shares)
    add_scaled(belief, 0, turns, newer, shares, 0, size)
    add_scaled(belief, 0, turns, older, shares, 1, size)


@njit(nogil=True, cache=True)
def largest(lanes):
    """The largest of a vector's numbers."""
    most = lanes[0]
    for lane in range(1, LANES):
        most = max(most, lanes[lane])
    return most


@njit(nogil=True, cache=True)
def twice_off_diagonal(R, p):
    """So that a packed matrix's product with another is the whole matrices'."""
    at = 0
    for a in range(p):
        for b in range(a):
            for lane in range(LANES):
                R[at + b, lane] *= 2.0
        at += a + 1


@njit(nogil=True, cache=True)
def pack(first, last, which, matrices, places, out):
    """out[i] = the entries of matrices[which[i]] (k, k) at `places` of its numbers, for first <= i < last."""
    numbers, size = ravelled(matrices), matrices.shape[1] * matrices.shape[2]
    for i in range(first, last):
        begin = which[i] * size
        for at in range(len(places)):
            out[i, at] = numbers[begin + places[at]]


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
    A, pivots = np.empty((q, LANES)), np.empty((p, LANES))
    column, scaled = np.empty((p, LANES)), np.empty((p, LANES))
    for begin in range(first, last, LANES):
        for lane in range(LANES):
            one = min(begin + lane, last - 1)
            at = 0
            for a in range(p):
                for b in range(a + 1):
                    A[at, lane] = matrices[one, a, b]
                    at += 1
        invert(A, pivots, column, scaled)
        for lane in range(min(LANES, last - begin)):
            at = 0
            for a in range(p):
                for b in range(a + 1):
                    V[begin + lane, a, b] = A[at, lane]
                    V[begin + lane, b, a] = A[at, lane]
                    at += 1
            log[begin + lane] = 0.0
            for a in range(p):
                log[begin + lane] -= np.log(pivots[a, lane])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def e_step(
    first, last, order, pointers, indptr, rows, cols, signs, P, own, Y, C, places, offset, offset_variance, kappa,
    weight, T, precision, iterations, tolerance, used, means, covariances, mean_weight, variance_weight, likelihood,
    log_volume, steps, done, together,
):  # fmt: skip
    """The posterior of every user's adapter, `iterations` times or until no mean moves by more than `tolerance`.

    Of the users order[first:last], LANES at a time, which have about equally many comparisons. C (M, k (k + 1) / 2) are
    the covariances of the rows' own loadings, lower triangles. Scores' moments, (2, n) in `used` to start from and as
    they end, move as `relax` says; a user who has settled moves no more. With R = V + m m^T, a score's variance is its
    offset's plus <R, z z^T + C_chosen + C_rejected> - (z.m)^2. Those of a vector who are parts of one user are taken
    `together`.
    """
    p, q = T.shape[0], T.shape[0] * (T.shape[0] + 1) // 2
    most = 0
    for g in range(first, last):
        most = max(most, pointers[order[g] + 1] - pointers[order[g]])
    block = min(most, max(1, BLOCK_NUMBERS // (LANES * max(q, 1))))
    Z, S = np.empty((block * p + LANES, LANES)), np.empty((block * q + LANES, LANES))
    room = np.zeros((16, block * LANES))
    o, vo, kappas, weights, pull, w, e = room[0], room[1], room[2], room[3], room[4], room[5], room[6]
    free, mean, variance, low, slope, loss = room[7], room[8], room[9], room[10], room[11], room[12]
    more, far, careful = room[13], room[14], room[15]
    nothing, prior, A, H, R = (
        np.zeros((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
        np.empty((q, LANES)),
    )
    right, pivots, column, scaled = (
        np.empty((p, LANES)),
        np.ones((p, LANES)),
        np.empty((p, LANES)),
        np.empty((p, LANES)),
    )
    # A belief is a mean and a covariance, one behind the other.
    belief, image, step, last_image, last_step = (
        np.empty((p + q, LANES)),
        np.empty((p + q, LANES)),
        np.zeros((p + q, LANES)),
        np.zeros((p + q, LANES)),
        np.zeros((p + q, LANES)),
    )
    turns, bends = np.zeros((2 * (p + q), LANES)), np.zeros((2 * (p + q), LANES))
    products, shares, size_now = np.empty((5, LANES)), np.empty((2, LANES)), np.empty((1, LANES))
    history, stale = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    best, damped, cautious, going = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    z, doubt = np.empty((block, p)), np.empty(C.shape[1])
    counts, settled, change = np.empty(LANES, np.int64), np.empty(LANES, np.bool_), np.empty(LANES)
    gap, distant = np.empty(LANES), np.empty(LANES)
    pace = np.empty(LANES)
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
            settled[lane] = counts[lane] == 0 or p == 0
            longest = max(longest, counts[lane])
            means[users[lane]] = 0.0
            likelihood[users[lane]] = 0.0
            steps[users[lane]] = 0
            if counts[lane] == 0:
                covariances[users[lane]] = T
                log_volume[users[lane]] = np.nan
        belief[:] = 0.0
        distant[:] = 1.0
        damped[:] = 0.0
        history[:] = 0
        stale[:] = 0
        best[:] = np.inf
        pace[:] = MEAN_RELAXATION
        taken, fresh = 0, True
        while longest > 0:
            ending = taken == iterations or settled.all()
            put(A, 0, prior, 0, q)
            if together:
                A[:, 1:] = 0.0
            put(H, 0, nothing, 0, q)
            put(right, 0, nothing, 0, p)
            gap[:] = 0.0
            any_far = largest(distant) > 0.0
            for lane in range(LANES):
                cautious[lane] = max(damped[lane], distant[lane])
                going[lane] = 0.0 if settled[lane] else pace[lane]
            for start in range(0, longest, block):
                size = min(block, longest - start)
                flat = size * LANES
                if fresh or longest > block:
                    load(users, start, size, pointers, indptr, rows, cols, signs, P, own, Y, C, places, z, doubt, Z, S)
                    room[:] = 0.0
                    for lane in range(len(users)):
                        for i in range(min(size, counts[lane] - start)):
                            j, at = pointers[users[lane]] + start + i, i * LANES + lane
                            o[at], vo[at], kappas[at], weights[at] = offset[j], offset_variance[j], kappa[j], weight[j]
                            mean[at], variance[at] = used[0, j], used[1, j]
                w[:flat] = 0.0
                e[:flat] = 0.0
                if taken > 0:
                    add_products(w, 0, Z, 0, belief, 0, size, p)
                    add_products(e, 0, S, 0, R, 0, size, q)
                moments(flat, o, vo, w, e)
                if ending:
                    put(mean, 0, w, 0, size)
                    put(variance, 0, e, 0, size)
                    far[:flat] = 1.0
                else:
                    spread(size, distant, far)
                    if taken > 0:
                        spread(size, cautious, careful)
                        spread(size, going, free)
                        widest(gap, 0, w, 0, mean, 0, size)
                        relax(flat, w, e, free, far, careful, mean, variance)
                expectations(flat, mean, variance, low, slope, loss)
                bend(flat, mean, low, slope, o, far, weights, kappas, w, more, pull)
                if ending or longest > block:
                    for lane in range(len(users)):
                        for i in range(min(size, counts[lane] - start)):
                            j, at = pointers[users[lane]] + start + i, i * LANES + lane
                            used[0, j], used[1, j] = mean[at], variance[at]
                            if ending:
                                mean_weight[j], variance_weight[j] = w[at] + more[at], w[at]
                                missed = 0.5 * abs(mean[at]) + loss[at]
                                likelihood[users[lane]] += kappa[j] * mean[at] - weight[j] * missed
                if not ending:
                    add_scaled_rows(A, 0, S, 0, w, 0, size, q)
                    add_scaled_rows(right, 0, Z, 0, pull, 0, size, p)
                    if any_far:
                        add_scaled_rows(H, 0, S, 0, more, 0, size, q)
            if ending:
                break
            if together:
                pool(A)
                pool(H)
                pool(right)
                gap[:] = largest(gap)
            put(image, 0, nothing, 0, p)
            if any_far:
                add_times(H, belief, p, right)
                put_sum(H, 0, H, 0, A, 0, q)
                invert(H, pivots, column, scaled)
                add_times(H, right, p, image)
            invert(A, pivots, column, scaled)
            if not any_far:
                add_times(A, right, p, image)
            put(image, p, A, 0, q)
            if taken == 0:
                put(belief, p, A, 0, q)
            put(last_step, 0, step, 0, p + q)
            put_difference(step, 0, image, 0, belief, 0, p + q)
            change[:] = 0.0
            widest(change, 0, image, 0, belief, 0, p)
            taken, fresh = taken + 1, False
            for lane in range(len(users)):
                if not settled[lane]:
                    steps[users[lane]] = taken
                    settled[lane] = change[lane] <= tolerance and taken > 1
            if taken > 1:
                size_now[:] = 0.0
                add_product(size_now, 0, step, 0, step, 0, p + q)
                set_pace(gap, size_now, step, last_step, p, history, best, stale, damped, distant, pace)
            put(belief, 0, image, 0, p + q)
            if largest(history) > 0 and taken < iterations:
                mix(belief, step, last_step, image, last_image, turns, bends, taken, history, settled, products, shares)
            put(last_image, 0, image, 0, p + q)
            put(R, 0, belief, p, q)
            for a in range(p):
                add_scaled(R, a * (a + 1) // 2, belief, 0, belief, a, a + 1)
            twice_off_diagonal(R, p)
        for lane in range(len(users)):
            if counts[lane] == 0:
                done[users[lane]] = True
                continue
            done[users[lane]] = settled[lane]
            log_volume[users[lane]] = 0.0
            at = p
            for a in range(p):
                log_volume[users[lane]] -= np.log(pivots[a, lane])
                means[users[lane], a] = belief[a, lane]
                for b in range(a + 1):
                    covariances[users[lane], a, b] = belief[at, lane]
                    covariances[users[lane], b, a] = belief[at, lane]
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
def row_weights(first, last, indptr, rows, w, out):
    """out[row] (M,) += w_j over the terms of the comparisons first <= j < last."""
    for j in range(first, last):
        for t in range(indptr[j], indptr[j + 1]):
            out[rows[t]] += w[j]


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
