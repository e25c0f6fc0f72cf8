"""Small data set folders, drawn from a known truth."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np


def write_reference_folder(
    folder: Path,
    *,
    n_users: int = 24,
    n_items: int = 40,
    d1: int = 4,
    per_user: int = 24,
    n_contexts: int = 0,
    fold: bool = False,
    spread: float = 2.0,
    seed: int = 0,
    **replaced: Any,
) -> Path:
    """Users who differ along one direction of the items' features; a quarter of them unseen.

    `replaced` overwrites arrays of comparisons.npz by name; None leaves one out.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_items, d1)).astype(np.float32)
    theta = rng.normal(size=d1) + np.outer(spread * rng.normal(size=n_users), np.eye(d1)[0])
    user = np.repeat(np.arange(n_users), per_user)
    first = rng.integers(n_items, size=len(user))
    second = (first + rng.integers(1, n_items, size=len(user))) % n_items
    eta = np.einsum("nd,nd->n", features[first] - features[second], theta[user])
    wins = rng.random(len(user)) < 1 / (1 + np.exp(-eta))
    unseen = user >= n_users - n_users // 4
    late = np.tile(np.arange(per_user) >= per_user * 2 // 3, n_users)
    arrays: dict[str, Any] = {
        "user": user.astype(np.int32),
        "chosen": np.where(wins, first, second).astype(np.int32),
        "rejected": np.where(wins, second, first).astype(np.int32),
        "split": (2 * unseen + late).astype(np.int8),
    }
    if fold:
        arrays["fold"] = np.where(unseen | late, -1, np.tile(np.arange(per_user) % 4 == 0, n_users)).astype(np.int8)
    if n_contexts:
        arrays["context"] = rng.integers(n_contexts, size=len(user)).astype(np.int32)
        np.savez(folder / "contexts.npz", features=rng.normal(size=(n_contexts, 2)).astype(np.float32))
    arrays |= replaced
    np.savez(folder / "comparisons.npz", **{name: values for name, values in arrays.items() if values is not None})
    np.savez(folder / "items.npz", features=features)
    (folder / "meta.json").write_text(json.dumps({"name": "drawn"}))
    return folder


def write_readable_folder(folder: Path, *, n_users: int = 20, n_tasks: int = 8, seed: int = 0) -> Path:
    """Choice tasks of one item over two others, without a split."""
    rng = np.random.default_rng(seed)
    items = [
        {"id": f"plan-{i}", "title": f"Plan {i}", "features": {"price": float(i), "green": float(rng.random())}}
        for i in range(12)
    ]
    (folder / "items.json").write_text(json.dumps(items))
    with gzip.open(folder / "preferences.ndjson.gz", "wt") as lines:
        for user in range(n_users):
            for task in range(n_tasks):
                chosen, *others = rng.permutation(12)[:3].tolist()
                for number, other in enumerate(others):
                    line = {"id": f"{user}-{task}-{number}", "user": f"u{user}", "chosen": f"plan-{chosen}"}
                    lines.write(json.dumps({**line, "rejected": f"plan-{other}"}) + "\n")
    return folder
