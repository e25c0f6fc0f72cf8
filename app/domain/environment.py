"""Environments: the decision problems that preferences are about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    terminal: tuple[int, ...] = ()
    """States in which the episode ends: nothing is done there, and nothing earned."""
    unavailable: tuple[tuple[int, int], ...] = ()
    """States with an action that cannot be taken in them."""
    state_features: NDArray[np.float64] | None = None
    """(S, f): rewards are functions of them, so that what was learnt in one state is known in others like it."""
    action_features: NDArray[np.float64] | None = None
    """(A, g)"""
    rewards: Literal["stationary", "per_step"] = "stationary"
    """Whether the same action in the same state may be worth more at one step than at another."""
    rank: Rank = "auto"
    confidence: float = 0.95
    refit: RefitPolicy = field(default_factory=RefitPolicy)

    @property
    def kind(self) -> Literal["mdp"]:
        return "mdp"

    @property
    def meaning(self) -> Mapping[str, Any]:
        """The part of the definition that gives stored preferences and models their meaning, comparable by ==."""
        features = (self.state_features, self.action_features)
        return {
            "kind": self.kind,
            "states": self.states,
            "actions": self.actions,
            "horizon": self.horizon,
            "terminal": self.terminal,
            "state_features": None if features[0] is None else features[0].tolist(),
            "action_features": None if features[1] is None else features[1].tolist(),
            "rewards": self.rewards,
        }


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

    @property
    def meaning(self) -> Mapping[str, Any]:
        """The part of the definition that gives stored preferences and models their meaning, comparable by ==."""
        return {
            "kind": self.kind,
            "item_dim": self.item_dim,
            "context_dim": self.context_dim,
            "encoder": self.encoder,
        }


Environment = MdpEnvironment | CatalogEnvironment
