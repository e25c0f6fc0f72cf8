"""Fitted models as they are stored: arrays by name, with their diagnostics and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ModelStatus(StrEnum):
    PUBLISHED = "published"
    CANDIDATE = "candidate"
    """Fitted, but not published: worse than the current model beyond noise."""
    RETIRED = "retired"
    """Was published once; can be promoted again."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    environment: str
    version: int
    """1, 2, 3, ... within its environment."""
    status: ModelStatus
    reason: str
    """Why it was published, or why not."""
    rank: int
    estimator: str
    n_users: int
    n_preferences: int
    diagnostics: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime
    published_at: datetime | None
    erasures: int = 0
    """How many of the environment's users had been erased when its preferences were loaded."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """A model version with the arrays that serving needs; adapters are stored a row a user."""

    version: ModelVersion
    arrays: Mapping[str, NDArray[np.generic]]
