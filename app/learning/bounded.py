"""What one user may weigh in that which all users share.

Let a_i be the summed weights of user i's comparisons, N the users who have any, and

    f = max(2 / N, 0.15 / sqrt(N)),    c = the largest number with c <= f * sum_i min(a_i, c).

In the fit of what is shared, users with a_i > c count with c / a_i of each comparison's weight; so nobody has more than
the share f of the whole, whatever they send. The shared parameters' gradient is the weighted sum of the comparisons'
own, each of them bounded by its design, so f bounds what one user moves. Users are themselves a sample: with others of
their kind, the shared parameters would be others by about spread / sqrt(N), of which f is a seventh, or twice an equal
share where users are few. Who answers about as often as others loses nothing; and everybody's own adapter, which moves
nobody else, rests on all of their comparisons in full. Fewer than eight users are not bounded.

Source: leave-one-out influence of a weighted M-estimator, Hampel et al., Robust Statistics, 1986, chapter 2.
"""

from dataclasses import replace

import numpy as np

from app.learning.arrays import Real, real
from app.learning.comparisons import Comparisons

EQUAL_SHARES = 2.0
"""How many equal shares of few users one may weigh."""
NOISE_SHARE = 0.15
"""Of the sampling error between users, that one of many may move."""


FEWEST_USERS = 8
"""With fewer there is no crowd whose noise one could be measured by, and nobody is bounded."""


def largest_share(n_users: int) -> float:
    """f, the share of the whole weight that one of n users may have."""
    return max(EQUAL_SHARES / n_users, NOISE_SHARE / float(np.sqrt(n_users))) if n_users >= FEWEST_USERS else 1.0


def user_shares(comparisons: Comparisons) -> Real:
    """(N,) the factor on every weight of a user's comparisons in the fit of what is shared: 1, or less."""
    total = real(np.bincount(comparisons.user, comparisons.weight, minlength=comparisons.n_users))
    cap = _cap(total[total > 0])
    return np.asarray(np.minimum(1.0, cap / np.maximum(total, cap)))


def bounded(comparisons: Comparisons) -> Comparisons:
    """The same comparisons, with weights in which no user has more than `largest_share` of the whole."""
    factor = user_shares(comparisons)
    if (factor == 1.0).all():
        return comparisons
    return replace(comparisons, weight=comparisons.weight * factor[comparisons.user])


def _cap(total: Real) -> float:
    """C for the positive totals of some users: with the m largest at the cap, c = f (m c + the sum of the rest)."""
    f, descending = largest_share(len(total)), np.sort(total)[::-1]
    if f >= 1.0:
        return float(descending[0]) if len(total) else 1.0
    rest = np.append(np.cumsum(descending[::-1])[::-1], 0.0)
    for m in range(len(total)):
        cap = f * rest[m] / (1.0 - f * m)
        if descending[m] <= cap:
            return float(max(cap, descending[m]))
    raise AssertionError("f times the number of users is at least 2, so that somebody is below the cap")
