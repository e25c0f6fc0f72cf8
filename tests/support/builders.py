"""Small valid things, with a seed where they have numbers."""

from typing import Any

import numpy as np

from app.domain import CatalogEnvironment, Item, ItemOption, MdpEnvironment, Preference, TrajectoryOption

DIM = 4


def catalog(name: str, **settings: Any) -> CatalogEnvironment:
    return CatalogEnvironment(name=name, **{"item_dim": DIM, **settings})


def mdp(name: str, **settings: Any) -> MdpEnvironment:
    """Two states, two actions, three steps; an action leads to the state of its number."""
    moves = np.array([[s, a, a, 1.0] for s in range(2) for a in range(2)])
    defaults: dict[str, Any] = {
        "states": ("calm", "busy"),
        "actions": ("wait", "go"),
        "horizon": 3,
        "initial": np.array([0.25, 0.75]),
        "transitions": (moves,),
    }
    return MdpEnvironment(name=name, **{**defaults, **settings})


def items(n: int, *, dim: int = DIM, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(f"item-{index}", features, text=f"text {index}", title=f"Title {index}")
        for index, features in enumerate(rng.normal(size=(n, dim)).astype(np.float32))
    ]


def prefers(user: str, chosen: str, rejected: str, **more: Any) -> Preference:
    return Preference(user=user, chosen=ItemOption(chosen), rejected=ItemOption(rejected), **more)


def walks(user: str, chosen: str, rejected: str, **more: Any) -> Preference:
    """Trajectories of `mdp` by their actions, as in "011"; the first state is 0."""
    return Preference(user=user, chosen=trajectory(chosen), rejected=trajectory(rejected), **more)


def trajectory(actions: str) -> TrajectoryOption:
    taken = tuple(int(action) for action in actions)
    return TrajectoryOption(states=(0, *taken[:-1]), actions=taken)
