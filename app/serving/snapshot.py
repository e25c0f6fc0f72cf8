"""What a request is answered from: one version of the model, the catalogue as it is now, and one user's adapter."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import CorruptModelError, Environment, MdpEnvironment, ModelVersion, StoredModel
from app.domain.arrays import ItemTable, PreferenceTable, RewardTables, comparisons, reward_tables
from app.learning import Adapter, Comparisons, Model, Projection, Taste, taste_of
from app.policy import FiniteHorizonMDP
from app.serving.idtable import IdTable
from app.serving.reference import Reference, mdp_of, reference_from_arrays

Real = NDArray[np.float64]

Versions = tuple[int, int, int, int | None]
"""Of an environment: its number, and the revisions of its definition, its catalogue and its model."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A published model with its environment; nothing in it ever changes."""

    environment: Environment
    version: int
    model: Model
    reference: Reference
    mdp: FiniteHorizonMDP | None
    """None for a catalogue."""
    tables: RewardTables
    """What an MDP's rewards are linear in."""
    n_users: int
    """Who were in the fit."""
    stamp: int
    """When it was fitted: tells it from the same version of another database."""
    size: int
    """Bytes, about."""

    @classmethod
    def of(cls, environment: Environment, stored: StoredModel) -> "Snapshot":
        """Read a stored model.

        Raises
        ------
        CorruptModelError
            Its arrays are not those of a model with a reference.
        """
        try:
            model = Model.from_arrays(stored.arrays)
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptModelError(
                f"Model version {stored.version.version} of environment {environment.name!r} cannot be read back: "
                f"{error}."
            ) from error
        return cls(
            environment=environment,
            version=stored.version.version,
            model=model,
            reference=reference_from_arrays(stored.arrays),
            mdp=mdp_of(environment) if isinstance(environment, MdpEnvironment) else None,
            tables=reward_tables(environment) if isinstance(environment, MdpEnvironment) else RewardTables(None, None),
            n_users=stored.version.n_users,
            stamp=stamp_of(stored.version),
            size=sum(array.nbytes for array in stored.arrays.values()),
        )


def stamp_of(version: ModelVersion) -> int:
    """When it was fitted, in microseconds."""
    return int(version.created_at.timestamp() * 1e6)


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The live items."""

    ids: tuple[str, ...]
    features: Real
    """(M, d1)"""
    rows: Mapping[str, int]
    table: IdTable
    """The same for many ids at once."""

    @classmethod
    def of(cls, table: ItemTable) -> "Catalogue":
        # Made anew, ids lie side by side, and not among the rows they came in: looking them up touches fewer pages.
        ids = tuple("\n".join(table.ids).split("\n")) if table.ids else ()
        rows = dict(zip(ids, range(len(ids)), strict=True))
        return cls(ids, table.features.astype(np.float64), rows, IdTable.of(ids))

    def digest(self) -> str:
        """Of its content: tells it from the same revision of another database."""
        parts = (self.table.text, np.ascontiguousarray(self.features))
        return "".join(hashlib.blake2b(part.data, digest_size=8).hexdigest() for part in parts)

    @property
    def size(self) -> int:
        """Bytes, about: an id and its row take some two hundred."""
        return self.features.nbytes + 200 * len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class FoldedUser:
    """One user's adapter, and what it rests on."""

    adapter: Adapter
    feedback_seen: int
    taste: Taste | None
    """The same for a projection; None where items are valued in contexts, or where there are none."""

    @classmethod
    def of(cls, model: Model, adapter: Adapter, feedback_seen: int) -> "FoldedUser":
        taste = taste_of(adapter, model.inflation) if model.features.d2 == 1 else None
        return cls(adapter, feedback_seen, taste)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What answers to all users of an environment share; replaced as a whole, so that no answer mixes two."""

    versions: Versions
    snapshot: Snapshot
    catalogue: Catalogue
    projection: Projection | None
    """Of the catalogue; None for an MDP, and where items are valued in contexts."""
    nobody: FoldedUser
    """A user nobody has heard of."""

    @classmethod
    def of(cls, versions: Versions, snapshot: Snapshot, catalogue: Catalogue, projection: Projection | None) -> "Scene":
        model = snapshot.model
        return cls(versions, snapshot, catalogue, projection, FoldedUser.of(model, model.population(), 0))

    @property
    def size(self) -> int:
        """Bytes, about."""
        projection = self.projection
        if projection is None:
            return 1000
        return 1000 + projection.means.nbytes + (0 if projection.spreads is None else projection.spreads.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """All that one answer rests on."""

    environment_id: int
    user_key: int | None
    """None for a user nobody has heard of."""
    scene: Scene
    user: FoldedUser

    @property
    def snapshot(self) -> Snapshot:
        return self.scene.snapshot

    @property
    def catalogue(self) -> Catalogue:
        return self.scene.catalogue

    @property
    def revisions(self) -> tuple[int, int]:
        """Of the environment's definition and of its catalogue."""
        return self.scene.versions[1:3]

    @property
    def environment(self) -> Environment:
        return self.snapshot.environment

    @property
    def model(self) -> Model:
        return self.snapshot.model

    @property
    def adapter(self) -> Adapter:
        return self.user.adapter

    @property
    def grounds(self) -> dict[str, Any]:
        """What every answer names."""
        return {"model_version": self.snapshot.version, "feedback_seen": self.user.feedback_seen}


def comparisons_of(snapshot: Snapshot, said: PreferenceTable) -> Comparisons:
    """What was said, for this model; a preference without a context was made in the average one."""
    features = snapshot.model.features
    absent = features.context_centre if features.has_contexts else None
    return comparisons(said, snapshot.environment, absent_context=absent)
