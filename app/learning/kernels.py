"""The loops over comparisons, compiled: what NumPy could only do with arrays of n * k numbers.

Every function works on the users `first <= u < last`, whose comparisons lie together, and releases the interpreter's
lock, so that several threads can share one pass (`over_users`). A comparison's terms are rows of a table, columns of Y
and signs; its projected design is

    z[c, b] = sum over terms of  sign * (P[row, c] * Y[col, b]  +  own[row, c] where b = 0),

with P = X B and `own` the items' own loadings. Without contexts (Y = [[1]]) the two are added up beforehand and `own`
is empty.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")

CHUNKS = 4
"""Parts of a large pass; the same on every machine, so that sums are too."""
FAST = {"reassoc", "nsz", "contract"}
"""Sums may be taken in any order, so that they use vector instructions; not-a-number stays what it is."""
ROWS = 256
"""Comparisons of a user that are worked on together."""
SMALL = 20_000
"""Terms below which threads cost more than they save."""
OVERRELAXATION = 1.4
"""Of the bound's tightenings: half as many as at 1, of all users and with little scatter."""


def over_users(pointers: NDArray[np.int64], work: Callable[[int, int], Result]) -> list[Result]:
    """`work(first, last)` for parts of the users with about equally many comparisons, in order."""
    n_users, n = len(pointers) - 1, int(pointers[-1])
    inner = np.searchsorted(pointers, np.arange(1, CHUNKS) * n // CHUNKS).tolist() if n >= SMALL else []
    return _concurrently([0, *inner, n_users], work)


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
    if n < SMALL:
        yield
        return
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def over(n: int, work: Callable[[int, int], Result]) -> list[Result]:
    """`work(first, last)` for parts of n comparisons."""
    return _concurrently([0, *(n * part // CHUNKS for part in range(1, CHUNKS)), n] if n >= SMALL else [0, n], work)


@njit(nogil=True, cache=True, inline="always")
def bound_weight(c):
    """The bound's weight, tanh(c/2) / (2c), by its series where the quotient would lose digits."""
    if c < 1e-3:
        return 0.25 - c * c / 48.0
    e = np.exp(-c)
    return (1.0 - e) / ((1.0 + e) * 2.0 * c)


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


@njit(nogil=True, cache=True, fastmath=FAST)
def inverse_and_log_determinant(A, V):
    """V = A^-1 of a symmetric positive definite A, of which the lower triangle is read and overwritten; log |V|."""
    p = A.shape[0]
    log = 0.0
    for a in range(p):
        for b in range(a + 1):
            total = A[a, b]
            for c in range(b):
                total -= A[a, c] * A[b, c]
            if a == b:
                A[a, a] = np.sqrt(total)
                log -= 2.0 * np.log(A[a, a])
            else:
                A[a, b] = total / A[b, b]
    for a in range(p):  # the inverse of the factor, in place
        A[a, a] = 1.0 / A[a, a]
        for b in range(a):
            total = 0.0
            for c in range(b, a):
                total += A[a, c] * A[c, b]
            A[a, b] = -total * A[a, a]
    for a in range(p):
        for b in range(a + 1):
            total = 0.0
            for c in range(a, p):
                total += A[c, a] * A[c, b]
            V[a, b] = total
            V[b, a] = total
    return log


@njit(nogil=True, cache=True)
def constant_moment(m, V, k, d2, second):
    """Write E[W_0 W_0^T], packed, to `second` (k (k + 1) / 2,); W_0 is the adapter's constant column."""
    i = 0
    for a in range(k):
        for b in range(a + 1):
            v = V[a * d2, b * d2] + m[a * d2] * m[b * d2]
            second[i] = v if a == b else 2.0 * v
            i += 1


@njit(nogil=True, cache=True, fastmath=FAST)
def e_step(
    first, last, pointers, indptr, rows, cols, signs, P, own, Y, C, offset, offset_variance, kappa, weight,
    T, precision, iterations, tolerance, tilt, means, covariances, score_mean, score_variance, likelihood, log_volume,
    steps, done,
):  # fmt: skip
    """The posterior of every user's adapter, `iterations` times or until no mean moves by more than `tolerance`.

    C (M, k (k + 1) / 2) are the covariances of the rows' own loadings, lower triangles. Between tightenings the c_j
    move OVERRELAXATION times as far as they would: what contracted by a half contracts by a third.
    """
    p, k, d2, q = T.shape[0], P.shape[1], Y.shape[1], C.shape[1]
    uncertain = len(C) > 0
    most = 0
    for u in range(first, last):
        most = max(most, pointers[u + 1] - pointers[u])
    Zs, Ws, pulls, used = np.empty((most, p)), np.empty((most, p)), np.empty(most), np.empty(most)
    doubts = np.empty((most if uncertain else 0, q))
    A, V, second, added = np.empty((p, p)), np.empty((p, p)), np.empty(q), np.empty(q)
    m, right, log = np.zeros(p), np.empty(p), 0.0
    for u in range(first, last):
        begin, count = pointers[u], pointers[u + 1] - pointers[u]
        if count == 0:
            means[u] = 0.0
            covariances[u] = T
            log_volume[u] = np.nan
            done[u] = True
            continue
        Z, W, pull = Zs[:count], Ws[:count], pulls[:count]
        project(begin, begin + count, indptr, rows, cols, signs, P, own, Y, Z)
        if uncertain:
            for i in range(count):
                doubts[i] = 0.0
                for t in range(indptr[begin + i], indptr[begin + i + 1]):
                    row = rows[t]
                    for b in range(q):
                        doubts[i, b] += C[row, b]
        m[:] = 0.0
        taken, settled = 0, False
        while taken < iterations and not settled:
            added[:] = 0.0
            for i in range(count):
                j = begin + i
                step = tilt[j] - used[i]
                used[i] = tilt[j] if taken == 0 else max(used[i] + OVERRELAXATION * step, 0.5 * tilt[j])
                w = weight[j] * bound_weight(used[i])
                pull[i] = kappa[j] - w * offset[j]
                for a in range(p):
                    W[i, a] = w * Z[i, a]
                if uncertain:
                    for b in range(q):
                        added[b] += w * doubts[i, b]
            if p > 0:
                np.dot(W.T, Z, A)
                np.dot(pull, Z, right)
            for a in range(p):
                for b in range(a + 1):
                    A[a, b] += precision[a, b]
            if uncertain:
                i = 0
                for a in range(k):
                    for b in range(a + 1):
                        A[a * d2, b * d2] += added[i]
                        i += 1
            log = inverse_and_log_determinant(A, V)
            change = 0.0
            for a in range(p):
                new = 0.0
                for b in range(p):
                    new += V[a, b] * right[b]
                change = max(change, abs(new - m[a]))
                m[a] = new
            constant_moment(m, V, k, d2, second)
            if p > 0:
                np.dot(Z, V, W)
            for i in range(count):
                j = begin + i
                mean, variance = offset[j], offset_variance[j]
                for a in range(p):
                    mean += Z[i, a] * m[a]
                    variance += Z[i, a] * W[i, a]
                if uncertain:
                    for b in range(q):
                        variance += doubts[i, b] * second[b]
                score_mean[j], score_variance[j] = mean, variance
                tilt[j] = np.sqrt(mean * mean + variance)
            taken += 1
            settled = p == 0 or (change <= tolerance and taken > 1)
        total = 0.0
        for j in range(begin, begin + count):
            c = tilt[j]
            total += kappa[j] * score_mean[j] - weight[j] * (0.5 * c + np.log1p(np.exp(-c)))
        likelihood[u] = total
        means[u] = m
        covariances[u] = V
        log_volume[u] = log
        steps[u] = taken
        done[u] = settled


@njit(nogil=True, cache=True, fastmath=FAST)
def predictive_moments(
    first, last, pointers, indptr, rows, cols, signs, P, own, Y, C, offset, offset_variance,
    means, covariances, score_mean, score_variance,
):  # fmt: skip
    """Mean and variance of every comparison's score under the users' posteriors."""
    p, k, d2, q = means.shape[1], P.shape[1], Y.shape[1], C.shape[1]
    Z, second = np.empty((1, p)), np.empty(q)
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


@njit(nogil=True, cache=True, fastmath=FAST)
def normal_product(
    first, last, pointers, indptr, rows, cols, signs, P, own, apart, Y, offset, w, kappa, means, covariances, G, H,
):  # fmt: skip
    """The quadratic of the M step, row by row of the table.

    With r_j = w_j (offset_j + z_j . m) - kappa_j and R_j = r_j m + w_j V z_j, adds r_j's share to G (M, d2) and R_j's
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
                    R[i, a] = r * means[u, a] + w[j] * R[i, a]
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


@njit(nogil=True, cache=True)
def row_information(first, last, pointers, indptr, rows, w, d2, means, covariances, h, J):
    """h[row] += w_j and J[row] += w_j E[W_0 W_0^T] (lower triangle), W_0 the constant column of the user's adapter."""
    k = means.shape[1] // d2
    second = np.empty(J.shape[1])
    for u in range(first, last):
        i = 0
        for a in range(k):
            for b in range(a + 1):
                second[i] = covariances[u, a * d2, b * d2] + means[u, a * d2] * means[u, b * d2]
                i += 1
        for j in range(pointers[u], pointers[u + 1]):
            for t in range(indptr[j], indptr[j + 1]):
                h[rows[t]] += w[j]
                for i in range(len(second)):
                    J[rows[t], i] += w[j] * second[i]
