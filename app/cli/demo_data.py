"""The demo's three environments: real households' electricity contracts, and two with simulated users: a small coaching
process, and replies in words.
"""

import gzip
import json
from importlib.resources import files
from typing import Any

import numpy as np

Json = dict[str, Any]

CONTRACTS = "electricity"
COACHING = "coaching-simulated"
REPLIES = "replies-simulated"

STATES = ("rested", "tired", "sore", "eager")
ACTIONS = ("easy-run", "hard-run", "rest-day", "call-coach")
HORIZON = 6
SIMULATED_USERS = 60
SIMULATED_COMPARISONS = 24


def contracts() -> tuple[Json, list[Json], list[Json]]:
    """The stated choices of 361 households: definition, items, preferences."""
    folder = files("app.cli") / "data" / "contracts"
    described = json.loads((folder / "items.json").read_text())
    names = list(described[0]["features"])
    items = [
        {"id": item["id"], "title": item["title"], "features": [item["features"][name] for name in names]}
        for item in described
    ]
    lines = gzip.decompress((folder / "preferences.ndjson.gz").read_bytes()).splitlines()
    definition = {
        "kind": "catalog",
        "item_dim": len(names),
        "rank": "auto",
        "refit": {"every_seconds": 30, "min_new_preferences": 50},
    }
    return definition, items, [json.loads(line) for line in lines]


def coaching(seed: int = 7) -> tuple[Json, list[Json]]:
    """A running coach's decision process with simulated runners of two dimensions of taste: definition, preferences.

    Nobody ran for this: the trajectories are drawn under the uniform policy, and each answer is drawn by the BTL model
    from the runner's own rank-2 reward.
    """
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.full(len(STATES), 0.6), size=(len(STATES), len(ACTIONS)))
    theta = rng.normal(0.0, 0.4, (len(STATES), len(ACTIONS)))
    subspace = np.linalg.qr(rng.normal(size=(len(STATES), 2)))[0]
    preferences = []
    for user in range(SIMULATED_USERS):
        reward = theta + subspace @ rng.normal(0.0, 0.9, (2, len(ACTIONS)))
        for answer in range(SIMULATED_COMPARISONS):
            pair = [_walk(rng, transitions) for _ in range(2)]
            if pair[0] == pair[1]:
                continue
            difference = sum(reward[s, a] for s, a in pair[0]) - sum(reward[s, a] for s, a in pair[1])
            if rng.random() > 1.0 / (1.0 + np.exp(-difference)):
                pair.reverse()
            chosen, rejected = ([[STATES[s], ACTIONS[a]] for s, a in walk] for walk in pair)
            preferences.append(
                {
                    "id": f"sim-{user}-{answer}",
                    "user": f"simulated-runner-{user:02d}",
                    "chosen": {"trajectory": chosen},
                    "rejected": {"trajectory": rejected},
                }
            )
    definition = {
        "kind": "mdp",
        "states": list(STATES),
        "actions": list(ACTIONS),
        "horizon": HORIZON,
        "initial": [1.0, 0.0, 0.0, 0.0],
        "transitions": [
            [STATES[s], ACTIONS[a], STATES[t], float(transitions[s, a, t])]
            for s in range(len(STATES))
            for a in range(len(ACTIONS))
            for t in range(len(STATES))
        ],
        "reference_policy": "uniform",
        "rank": "auto",
        "refit": {"every_seconds": 30, "min_new_preferences": 50},
    }
    return definition, preferences


def replies(seed: int = 11, *, users: int = 80, answers: int = 24) -> tuple[Json, list[Json], list[Json]]:
    """Replies to somebody who cannot sleep before a talk, with simulated readers: definition, items, preferences.

    The project wrote the replies and how brief, warm, practical and playful each is; a reader's taste in these four is
    drawn, and each answer is drawn by the BTL model. The service gets the texts and the answers only.
    """
    rng = np.random.default_rng(seed)
    written = json.loads((files("app.cli") / "data" / "replies" / "replies.json").read_text())
    style = np.array([list(reply["style"].values()) for reply in written])
    preferences = []
    for user in range(users):
        worth = style @ rng.normal([0.2, 0.5, 0.3, 0.1], 1.6)
        for answer in range(answers):
            first, second = rng.choice(len(written), 2, replace=False)
            if rng.random() > 1.0 / (1.0 + np.exp(worth[second] - worth[first])):
                first, second = second, first
            preferences.append(
                {
                    "id": f"sim-{user}-{answer}",
                    "user": f"simulated-reader-{user:03d}",
                    "chosen": {"item": written[first]["id"]},
                    "rejected": {"item": written[second]["id"]},
                }
            )
    items = [{"id": reply["id"], "text": reply["text"]} for reply in written]
    definition = {"kind": "catalog", "encoder": "builtin", "refit": {"every_seconds": 30, "min_new_preferences": 50}}
    return definition, items, preferences


def _walk(rng: np.random.Generator, transitions: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[int, int]]:
    state, walk = 0, []
    for _ in range(HORIZON):
        action = int(rng.integers(len(ACTIONS)))
        walk.append((state, action))
        state = int(rng.choice(len(STATES), p=transitions[state, action]))
    return walk
