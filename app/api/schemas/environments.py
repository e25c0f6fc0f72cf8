"""Environments on the wire: MDPs and catalogues."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, WithJsonSchema

from app.api.schemas.base import MAX_DIM, Answer, Body, Features, Label, by_type

MAX_STATES = 10_000
MAX_ACTIONS = 10_000
MAX_HORIZON = 1_000

Rank = Annotated[
    Annotated[int, Field(ge=1, le=256), Tag("@number")] | Annotated[Literal["auto"], Tag("@auto")],
    by_type({int: "@number", str: "@auto"}, 'a number or "auto"'),
]
States = Annotated[
    Annotated[int, Field(ge=1, le=MAX_STATES), Tag("@number")]
    | Annotated[list[Label], Field(min_length=1, max_length=MAX_STATES), Tag("@names")],
    by_type({int: "@number", list: "@names"}, "a number of states or a list of their names"),
]
Actions = Annotated[
    Annotated[int, Field(ge=1, le=MAX_ACTIONS), Tag("@number")]
    | Annotated[list[Label], Field(min_length=1, max_length=MAX_ACTIONS), Tag("@names")],
    by_type({int: "@number", list: "@names"}, "a number of actions or a list of their names"),
]

_ROW = {
    "type": "array",
    "prefixItems": [
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "state, by name or index"},
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "action, by name or index"},
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "next state, by name or index"},
        {"type": "number", "minimum": 0, "maximum": 1, "description": "probability"},
    ],
    "minItems": 4,
    "maxItems": 4,
}
_ROWS = {"type": "array", "minItems": 1, "items": _ROW}
# Rows are read by app.api.mdps, which knows the names and can say which row is wrong.
Transitions = Annotated[
    list[Any], WithJsonSchema({"anyOf": [_ROWS, {"type": "array", "minItems": 1, "items": _ROWS}]}), Field(min_length=1)
]

_TABLE = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "array", "minItems": 1, "items": {"type": "number", "minimum": 0, "maximum": 1}},
}
_STATE = {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "state, by name or index"}
_ACTION = {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "action, by name or index"}
# Read by app.api.mdps as well.
TerminalStates = Annotated[list[Any], WithJsonSchema({"type": "array", "items": _STATE}), Field(max_length=MAX_STATES)]
UnavailableActions = Annotated[
    list[Any],
    WithJsonSchema(
        {"type": "array", "items": {"type": "array", "prefixItems": [_STATE, _ACTION], "minItems": 2, "maxItems": 2}}
    ),
]
FeatureTable = Annotated[list[Features], Field(min_length=1, max_length=MAX_STATES)]

ReferencePolicy = Annotated[
    Annotated[Literal["uniform", "feedback"], Tag("@name")]
    | Annotated[
        list[Any], WithJsonSchema({"anyOf": [_TABLE, {"type": "array", "minItems": 1, "items": _TABLE}]}), Tag("@table")
    ],
    by_type({str: "@name", list: "@table"}, '"uniform", "feedback" or a table of probabilities'),
]


class RefitBody(Body):
    every_seconds: float = Field(default=60.0, ge=1, le=31_536_000, description="Least time between two refits.")
    min_new_preferences: int = Field(default=20, ge=1, le=1_000_000_000, description="Least new preferences.")


class EncoderUrl(Body):
    url: str = Field(
        pattern=r"^https?://[^\s\x00-\x1f]+$",
        max_length=2000,
        description="Address of an OpenAI-compatible `/v1/embeddings`.",
    )
    model: Label


EncoderBody = Annotated[
    Annotated[Literal["builtin"], Tag("@name")] | Annotated[EncoderUrl, Tag("@url")],
    by_type({str: "@name", dict: "@url"}, '"builtin" or an object with "url" and "model"'),
]


class _Definition(Body):
    rank: Rank = Field(
        default="auto",
        description='How many directions users may differ along; "auto" chooses by held-out comparisons.',
    )
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="Confidence of intervals and of the robust policy's worst case."
    )
    refit: RefitBody = Field(
        default_factory=RefitBody, description="When the worker refits by itself: both conditions must hold."
    )


class MdpDefinition(_Definition):
    """A tabular finite-horizon MDP."""

    kind: Literal["mdp"]
    states: States = Field(description="How many states, or their names.")
    actions: Actions = Field(description="How many actions, or their names.")
    horizon: int = Field(ge=1, le=MAX_HORIZON, description="Steps of a trajectory.")
    initial: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None, description="Probability of each state at step 0; uniform if absent."
    )
    transitions: Transitions = Field(
        description="Rows `[state, action, next state, probability]`, or one list of rows a step. What leaves a state "
        "by an action must sum to 1 within 1e-9."
    )
    reference_policy: ReferencePolicy = Field(
        default="uniform",
        description="The policy that rewards and values are measured against: `uniform`, `feedback` (estimated from "
        "the stored trajectories), or probabilities, a row a state, or one such table a step.",
    )
    terminal: TerminalStates = Field(
        default=[],
        description="States in which an episode ends: no transitions lead out of them, nothing is done or earned "
        "there, and a trajectory that comes to one may stop.",
    )
    unavailable: UnavailableActions = Field(
        default=[],
        description="Pairs `[state, action]` that cannot be chosen, and have no transitions.",
    )
    state_features: FeatureTable | None = Field(
        default=None,
        description="A row of numbers a state. Rewards are then functions of them, so that they extend to states and "
        "actions that nobody has compared. They are scaled to unit spread.",
    )
    action_features: FeatureTable | None = Field(default=None, description="The same, a row an action.")
    rewards: Literal["stationary", "per_step"] = Field(
        default="stationary",
        description="`per_step`: the same action in the same state may be worth more at one step than at another; what "
        "is said about one step then says less about the others.",
    )


class CatalogDefinition(_Definition):
    """Items or texts to choose between, perhaps in a context."""

    kind: Literal["catalog"]
    item_dim: int | None = Field(
        default=None, ge=1, le=MAX_DIM, description="Features an item has; the encoder's where there is one."
    )
    context_dim: int | None = Field(
        default=None, ge=1, le=MAX_DIM, description="Features a context has; without it there are no contexts."
    )
    encoder: EncoderBody | None = Field(
        default=None, description="What turns texts into features: `builtin` or an embeddings endpoint."
    )


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"@{kind}" if isinstance(kind, str) and kind in {"mdp", "catalog"} else None


EnvironmentDefinition = Annotated[
    Annotated[MdpDefinition, Tag("@mdp")] | Annotated[CatalogDefinition, Tag("@catalog")],
    Discriminator(
        _kind,
        custom_error_type="unknown_shape",
        custom_error_message='expected an object with "kind": "mdp" or "catalog"',
    ),
]


class EnvironmentAnswer(Answer):
    name: str
    kind: Literal["mdp", "catalog"]
    definition: dict[str, Any] = Field(description="Complete, so that it can be put again.")
    n_items: int = Field(description="Items of the catalogue that are not retired.")
    n_users: int = Field(description="Users with preferences.")
    n_preferences: int
    model_version: int | None = Field(description="The published model's version; null before the first refit.")
    created_at: datetime


class EnvironmentOverview(Answer):
    name: str
    kind: Literal["mdp", "catalog"]
    n_items: int
    n_users: int
    n_preferences: int
    model_version: int | None
    created_at: datetime


class EnvironmentList(Answer):
    environments: list[EnvironmentOverview]
