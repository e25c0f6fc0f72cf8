"""A seeded population with strong tastes, what it says about a catalogue, and a worker that learns from it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.domain import CatalogEnvironment, Item, MdpEnvironment, Preference, Refit, RefitState, TrajectoryOption
from app.settings import Settings
from app.store import Database, get_refit, put_environment, record_preferences, request_refit, upsert_items
from app.worker import run_worker
from tests.support.builders import items, prefers

T = TypeVar("T")

ENDED = {RefitState.SUCCEEDED, RefitState.FAILED, RefitState.CANCELLED}
NEVER_BY_ITSELF = 1_000_000_000
"""New preferences that no test records."""


def tastes(n_users: int, dim: int, *, seed: int = 0) -> NDArray[np.float64]:
    """(N, dim): a common taste, and strong differences along two directions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(dim, 2)))[0]
    personal: NDArray[np.float64] = 3.0 * rng.normal(size=(n_users, 2)) @ directions.T
    return rng.normal(size=dim) * 0.5 + personal


def choices(
    catalogue: list[Item], n_users: int, n_each: int, *, seed: int = 0, flipped: bool = False, appeal: float = 0.0
) -> list[Preference]:
    """What users say who choose at random, but by their tastes, and by what items are worth to everybody."""
    rng = np.random.default_rng([seed, n_each])
    features = np.stack([item.features for item in catalogue]).astype(np.float64)
    theta = tastes(n_users, features.shape[1])
    own = appeal * np.random.default_rng(5).normal(size=len(catalogue))
    said: list[Preference] = []
    for user in range(n_users):
        for _ in range(n_each):
            first, second = rng.choice(len(catalogue), size=2, replace=False).tolist()
            margin = float((features[first] - features[second]) @ theta[user] + own[first] - own[second])
            if (rng.random() < 1 / (1 + np.exp(-margin))) == flipped:
                first, second = second, first
            said.append(prefers(f"user-{user}", catalogue[first].id, catalogue[second].id))
    return said


async def define(db: Database, environment: CatalogEnvironment | MdpEnvironment, n_items: int = 12) -> list[Item]:
    await put_environment(db, environment)
    if isinstance(environment, MdpEnvironment):
        return []
    catalogue = items(n_items, dim=environment.item_dim)
    await upsert_items(db, environment.name, catalogue)
    return catalogue


async def record(db: Database, name: str, said: list[Preference]) -> None:
    for begin in range(0, len(said), 1000):
        await record_preferences(db, name, said[begin : begin + 1000])


def walk_choices(environment: MdpEnvironment, n_users: int, n_each: int, *, seed: int = 0) -> list[Preference]:
    """What users say about trajectories of the builders' MDP, whose actions lead to the state of their number."""
    rng = np.random.default_rng([seed, 7])
    tables = 2.0 * rng.normal(size=(n_users, 1, 1)) * rng.normal(size=(2, 2)) + 0.5 * rng.normal(size=(2, 2))
    said: list[Preference] = []
    for user in range(n_users):
        for _ in range(n_each):
            pair = _two_walks(environment.horizon, rng)
            worth = [sum(tables[user, s, a] for s, a in zip(one.states, one.actions, strict=True)) for one in pair]
            first = int(rng.random() > 1 / (1 + np.exp(worth[1] - worth[0])))
            said.append(Preference(f"user-{user}", pair[first], pair[1 - first]))
    return said


def _two_walks(horizon: int, rng: np.random.Generator) -> tuple[TrajectoryOption, TrajectoryOption]:
    while True:
        first, second = (_walk(horizon, rng) for _ in range(2))
        if first != second:
            return first, second


def _walk(horizon: int, rng: np.random.Generator) -> TrajectoryOption:
    states, actions = [int(rng.integers(2))], []
    for _ in range(horizon):
        actions.append(int(rng.integers(2)))
        states.append(actions[-1])
    return TrajectoryOption(tuple(states[:-1]), tuple(actions))


@asynccontextmanager
async def working(url: str, *, retry_seconds: float = 0.05, **settings: float) -> AsyncIterator[None]:
    """A worker of this process; it notices the end of the block and comes to its own."""
    stop = asyncio.Event()
    chosen = Settings(**{"schedule_seconds": 0.2, "stalled_seconds": 3.0, **settings})  # type: ignore[arg-type]
    worker = asyncio.create_task(run_worker(url, chosen, stop=stop, retry_seconds=retry_seconds))
    try:
        yield
    finally:
        stop.set()
        await worker


async def refitted(db: Database, url: str, name: str) -> Refit:
    """Ask for a refit, and have it done."""
    refit, _ = await request_refit(db, name)
    async with working(url):
        return await ended(db, refit)


async def ended(db: Database, refit: Refit, *, seconds: float = 120.0) -> Refit:
    return await until(lambda: get_refit(db, refit.id), lambda now: now.state in ENDED, seconds=seconds)


async def until(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, seconds: float = 30.0, every: float = 0.05
) -> T:
    """Look until it is good; the last look is in the failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not good(seen := await look()):
        assert asyncio.get_running_loop().time() < deadline, f"still not so after {seconds} s: {seen}"
        await asyncio.sleep(every)
    return seen
