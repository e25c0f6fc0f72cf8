"""What the service answers, for type checkers: plain dictionaries at run time."""

from typing import Any, Literal, NotRequired, TypedDict

Option = dict[str, Any]
"""`{"item": id}`, `{"text": ...}`, `{"features": [...]}` or `{"trajectory": [[state, action], ...]}`."""


class Recorded(TypedDict):
    accepted: int
    duplicates: int


class LineError(TypedDict):
    line: int
    detail: str
    pointer: NotRequired[str | None]


class Imported(TypedDict):
    accepted: int
    duplicates: int
    rejected: int
    errors: list[LineError]


class Upserted(TypedDict):
    created: int
    updated: int


class Environment(TypedDict):
    name: str
    kind: Literal["catalog", "mdp"]
    definition: dict[str, Any]
    n_items: int
    n_users: int
    n_preferences: int
    model_version: int | None
    created_at: str


class EnvironmentOverview(TypedDict):
    name: str
    kind: Literal["catalog", "mdp"]
    n_items: int
    n_users: int
    n_preferences: int
    model_version: int | None
    created_at: str


class EnvironmentList(TypedDict):
    environments: list[EnvironmentOverview]


class Item(TypedDict):
    id: str
    title: str | None
    text: str | None
    features: list[float]


class ItemList(TypedDict):
    items: list[Item]
    next: str | None


class Grounded(TypedDict):
    model_version: int
    feedback_seen: int


class Reward(TypedDict):
    reward: float
    stderr: float
    lower: float
    upper: float


class Rewards(Grounded):
    rewards: list[Reward]


class Ranked(Reward):
    option: Option
    index: int | None


class Ranking(Grounded):
    by: Literal["mean", "lower"]
    options: list[Ranked]


class Query(TypedDict):
    first: Option
    second: Option
    information: float
    probability: float


class Queries(Grounded):
    queries: list[Query]


class Certificate(Grounded):
    set: str
    confidence: float
    lower: float
    upper: float
    gap: float
    nominal: float
    greedy_nominal: float
    greedy_lower: float
    beta: float
    converged: bool
    reason: str


class Policy(Certificate):
    states: list[str]
    actions: list[str]
    policy: list[list[list[float]]]
    greedy: list[list[str | None]]


class Action(Certificate):
    state: str
    step: int
    planned_from: Literal["start", "state"]
    distribution: dict[str, float]
    greedy: str
    sampled: str


class Actions(TypedDict):
    actions: list[Action]


class User(TypedDict):
    user: str
    feedback_count: int
    first_at: str | None
    last_at: str | None
    model_version: int | None
    adapter: dict[str, Any] | None


class Erased(TypedDict):
    user: str
    preferences_erased: int
    events_erased: int
    adapters_erased: int
    refit: str | None
    owed: dict[str, Any] | None
    note: str


class InfluentialPreference(TypedDict):
    chosen: Option
    rejected: Option
    context: dict[str, Any] | None
    label: float
    id: str | None
    moved: float
    words: str


class Direction(TypedDict):
    direction: int
    position: float
    stderr: float
    beyond: float
    moved: float
    towards: list[Option]
    away: list[Option]
    words: str


class Explanation(Grounded):
    option: Option
    reward: float
    population: float
    comparisons: list[InfluentialPreference]
    directions: list[Direction]
    words: str


class Refit(TypedDict):
    id: str
    environment: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    phase: str
    progress: float
    attempt: int
    cancel_requested: bool
    reason: str
    metrics: dict[str, Any]
    error: str | None
    model_version: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    joined: NotRequired[bool]


class RefitList(TypedDict):
    refits: list[Refit]


class ModelVersion(TypedDict):
    environment: str
    version: int
    status: Literal["published", "candidate", "retired"]
    reason: str
    rank: int
    estimator: str
    n_users: int
    n_preferences: int
    diagnostics: dict[str, Any]
    metrics: dict[str, Any]
    created_at: str
    published_at: str | None


class ModelList(TypedDict):
    models: list[ModelVersion]
