"""The dual made smooth: Newton's method on entropy-regularised backward induction.

The dual g is piecewise linear, with so many pieces that cutting planes see a curved function and need hundreds of
atoms. For a temperature tau > 0 (log-odds) replace every maximum of the induction by tau log sum exp(. / tau):

    F_tau(u) = max_d { <r_hat + L u, d - d_ref> + tau * entropy of the policy along d } - tau log room(u),

room(u) = 1 - ||u||^2 for the ball. Its optimal policy is softmax of Q / tau, its gradient L^T (d_tau - d_ref) plus the
barrier's, and its Hessian has q dimensions only: with D_h(s, a) the derivative of Q_h(s, a) in u,

    (1 / tau) sum_h E_{d_tau} [ Cov_{a ~ pi_tau(. | s)} D_h(s, a) ]   plus that of the barrier.

As tau falls, the softmax policy at the minimum of F_tau tends to the robust optimum: it is a primal policy itself, no
mixture is needed, and its own worth and the hard g(u) certify it however Newton did.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from app.policy import kernels
from app.policy.master import newton_direction
from app.policy.mdp import Real
from app.policy.search import Atom, Problem, Reason, Search
from app.policy.sets import Barrier, ConfidenceSet

FIRST_SHARE = 0.5
"""The first temperature lets all entropy there is cost about this share of the gap."""

NEAR = 30.0
"""Newton decrement (squared, over tau) from which the first level takes few steps."""

WARMER = 4.0
"""By how much the first temperature rises until its minimum is near."""

HOTTEST = 1e6
"""In units of the stake: above it the policy hardly changes any more."""

COOLING = {2: 0.05, 4: 0.2, 60: 0.5}
"""By how much the temperature falls after a level of at most so many Newton steps."""

MOST_STEPS = 40
"""Newton steps of a level after which the rest is left to the cutting planes."""

CENTRED = 1e-3
"""Newton decrement (squared, over tau) at which a level may end."""

OVERSHOOT = 0.25
"""Share of the slope that may come back with the other sign at the end of a step."""

NEGLIGIBLE_VISITS = 1e-8
"""Expected visits, and probabilities, below which a state and action says nothing about the curvature: with less, no
Newton step more was saved."""

LEAST_TEMPERATURE = 1e-9
"""In units of the stake: below it exp(Q / tau) has too few digits."""

CONJUGATE_STEPS = 200
"""Products with a Hessian that is too large to be a matrix, a Newton step at most."""

INEXACT = 0.1
"""Share of the gradient that such a Newton step may leave."""


def smoothed_newton(search: Search, problem: Problem, start: Real, before: float) -> tuple[Reason | None, Real]:
    """Follow falling temperatures from `start`, strictly inside the set, until the search stops or digits run out.

    `before` is a temperature to begin near, where an earlier search is taken up, or 0.
    """
    if problem.dynamics.shape[2] == 1:
        return None, start
    smooth = _Smoothing(search, problem, np.empty(problem.dynamics.shape))
    path, tau = _Path(problem.within, start), _first_temperature(smooth, start, before)
    while (reason := search.stopped()) is None and tau > LEAST_TEMPERATURE * search.stake:
        found, steps, reason = _level(smooth, path.at(tau), tau)
        path.add(tau, found)
        if reason is not None or steps > MOST_STEPS:
            break
        search.cut(path.at(0.0))
        tau *= next(factor for most, factor in COOLING.items() if steps <= most)
    return reason, path.last


@dataclass(slots=True, eq=False)
class _Path:
    """The minimisers of the levels, which move nearly linearly in the temperature once it is low."""

    within: ConfidenceSet
    last: Real
    known: list[tuple[float, Real]] = field(default_factory=list)

    def add(self, tau: float, u: Real) -> None:
        self.last, self.known = u, [*self.known[-1:], (tau, u)]

    def at(self, tau: float) -> Real:
        """Where the minimiser for another temperature is expected; the last one if that is outside the set."""
        if len(self.known) < 2:
            return self.last
        (warm, before), (cool, last) = self.known
        ahead = last + (tau - cool) / (cool - warm) * (last - before)
        return ahead if self.within.room(ahead) > 0 else last


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """F_tau's softmax policy at u, and its derivative."""

    u: Real
    tau: float
    atom: Atom
    present: Real
    """(H, S) how often the policy is in a state."""
    barrier: Barrier
    gradient: Real
    """(q,) of F_tau"""


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothing:
    search: Search
    problem: Problem
    policy: Real
    """(H, S, A) of the point evaluated last: the only policy that is kept."""

    def evaluate(self, u: Real, tau: float) -> _Point:
        """One soft backward induction and one pass forward; the policy found is a candidate answer at once."""
        search, problem = self.search, self.problem
        problem.dynamics.soften(problem.rewards(u), tau, self.policy)
        visits, present = problem.dynamics.spread(self.policy, problem.steps)
        value, uncertainty = problem.advantage(visits)
        search.iterations += 1
        search.temperature = tau
        barrier = problem.within.barrier(u)
        atom = Atom(u, tau, value, uncertainty)
        search.offer([(1.0, atom)])
        return _Point(u, tau, atom, present, barrier, uncertainty + tau * barrier.gradient)

    def direction(self, here: _Point) -> Real:
        """Newton's, at the point evaluated last."""
        problem = self.problem
        matrix = problem.factor.matrix
        if matrix is None:
            return _conjugate_gradient(lambda v: self._product(here, v), here.gradient, self.search.late)
        hessian = np.zeros((len(here.u), len(here.u)))
        transitions = problem.dynamics.transitions
        kernels.curvature(*transitions, matrix, self.policy, here.present, NEGLIGIBLE_VISITS, hessian)
        hessian /= here.tau
        here.barrier.add_hessian(here.tau, hessian)
        return np.asarray(newton_direction(hessian, here.gradient))

    def _product(self, here: _Point, v: Real) -> Real:
        problem = self.problem
        slopes = problem.factor.rewards(v)
        visits = np.zeros((problem.factor.steps, slopes.shape[1]))
        kernels.curvature_product(
            *problem.dynamics.transitions, slopes, self.policy, here.present, np.empty_like(self.policy), visits
        )
        return np.asarray(problem.factor.gradient(visits) / here.tau + here.tau * here.barrier.product(v))


