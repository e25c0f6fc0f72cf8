"""The dual made smooth: Newton's method on entropy-regularised backward induction.

The dual g is piecewise linear, with so many pieces that cutting planes see a curved function and need hundreds of
atoms. For a temperature tau > 0 (log-odds) replace every maximum of the induction by tau log sum exp(. / tau):

    F_tau(u) = max_d { <r_hat + L u, d - d_ref> + tau * entropy of the policy along d } - tau log(1 - ||u||^2).

Its optimal policy is softmax of Q / tau, its gradient L^T (d_tau - d_ref) + 2 tau u / (1 - ||u||^2), and its
Hessian has q dimensions only: with D_h(s, a) the derivative of Q_h(s, a) in u,

    (1 / tau) sum_h E_{d_tau} [ Cov_{a ~ pi_tau(. | s)} D_h(s, a) ]   plus that of the barrier.

As tau falls, the softmax policy at the minimum of F_tau tends to the robust optimum: it is a primal policy itself, no
mixture is needed, and its own worth and the hard g(u) certify it however Newton did.
"""

import math
from dataclasses import dataclass

import numpy as np

from app.policy.mdp import Real
from app.policy.newton import newton_direction
from app.policy.occupancy import occupancy
from app.policy.search import Atom, Problem, Reason, Search

FIRST_SHARE = 0.5
"""The first temperature lets all entropy there is cost about this share of the gap."""

NEAR = 30.0
"""Newton decrement (squared, over tau) from which the first level takes few steps."""

WARMER = 4.0
"""By how much the first temperature rises until its minimum is near."""

HOTTEST = 1e6
"""In units of the stake: above it the policy hardly changes any more."""

SLOW, FAST = 0.5, 0.2
"""By how much the temperature falls after a level that took many, or few, Newton steps."""

FEW_STEPS = 4
"""Newton steps of a level that allow FAST."""

MOST_STEPS = 40
"""Newton steps of a level after which the rest is left to the cutting planes."""

CENTRED = 1e-3
"""Newton decrement (squared, over tau) at which a level may end."""

OVERSHOOT = 0.25
"""Share of the slope that may come back with the other sign at the end of a step."""

NEGLIGIBLE_VISITS = 1e-14
"""Expected visits below which a state and action says nothing about the curvature."""

LEAST_TEMPERATURE = 1e-9
"""In units of the stake: below it exp(Q / tau) has too few digits."""

LARGEST_CURVATURE = 2e9
"""Multiplications a Hessian may take (H S A q^2), about a second; with more the cutting planes are left alone."""


def smoothed_newton(search: Search, start: Real) -> tuple[Reason | None, Real]:
    """Follow falling temperatures from `start`, strictly inside the ball, until the search stops or digits run out."""
    problem = search.problem
    mdp = problem.mdp
    if mdp.n_actions == 1 or mdp.horizon * problem.factor.size * problem.factor.shape[1] > LARGEST_CURVATURE:
        return None, start
    u, tau = start, _first_temperature(search, start)
    while (reason := search.stopped()) is None and tau > LEAST_TEMPERATURE * search.stake:
        u, steps, reason = _level(search, u, tau)
        if reason is not None or steps > MOST_STEPS:
            break
        search.cut(u)
        tau *= FAST if steps <= FEW_STEPS else SLOW
    return reason, u


@dataclass(frozen=True, slots=True, eq=False)
class _Smooth:
    """F_tau's softmax policy at u, and its derivative."""

    u: Real
    atom: Atom
    policy: Real
    """(H, S, A)"""
    measure: Real
    """(H, S, A)"""
    gradient: Real
    """(q,) of F_tau"""


def _level(search: Search, u: Real, tau: float) -> tuple[Real, int, Reason | None]:
    """Minimise F_tau by damped Newton steps; return the minimiser, the steps and perhaps why the search stops."""
    here = _evaluate(search, u, tau)
    for step in range(1, MOST_STEPS + 2):
        direction = newton_direction(_curvature(search.problem, here, tau), here.gradient)
        decrement = -float(here.gradient @ direction)
        if not decrement > CENTRED * tau and _good_enough(search, here, decrement, tau):
            break
        ahead = _step(search, here, direction, decrement, tau)
        if ahead is None:
            break
        here = ahead
        if (reason := search.stopped()) is not None:
            return here.u, step, reason
    search.atoms.append(here.atom)
    return here.u, step, None


