"""The loops over steps, states and actions, compiled; every function releases the interpreter's lock.

A kernel of transitions is a CSR matrix whose row s * A + a is the distribution of the next state; the kernels of all
steps lie one below the other, and `per_step` is the number of rows from one step's to the next step's: S * A, or 0
where all steps share one. Rewards (R, S * A) and visits likewise have one row for all steps or one a step. `allowed`
(S * A) says which actions there are; it is empty where all are, and a state without any is the end of an episode.
"""

import numpy as np
from numba import njit

BLOCK = 128
"""Rows of a Hessian's square root that are multiplied together."""
NEVER = -30.0
"""Exponent below which a probability is written as 0: 1e-13."""


@njit(nogil=True, cache=True)
def induce(indptr, indices, data, per_step, allowed, rewards, S, A, policy, values, q):
    """Backward induction: policy (H, S), -1 at an episode's end, and values (H + 1, S) or (2, S) of which row 0 counts.

    `q` (H, S, A) is filled too unless it is empty. Ties go to the lowest action.
    """
    H, steps, stepwise = policy.shape[0], values.shape[0] - 1, rewards.shape[0] > 1
    free, keep = len(allowed) == 0, len(q) > 0
    values[H % 2 if steps == 1 else H] = 0.0
    for h in range(H - 1, -1, -1):
        ahead = values[(h + 1) % 2 if steps == 1 else h + 1]
        here = values[h % 2 if steps == 1 else h]
        gain, base, last = rewards[h if stepwise else 0], h * per_step, h + 1 == H
        for s in range(S):
            best, chosen = -np.inf, -1
            for a in range(A):
                row = s * A + a
                if free or allowed[row]:
                    value = gain[row]
                    if not last:
                        future = 0.0
                        for t in range(indptr[base + row], indptr[base + row + 1]):
                            future += data[t] * ahead[indices[t]]
                        value += future
                    if value > best or chosen < 0:
                        best, chosen = value, a
                    if keep:
                        q[h, s, a] = value
                elif keep:
                    q[h, s, a] = -np.inf
            here[s] = best if chosen >= 0 else 0.0
            policy[h, s] = chosen


@njit(nogil=True, cache=True)
def follow(indptr, indices, data, per_step, initial, policy, A, visits):
    """Add the visits (R, S * A) of a policy of actions (H, S)."""
    H, S = policy.shape
    stepwise = visits.shape[0] > 1
    present, after = initial.copy(), np.zeros(S)
    for h in range(H):
        counts, base = visits[h if stepwise else 0], h * per_step
        for s in range(S):
            mass, a = present[s], policy[h, s]
            if mass > 0.0 and a >= 0:
                row = s * A + a
                counts[row] += mass
                if h + 1 < H:
                    for t in range(indptr[base + row], indptr[base + row + 1]):
                        after[indices[t]] += mass * data[t]
        present, after = after, present
        after[:] = 0.0


@njit(nogil=True, cache=True)
def spread(indptr, indices, data, per_step, initial, policy, present, visits):
    """Add the visits (R, S * A) of a stochastic policy (H, S, A), and write how often it is in a state, (H, S)."""
    H, S, A = policy.shape
    stepwise = visits.shape[0] > 1
    present[0] = initial
    for h in range(1, H):
        present[h] = 0.0
    for h in range(H):
        counts, base = visits[h if stepwise else 0], h * per_step
        for s in range(S):
            mass = present[h, s]
            if mass > 0.0:
                for a in range(A):
                    flow = mass * policy[h, s, a]
                    if flow > 0.0:
                        row = s * A + a
                        counts[row] += flow
                        if h + 1 < H:
                            for t in range(indptr[base + row], indptr[base + row + 1]):
                                present[h + 1, indices[t]] += flow * data[t]


