"""Answers about one user, on the wire: rewards, rankings, policies, actions, queries."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from app.api.schemas.base import MAX_BATCH, Answer, Body, Label, by_type
from app.api.schemas.options import ContextBody, OptionBody

REWARD = (
    "Log-odds, as a difference from the environment's reference: 0 is no better than the reference, 1 is chosen 73% of "
    "the time over it. The scale is pinned within a model version."
)


class RewardsBody(Body):
    options: list[OptionBody] = Field(min_length=1, max_length=MAX_BATCH)
    context: ContextBody | None = Field(default=None, description="What the options are for.")


class RankBody(Body):
    options: list[OptionBody] | None = Field(
        default=None, min_length=1, max_length=MAX_BATCH, description="The whole catalogue if absent."
    )
    context: ContextBody | None = Field(default=None, description="What the options are for.")
    top_n: int | None = Field(default=None, ge=1, le=100_000, description="How many to answer; all if absent.")
    by: Literal["mean", "lower"] = Field(
        default="mean", description="`lower` prefers what is surely good to what is perhaps better."
    )


class Grounded(Answer):
    """Every answer says what it rests on."""

    model_version: int
    feedback_seen: int = Field(description="How many of the user's own preferences the answer rests on.")


class Reward(Answer):
    reward: float = Field(description=REWARD)
    stderr: float = Field(description="Standard error of the reward.")
    lower: float = Field(description="Lower end of its interval at the environment's confidence.")
    upper: float


class RewardsAnswer(Grounded):
    rewards: list[Reward] = Field(description="One an option, in their order.")


class Ranked(Reward):
    option: dict[str, Any] = Field(description="The option, as it was given or as preferences take it.")
    index: int | None = Field(description="Its index in the request's `options`; null when the catalogue was ranked.")


class RankAnswer(Grounded):
    by: Literal["mean", "lower"]
    options: list[Ranked] = Field(description="Best first.")


class PolicyBody(Body):
    confidence: float | None = Field(
        default=None, ge=0, lt=1, description="The environment's if absent; 0 trusts the estimate."
    )


class Certificate(Grounded):
    """How good a robust policy is, with a proof."""

    confidence: float = Field(description="Of the set of rewards that the worst case is taken over.")
    lower: float = Field(
        description="Certified: at this confidence the policy is at least this much better than the reference policy, "
        "in log-odds summed over the horizon."
    )
    upper: float = Field(description="No policy's worst case is better than this.")
    gap: float = Field(description="upper - lower: what a better solution could still gain.")
    nominal: float = Field(description="How much better than the reference the policy is for the expected rewards.")
    greedy_nominal: float = Field(description="The most that any policy is worth for the expected rewards.")
    greedy_lower: float = Field(description="What the policy that reaches it is worth in its own worst case.")
    beta: float = Field(description="Radius of the set of rewards, in standard errors.")
    converged: bool = Field(description="Whether the gap is within the tolerance.")
    reason: str = Field(description="Why the planner stopped.")


class PolicyAnswer(Certificate):
    states: list[str]
    actions: list[str] = Field(description="For a catalogue, its items' ids.")
    policy: list[list[list[float]]] = Field(description="Probability of each action, by step, state and action.")
    greedy: list[list[str]] = Field(description="The likeliest action, by step and state.")


class ActionAnswer(Certificate):
    state: str
    step: int
    planned_from: Literal["start", "state"] = Field(
        description="`state`: the policy from the start never comes here at this step, so what remains was planned "
        "from here, and the bounds are those of what remains."
    )
    distribution: dict[str, float] = Field(description="Probability of each action, by name.")
    greedy: str = Field(description="The likeliest action.")
    sampled: str = Field(description="Drawn from the distribution; the same again for the same `seed`.")


State = Annotated[
    Annotated[int, Field(ge=0, le=1_000_000), Tag("@number")] | Annotated[Label, Tag("@name")],
    by_type({int: "@number", str: "@name"}, "a state's name or index"),
]


class ActionBody(PolicyBody):
    state: State | None = Field(default=None, description="A state's name or index; a catalogue has none.")
    step: int = Field(default=0, ge=0, le=1000, description="From 0.")
    context: ContextBody | None = Field(default=None, description="What a catalogue's item is chosen for.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")


class Query(Answer):
    first: dict[str, Any] = Field(description="An option, as preferences take it.")
    second: dict[str, Any]
    information: float = Field(description="Expected information about this user's rewards, in nats.")
    probability: float = Field(description="That `first` is preferred, as believed now.")


class QueriesAnswer(Grounded):
    queries: list[Query] = Field(description="Most informative first.")