def _conjugate_gradient(product: Callable[[Real], Real], gradient: Real, late: Callable[[], bool]) -> Real:
    """Solve H x = -gradient to a share of the gradient, or as far as there is time."""
    x, left = np.zeros_like(gradient), -gradient
    along, size = left, float(left @ left)
    enough = INEXACT**2 * size
    for _ in range(CONJUGATE_STEPS):
        curved = product(along)
        length = size / float(along @ curved)
        x, left = x + length * along, left - length * curved
        now = float(left @ left)
        if now <= enough or late():
            break
        along, size = left + (now / size) * along, now
    return x


def _level(smooth: _Smoothing, u: Real, tau: float) -> tuple[Real, int, Reason | None]:
    """Minimise F_tau by damped Newton steps; return the minimiser, the steps and perhaps why the search stops."""
    search = smooth.search
    here = smooth.evaluate(u, tau)
    for step in range(1, MOST_STEPS + 2):
        direction = smooth.direction(here)
        decrement = -float(here.gradient @ direction)
        if not decrement > CENTRED * tau and _good_enough(smooth, here, decrement):
            break
        ahead = _step(smooth, here, direction, decrement)
        if ahead is None:
            break
        here = ahead
        if (reason := search.stopped()) is not None:
            return here.u, step, reason
    search.atoms.append(here.atom)
    return here.u, step, None


def _first_temperature(smooth: _Smoothing, u: Real, before: float) -> float:
    """Cool enough to be worth it, and warm enough that Newton's method starts near."""
    search = smooth.search
    H, _, A = smooth.problem.dynamics.shape
    tau = before or FIRST_SHARE * search.gap / (H * math.log(A))
    while search.stopped() is None:
        here = smooth.evaluate(u, tau)
        if -float(here.gradient @ smooth.direction(here)) <= NEAR * tau or tau > HOTTEST * search.stake:
            break
        tau *= WARMER
    return tau


def _good_enough(smooth: _Smoothing, here: _Point, decrement: float) -> bool:
    """Whether the gap is due to the temperature rather than to what is left of the gradient (or nothing is left)."""
    residual = -smooth.problem.within.worst(here.gradient)
    return residual < 0.25 * smooth.search.gap or decrement < 1e-14 * here.tau


def _step(smooth: _Smoothing, here: _Point, direction: Real, decrement: float) -> _Point | None:
    """Shorten a Newton step until it stays inside and does not overshoot.

    F_tau is convex, so slopes say it all; differences of its values drown in rounding near the minimum.
    """
    search, length = smooth.search, 1.0
    while length > 1e-9:
        u = here.u + length * direction
        if smooth.problem.within.room(u) <= 0:
            length *= 0.5
            continue
        ahead = smooth.evaluate(u, here.tau)
        slope = float(ahead.gradient @ direction)
        if slope <= OVERSHOOT * decrement:
            return ahead
        if search.iterations >= search.limits.max_iterations or search.late():
            return None
        length *= min(max(decrement / (decrement + slope), 0.1), 0.7)
    return None