@njit(nogil=True, cache=True)
def soften(indptr, indices, data, per_step, allowed, rewards, tau, policy):
    """The policy (H, S, A) that is best when its entropy is worth tau; returns nothing else."""
    H, S, A = policy.shape
    stepwise, free, cold = rewards.shape[0] > 1, len(allowed) == 0, 1.0 / tau
    ahead, here = np.zeros(S), np.zeros(S)
    for h in range(H - 1, -1, -1):
        gain, base, last = rewards[h if stepwise else 0], h * per_step, h + 1 == H
        for s in range(S):
            odds, best = policy[h, s], -np.inf
            for a in range(A):
                row = s * A + a
                if free or allowed[row]:
                    value = gain[row]
                    if not last:
                        future = 0.0
                        for t in range(indptr[base + row], indptr[base + row + 1]):
                            future += data[t] * ahead[indices[t]]
                        value += future
                    odds[a] = value
                    best = max(best, value)
                else:
                    odds[a] = -np.inf
            if best == -np.inf:
                odds[:] = 0.0
                here[s] = 0.0
                continue
            total = 0.0
            for a in range(A):
                exponent = (odds[a] - best) * cold
                odds[a] = np.exp(exponent) if exponent > NEVER else 0.0
                total += odds[a]
            if total == 1.0:
                here[s] = best
            else:
                share = 1.0 / total
                for a in range(A):
                    odds[a] *= share
                here[s] = best + tau * np.log(total)
        ahead, here = here, ahead


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def curvature(indptr, indices, data, per_step, factor, policy, present, least, hessian):
    """Add sum_h E[Cov_a D_h(s, a)] to hessian (q, q), D_h(s, a) (q,) the derivative of Q_h(s, a).

    `factor` (R * S * A, q) holds the derivatives of the rewards. What is less probable than `least` is left out.
    """
    H, S, A = policy.shape
    q = factor.shape[1]
    stepwise = len(factor) > S * A
    ahead, here = np.zeros((S, q)), np.zeros((S, q))
    rows, derivative, weight = np.empty((BLOCK + A, q)), np.empty((A, q)), np.empty(A)
    filled = 0
    for h in range(H - 1, -1, -1):
        first, base, last = (h * S * A if stepwise else 0), h * per_step, h + 1 == H
        for s in range(S):
            mass, mean, n = present[h, s], here[s], 0
            mean[:] = 0.0
            if mass <= least:
                continue
            for a in range(A):
                p = policy[h, s, a]
                if p <= least:
                    continue
                row, D = s * A + a, derivative[n]
                for j in range(q):
                    D[j] = factor[first + row, j]
                if not last:
                    for t in range(indptr[base + row], indptr[base + row + 1]):
                        w, slopes = data[t], ahead[indices[t]]
                        for j in range(q):
                            D[j] += w * slopes[j]
                for j in range(q):
                    mean[j] += p * D[j]
                weight[n] = p
                n += 1
            if n == 2:
                scale = np.sqrt(mass * weight[0] * weight[1])
                for j in range(q):
                    rows[filled, j] = scale * (derivative[0, j] - derivative[1, j])
                filled += 1
            elif n > 2:
                for i in range(n):
                    scale = np.sqrt(mass * weight[i])
                    for j in range(q):
                        rows[filled, j] = scale * (derivative[i, j] - mean[j])
                    filled += 1
            if filled >= BLOCK:
                hessian += rows[:filled].T @ rows[:filled]
                filled = 0
        ahead, here = here, ahead
    hessian += rows[:filled].T @ rows[:filled]


@njit(nogil=True, cache=True)
def curvature_product(indptr, indices, data, per_step, slopes, policy, present, flows, visits):
    """Add to visits (R, S * A) what L^T maps to the Hessian's product with v; `slopes` (R, S * A) is L v.

    `flows` (H, S, A) is overwritten. One pass back for the derivatives of Q along v, one forward for their transpose.
    """
    H, S, A = policy.shape
    stepwise = slopes.shape[0] > 1
    ahead, here = np.zeros(S), np.zeros(S)
    for h in range(H - 1, -1, -1):
        gain, base, last = slopes[h if stepwise else 0], h * per_step, h + 1 == H
        for s in range(S):
            mean = 0.0
            for a in range(A):
                p = policy[h, s, a]
                if p > 0.0:
                    row = s * A + a
                    value = gain[row]
                    if not last:
                        for t in range(indptr[base + row], indptr[base + row + 1]):
                            value += data[t] * ahead[indices[t]]
                    flows[h, s, a] = value
                    mean += p * value
            for a in range(A):
                p = policy[h, s, a]
                if p > 0.0:
                    flows[h, s, a] = present[h, s] * p * (flows[h, s, a] - mean)
            here[s] = mean
        ahead, here = here, ahead
    inflow, after = np.zeros(S), np.zeros(S)
    for h in range(H):
        counts, base = visits[h if stepwise else 0], h * per_step
        for s in range(S):
            for a in range(A):
                p = policy[h, s, a]
                if p > 0.0:
                    flow = flows[h, s, a] + inflow[s] * p
                    row = s * A + a
                    counts[row] += flow
                    if h + 1 < H:
                        for t in range(indptr[base + row], indptr[base + row + 1]):
                            after[indices[t]] += flow * data[t]
        inflow, after = after, inflow
        after[:] = 0.0


@njit(nogil=True, cache=True)
def collect(indptr, indices, data, per_step, initial, policy, weight, measure):
    """Add `weight` times the occupancy of a policy of actions (H, S) to measure (H, S, A)."""
    H, S, A = measure.shape
    present, after = initial.copy(), np.zeros(S)
    for h in range(H):
        base = h * per_step
        for s in range(S):
            mass, a = present[s], policy[h, s]
            if mass > 0.0 and a >= 0:
                measure[h, s, a] += weight * mass
                if h + 1 < H:
                    row = s * A + a
                    for t in range(indptr[base + row], indptr[base + row + 1]):
                        after[indices[t]] += mass * data[t]
        present, after = after, present
        after[:] = 0.0
