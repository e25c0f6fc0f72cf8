"""Environments: the decision problems that preferences are about."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rank = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class RefitPolicy:
    """When the worker refits by itself: both conditions must hold."""

    every_seconds: float = 60.0
    min_new_preferences: int = 20


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How text becomes features: the built-in encoder, or an OpenAI-compatible embeddings endpoint."""

    kind: Literal["builtin", "url"]
    dim: int
    url: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class MdpEnvironment:
    """A tabular finite-horizon MDP; step h of H is `horizon` index h, from 0."""

    name: str
    states: tuple[str, ...]
    actions: tuple[str, ...]
    horizon: int
    initial: NDArray[np.float64]
    """(S,), sums to 1."""
    transitions: tuple[NDArray[np.float64], ...]
    """One (rows, 4) array of [s, a, s2, p] if stationary, else H arrays."""
    reference_policy: NDArray[np.float64] | Literal["uniform", "feedback"] = "uniform"
    """(S, A) or (H, S, A) probabilities; "feedback": estimated from the stored trajectories."""
    rank: Rank = "auto"
    confidence: float = 0.95
    refit: RefitPolicy = field(default_factory=RefitPolicy)

    @property
    def kind(self) -> Literal["mdp"]:
        return "mdp"


@dataclass(frozen=True, slots=True)
class CatalogEnvironment:
    """Items (or texts) to choose between, perhaps in a context: the horizon-1 case."""

    name: str
    item_dim: int
    context_dim: int | None = None
    encoder: EncoderSpec | None = None
    rank: Rank = "auto"
    confidence: float = 0.95
    refit: RefitPolicy = field(default_factory=RefitPolicy)

    @property
    def kind(self) -> Literal["catalog"]:
        return "catalog"


Environment = MdpEnvironment | CatalogEnvironment
