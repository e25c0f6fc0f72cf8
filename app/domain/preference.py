"""Preferences as a client says them, after the edge has checked their shape."""

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ItemOption:
    item: str


@dataclass(frozen=True, slots=True, eq=False)
class FeaturesOption:
    features: NDArray[np.float32]
    """(d1,)"""


@dataclass(frozen=True, slots=True, eq=False)
class TextOption:
    text: str
    features: NDArray[np.float32]
    """(d1,), what the environment's encoder made of the text."""


@dataclass(frozen=True, slots=True)
class TrajectoryOption:
    states: tuple[int, ...]
    actions: tuple[int, ...]
    """State and action indices, one a step, H of each."""


Option = ItemOption | FeaturesOption | TextOption | TrajectoryOption


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    features: NDArray[np.float32]
    """(context_dim,)"""
    text: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    id: str
    features: NDArray[np.float32]
    text: str | None = None
    title: str | None = None
    """For people only; never used to learn."""


@dataclass(frozen=True, slots=True, eq=False)
class Preference:
    user: str
    chosen: Option
    rejected: Option
    context: Context | None = None
    label: float = 1.0
    """Probability that `chosen` is preferred, 0..1; 0.5 is a tie."""
    weight: float = 1.0
    occurred_at: datetime | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ItemPreferences:
    """n preferences between items of a catalogue, as columns: what an import of millions is made of."""

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: NDArray[np.int32]
    """(n,), index into `users`."""
    chosen: NDArray[np.int32]
    """(n,), index into `items`."""
    rejected: NDArray[np.int32]
    label: NDArray[np.float64]
    weight: NDArray[np.float64]
    moment: NDArray[np.int64]
    """(n,), when it occurred, microseconds since 1970; negative: at its arrival."""
    text: NDArray[np.uint8]
    """Where the clients' ids are."""
    id_begin: NDArray[np.int32]
    id_end: NDArray[np.int32]
    """(n,), into `text`; without an id both are equal."""

    def __len__(self) -> int:
        return len(self.user)

    def id(self, index: int) -> str | None:
        found = self.text[self.id_begin[index] : self.id_end[index]].tobytes()
        return found.decode() or None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch, after its commit."""

    accepted: int
    duplicates: int
    position: int | None = field(default=None, compare=False)
    """Of the transaction, as notices tell it; None where nothing was written."""
