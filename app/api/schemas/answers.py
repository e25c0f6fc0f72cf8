"""Answers about one user, on the wire: rewards, rankings, policies, actions, queries."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from app.api.schemas.base import MAX_BATCH, Answer, Body, Id, Label, by_type
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


class _Users(Body):
    users: list[Id] = Field(min_length=1, max_length=MAX_BATCH, description="Each is answered for themselves.")


class UsersRewardsBody(_Users, RewardsBody):
    """The same options for several users."""


class UsersRankBody(_Users, RankBody):
    """The same options, or the catalogue, for several users."""


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


class UserRewards(RewardsAnswer):
    user: str


class UsersRewardsAnswer(Answer):
    answers: list[UserRewards] = Field(description="One a user, in their order.")


class Ranked(Reward):
    option: dict[str, Any] = Field(description="The option, as it was given or as preferences take it.")
    index: int | None = Field(description="Its index in the request's `options`; null when the catalogue was ranked.")


class RankAnswer(Grounded):
    by: Literal["mean", "lower"]
    options: list[Ranked] = Field(description="Best first.")


class UserRanking(RankAnswer):
    user: str


class UsersRankAnswer(Answer):
    answers: list[UserRanking] = Field(description="One a user, in their order.")


SetName = Literal["credible", "ellipsoid", "frobenius", "frobenius_full", "likelihood_ratio"]

CONFIDENCE = (
    "0 trusts the estimate; the environment's if only `set` is given; without either, the default level of pessimism, "
    "which the answer names."
)
SET = (
    "Which rewards the worst case is taken over. `ellipsoid`: a set that holds the user's whole reward function with "
    "probability `confidence`. `credible`: one just so large that the value of the one policy that is served exceeds "
    "`lower` with probability `confidence`, as the model believes: where users have said little, fewer do. "
    "`frobenius`, `frobenius_full`: a ball of the user's parameters, in the shared subspace or of all of them. "
    "`likelihood_ratio`: parameters that explain what the user said nearly as well as the best. `ellipsoid` if only "
    "`confidence` is given."
)


class Pessimistic(Body):
    confidence: float | None = Field(default=None, ge=0, lt=1, description=CONFIDENCE)
    set: SetName | None = Field(default=None, description=SET)


class Certificate(Grounded):
    """How good a robust policy is, with a proof."""

    set: SetName = Field(description="The kind of set of rewards that the worst case is taken over.")
    confidence: float = Field(description="Of that set.")
    lower: float = Field(
        description="Certified: at this confidence the policy is at least this much better than the reference policy, "
        "in log-odds summed over the horizon."
    )
    upper: float = Field(description="No policy's worst case is better than this.")
    gap: float = Field(description="upper - lower: what a better solution could still gain.")
    nominal: float = Field(description="How much better than the reference the policy is for the expected rewards.")
    greedy_nominal: float = Field(description="The most that any policy is worth for the expected rewards.")
    greedy_lower: float = Field(description="What the policy that reaches it is worth in its own worst case.")
    beta: float = Field(
        description="Radius of the set of rewards, in standard errors; of a Frobenius ball, in log-odds a unit of the "
        "features."
    )
    converged: bool = Field(description="Whether the gap is within the tolerance.")
    reason: str = Field(
        description="Why the planner stopped: `tolerance`; `precision`, where floating point allows no better; `time` "
        "or `iterations`, where a limit came first and the policy is the best that was certified so far."
    )


class PolicyAnswer(Certificate):
    states: list[str]
    actions: list[str] = Field(description="For a catalogue, its items' ids.")
    policy: list[list[list[float]]] = Field(description="Probability of each action, by step, state and action.")
    greedy: list[list[str | None]] = Field(
        description="The likeliest action, by step and state; null in terminal states, where nothing is done."
    )


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


class PlaceBody(Body):
    state: State | None = Field(default=None, description="A state's name or index; a catalogue has none.")
    step: int = Field(default=0, ge=0, le=1000, description="From 0.")


class ActionsBody(Pessimistic):
    places: list[PlaceBody] = Field(min_length=1, max_length=1000, description="Where somebody is.")
    context: ContextBody | None = Field(default=None, description="What a catalogue's item is chosen for.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")


class ActionsAnswer(Answer):
    actions: list[ActionAnswer] = Field(description="One a place, in their order, all of the same plan and feedback.")


class ActionBody(Pessimistic):
    state: State | None = Field(default=None, description="A state's name or index; a catalogue has none.")
    step: int = Field(default=0, ge=0, le=1000, description="From 0.")
    context: ContextBody | None = Field(default=None, description="What a catalogue's item is chosen for.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")


class SlateBody(Pessimistic):
    size: int = Field(ge=1, le=1000, description="How many items.")
    context: ContextBody | None = Field(default=None, description="What the items are for.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")


class ShownSlate(Answer):
    items: list[str] = Field(description="Best first.")
    probability: float


class SlateAnswer(Certificate):
    slates: list[ShownSlate] = Field(description="What to show, each with its probability.")
    any_items: float = Field(
        description="The probability left, with which any items are shown at random, as the reference does."
    )
    best: list[str] = Field(description="The one slate that is worth most in its own worst case.")
    best_lower: float = Field(
        description="What it is worth there if it is always shown; less than `lower` where mixing cancels doubt."
    )
    sampled: list[str] = Field(description="Drawn by the probabilities; the same again for the same `seed`.")


class ActionExplanationBody(Pessimistic):
    state: State | None = Field(default=None, description="A state's name or index; a catalogue has none.")
    step: int = Field(default=0, ge=0, le=1000, description="From 0.")
    action: Label | None = Field(
        default=None, description="What to explain, an item's id in a catalogue; what the plan does if absent."
    )
    context: ContextBody | None = Field(default=None, description="What a catalogue's item is chosen for.")
    n: int = Field(default=5, ge=0, le=100, description="How many comparisons to name at most.")


class Advantage(Answer):
    """In log-odds, summed over what is left of the horizon."""

    robust: float = Field(description="In the worst case that the plan guards against: `estimate` less `caution`.")
    estimate: float = Field(description="At the estimated rewards.")
    caution: float = Field(description="What that worst case takes away.")
    stderr: float = Field(description="Standard error of the estimate.")


class Influence(Answer):
    preference: dict[str, Any] = Field(description="What the user said, as it is exported.")
    over_reference: float = Field(description="What the estimated advantage over the reference would lose without it.")
    over_next_best: float | None = Field(description="The same of the advantage over the next best.")


class ActionExplanationAnswer(Certificate):
    state: str
    step: int
    planned_from: Literal["start", "state"]
    action: str = Field(description="What is explained.")
    probability: float = Field(description="That the plan takes this action here.")
    over_reference: Advantage = Field(description="Of the action, and the best after it, over the reference policy.")
    next_best: str | None = Field(
        description="The best other action in the plan's worst case; null where there is none."
    )
    over_next_best: Advantage | None = Field(description="Of the action over that one; 0 where the plan mixes both.")
    population: float = Field(
        description="The part of the estimate over the reference that everybody shares; `own` is the rest."
    )
    own: float = Field(description="The part that the user's own comparisons add.")
    comparisons: list[Influence] = Field(
        description="The user's own comparisons that weighed most for the action over the next best, heaviest first."
    )


class Query(Answer):
    first: dict[str, Any] = Field(description="An option, as preferences take it.")
    second: dict[str, Any]
    information: float = Field(description="Expected information about this user's rewards, in nats.")
    probability: float = Field(description="That `first` is preferred, as believed now.")


class QueriesAnswer(Grounded):
    queries: list[Query] = Field(description="Most informative first.")
