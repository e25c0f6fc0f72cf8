"""Preference tables without a database."""

import numpy as np

from app.domain.arrays import PreferenceTable


def table_of(
    rows: list[tuple[int, int, int]], *, n_users: int | None = None, context: list[int] | None = None
) -> PreferenceTable:
    """Of (user, chosen, rejected)."""
    user, chosen, rejected = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    n, n_items = len(rows), int(max(chosen.max(initial=0), rejected.max(initial=0))) + 1
    return PreferenceTable(
        user_ids=tuple(f"user-{i}" for i in range(n_users or int(user.max(initial=-1)) + 1)),
        user=user,
        label=np.ones(n),
        weight=np.ones(n),
        occurred_at=np.arange(n, dtype=np.float64),
        items=np.zeros((n_items, 2), dtype=np.float32),
        item_keys=np.arange(n_items),
        chosen=chosen,
        rejected=rejected,
        contexts=np.zeros((0, 0), dtype=np.float32),
        context=np.full(n, -1) if context is None else np.array(context),
        chosen_steps=np.zeros((n, 0), dtype=np.int32),
        rejected_steps=np.zeros((n, 0), dtype=np.int32),
    )