def _first_temperature(search: Search, u: Real) -> float:
    """Cool enough to be worth it, and warm enough that Newton's method starts near."""
    mdp = search.problem.mdp
    tau = FIRST_SHARE * search.gap / (mdp.horizon * math.log(mdp.n_actions))
    while search.stopped() is None:
        here = _evaluate(search, u, tau)
        direction = newton_direction(_curvature(search.problem, here, tau), here.gradient)
        if -float(here.gradient @ direction) <= NEAR * tau or tau > HOTTEST * search.stake:
            break
        tau *= WARMER
    return tau


def _good_enough(search: Search, here: _Smooth, decrement: float, tau: float) -> bool:
    """Whether the gap is due to the temperature rather than to what is left of the gradient (or nothing is left)."""
    residual = float(np.linalg.norm(here.gradient))
    return residual < 0.25 * search.gap or decrement < 1e-14 * tau


def _step(search: Search, here: _Smooth, direction: Real, decrement: float, tau: float) -> _Smooth | None:
    """Shorten a Newton step until it stays inside and does not overshoot.

    F_tau is convex, so slopes say it all; differences of its values drown in rounding near the minimum.
    """
    length = 1.0
    while length > 1e-9:
        u = here.u + length * direction
        if _room(u) <= 0:
            length *= 0.5
            continue
        ahead = _evaluate(search, u, tau)
        slope = float(ahead.gradient @ direction)
        if slope <= OVERSHOOT * decrement:
            return ahead
        if search.iterations >= search.limits.max_iterations:
            return None
        length *= min(max(decrement / (decrement + slope), 0.1), 0.7)
    return None


def _evaluate(search: Search, u: Real, tau: float) -> _Smooth:
    """One soft backward induction and one pass forward; the policy found is a candidate answer at once."""
    problem = search.problem
    policy = _soft_induction(problem, u, tau)
    measure = occupancy(problem.mdp, policy)
    value, uncertainty = problem.advantage(measure)
    search.iterations += 1
    gradient = uncertainty + 2.0 * tau * u / _room(u)
    here = _Smooth(u, Atom(policy, value, uncertainty), policy, measure, gradient)
    search.offer([(1.0, here.atom)])
    return here


def _room(u: Real) -> float:
    return 1.0 - float(u @ u)


def _soft_induction(problem: Problem, u: Real, tau: float) -> Real:
    """The policy (H, S, A) that is best when its entropy is worth tau."""
    mdp = problem.mdp
    rewards = problem.rewards(u)
    policy = np.empty((mdp.horizon, mdp.n_states, mdp.n_actions))
    values = np.zeros(mdp.n_states)
    for step in range(mdp.horizon - 1, -1, -1):
        q = rewards + (mdp.kernel(step) @ values).reshape(rewards.shape) if step + 1 < mdp.horizon else rewards
        best = q.max(axis=1)
        odds = np.exp((q - best[:, None]) / tau)
        total = odds.sum(axis=1)
        np.divide(odds, total[:, None], out=policy[step])
        values = best + tau * np.log(total)
    return policy


def _curvature(problem: Problem, here: _Smooth, tau: float) -> Real:
    """The Hessian (q, q) of F_tau, over the states and actions that are visited at all."""
    mdp, factor = problem.mdp, problem.factor
    q = factor.shape[1]
    hessian = np.zeros((q, q))
    slopes = np.zeros((mdp.n_states, q))
    for step in range(mdp.horizon - 1, -1, -1):
        visits = here.measure[step].ravel()
        rows = np.flatnonzero(visits > NEGLIGIBLE_VISITS)
        states = rows // mdp.n_actions
        derivative = factor[rows]
        if step + 1 < mdp.horizon:
            derivative = derivative + mdp.kernel(step)[rows] @ slopes
        # The rows are in the order of their states, so each state's actions are one segment.
        entered, first = np.unique(states, return_index=True)
        weighted = derivative * here.policy[step].ravel()[rows, None]
        slopes = np.zeros((mdp.n_states, q))
        slopes[entered] = np.add.reduceat(weighted, first, axis=0)
        spread = (derivative - slopes[states]) * np.sqrt(visits[rows])[:, None]
        hessian += spread.T @ spread
    room = _room(here.u)
    barrier = (2.0 / room) * np.eye(q) + (4.0 / room**2) * np.outer(here.u, here.u)
    return np.asarray(hessian / tau + tau * barrier)
