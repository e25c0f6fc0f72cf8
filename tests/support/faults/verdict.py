"""What became of an environment under faults: nothing lost, nothing doubled, no half model, every answer right.

It looks at the tables by itself, and computes every answer anew from the model version and the feedback that it names.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import psycopg

from app.domain import CatalogEnvironment, RefitStateError
from app.domain.arrays import ItemTable, PreferenceTable
from app.serving.runtime import fold_in_user
from app.serving.scoring import belief_about_items
from app.serving.snapshot import Catalogue, FoldedUser, Ground, Scene, Snapshot
from app.store import Database, all_items, get_environment, load_model, load_preferences
from tests.support.faults.clients import Answer, Told

TOLERANCE = 1e-4
"""Of a reward, in log-odds: a refit's own estimate and a fold-in at its subspace stop at slightly different points."""


CHECKED = 800
"""Answers that are computed anew, drawn at random."""


@dataclass
class Verdict:
    acknowledged: int
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the table."""
    doubled: list[str] = field(default_factory=list)
    """In the table more often than said, or counted more often than they are in the table."""
    half_models: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checked: int = 0
    """Answers that were computed anew."""
    versions: int = 0


async def judge(db: Database, url: str, told: Told) -> Verdict:
    verdict = Verdict(len(told.acknowledged), wrong=list(told.wrong))
    with psycopg.connect(url) as connection:
        _judge_preferences(connection, told, verdict)
        _judge_models(connection, told, verdict)
    replay = await Replay.of(db, told.environment, verdict)
    left = {one for one in told.answers if one.version not in replay.emptied}
    answers = sorted(left, key=lambda one: (one.version, one.user, one.feedback_seen))
    for answer in random.Random(0).sample(answers, min(CHECKED, len(answers))):
        found = await replay.rewards(answer)
        verdict.checked += 1
        if found is None or not np.allclose(found, answer.rewards, rtol=0, atol=TOLERANCE):
            verdict.wrong.append(f"{answer}, and it should be {found}")
    return verdict


def _judge_preferences(connection: psycopg.Connection[Any], told: Told, verdict: Verdict) -> None:
    rows = connection.execute(
        "SELECT p.client_id, u.user_id FROM preferences p JOIN users u ON u.id = p.user_key "
        "JOIN environments e ON e.id = p.environment_id WHERE e.name = %s",
        [told.environment],
    ).fetchall()
    times = Counter(name for name, _ in rows)
    verdict.lost = sorted(told.acknowledged - set(times))
    verdict.doubled = [name for name, n in times.items() if n > 1]
    verdict.wrong += [f"{name} is stored for {user}" for name, user in rows if told.sent.get(name) != user]
    by_user = Counter(user for _, user in rows)
    counts = connection.execute(
        "SELECT u.user_id, u.feedback_count FROM users u JOIN environments e ON e.id = u.environment_id "
        "WHERE e.name = %s",
        [told.environment],
    ).fetchall()
    verdict.doubled += [f"{user} counts {n}, and has {by_user[user]}" for user, n in counts if n != by_user[user]]
    query = "SELECT preference_count FROM environments WHERE name = %s"
    (counted,) = connection.execute(query, [told.environment]).fetchone() or (None,)
    if counted != len(rows):
        verdict.doubled.append(f"the environment counts {counted} preferences, and has {len(rows)}")


_MODELS = """
    SELECT m.version, m.status, m.n_users, m.refit_id, e.published_version, r.state, r.model_version,
           (SELECT count(*) FROM model_arrays a WHERE a.environment_id = e.id AND a.version = m.version),
           (SELECT count(*) FROM adapters a WHERE a.environment_id = e.id AND a.version = m.version),
           coalesce(m.erasures < served.erasures, false)
    FROM models m JOIN environments e ON e.id = m.environment_id LEFT JOIN refits r ON r.id = m.refit_id
    LEFT JOIN models served ON served.environment_id = e.id AND served.version = e.published_version
    WHERE e.name = %s ORDER BY m.version
"""


def _judge_models(connection: psycopg.Connection[Any], told: Told, verdict: Verdict) -> None:
    """Every version is whole, of one refit that knows of it; one is published, and it is the one that is served.

    Nothing is left of those that rest on users who were erased, once one is served that does not.
    """
    rows = connection.execute(_MODELS, [told.environment]).fetchall()
    verdict.versions = len(rows)
    for version, status, n_users, _, served, state, of_refit, arrays, adapters, is_emptied in rows:
        if (arrays == 0) != is_emptied or (status == "published" and adapters != n_users):
            verdict.half_models.append(f"version {version} has {arrays} arrays and {adapters} of {n_users} adapters")
        if (status == "published") != (version == served):
            verdict.half_models.append(f"version {version} is {status}, and {served} is served")
        # A worker that dies between publishing and saying so begins once more, and publishes one more.
        if state == "succeeded" and (of_refit is None or of_refit < version):
            verdict.half_models.append(f"version {version} is of a refit that knows of {of_refit}")


@dataclass
class Replay:
    """Answers as a process gives them that nothing ever happened to."""

    db: Database
    environment: CatalogEnvironment
    items: ItemTable
    table: PreferenceTable
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)
    """Versions that rested on an erased user, whose answers nobody can give again."""

    @classmethod
    async def of(cls, db: Database, name: str, verdict: Verdict) -> "Replay":
        environment = await get_environment(db, name)
        assert isinstance(environment, CatalogEnvironment)
        replay = cls(db, environment, await all_items(db, name), await load_preferences(db, name))
        for version in range(1, verdict.versions + 1):
            try:
                replay.snapshots[version] = Snapshot.of(environment, await load_model(db, name, version))
            except RefitStateError:
                replay.emptied.add(version)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a model is the finding
                verdict.half_models.append(f"version {version} cannot be read: {error!r}")
        return replay

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.of(self.items)

    @cached_property
    def rows_of(self) -> dict[str, Any]:
        order = np.argsort(self.table.user, kind="stable")
        ends = np.cumsum(self.table.feedback_count)[:-1]
        return dict(zip(self.table.user_ids, np.split(order, ends), strict=True))

    async def rewards(self, answer: Answer) -> list[float] | None:
        snapshot = self.snapshots.get(answer.version)
        rows = self.rows_of.get(answer.user, np.zeros(0, dtype=np.int64))
        if snapshot is None or len(rows) < answer.feedback_seen:
            return None
        said = self._first(rows[: answer.feedback_seen], answer.user)
        folded = FoldedUser.of(snapshot.model, fold_in_user(snapshot, said), len(said))
        scene = Scene.of((0, 0, 0, 0), snapshot, self.catalogue, None)
        ground = Ground(environment_id=0, user_key=1, scene=scene, user=folded)
        features = self.catalogue.features[[self.catalogue.rows[one] for one in answer.items]]
        rewards: list[float] = belief_about_items(ground, features, None).mean.tolist()
        return rewards

    def _first(self, rows: Any, user: str) -> PreferenceTable:
        columns = ("label", "weight", "occurred_at", "chosen", "rejected", "context", "chosen_steps", "rejected_steps")
        taken = {name: getattr(self.table, name)[rows] for name in columns}
        return replace(self.table, user_ids=(user,), user=np.zeros(len(rows), dtype=np.int64), **taken)
