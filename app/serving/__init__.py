"""The published model in memory: scoring, ranking, policies and questions, always with a user's newest feedback."""

from app.serving.answers import (
    ActionAnswer,
    By,
    CertifiedAnswer,
    ItemsAnswer,
    PolicyAnswer,
    QueriesAnswer,
    Query,
    RankAnswer,
    RankedItems,
    RankedOption,
    Replay,
    RewardAnswer,
    RewardsAnswer,
    UserSummary,
)
from app.serving.explanation import Direction, Explanation, Moved
from app.serving.idtable import IdsInText, IdTable, hash_of_text
from app.serving.intervals import with_intervals
from app.serving.reference import Reference, mdp_of, reference_of, reference_to_arrays
from app.serving.runtime import ServingRuntime

__all__ = [
    "ActionAnswer",
    "By",
    "CertifiedAnswer",
    "Direction",
    "Explanation",
    "IdTable",
    "IdsInText",
    "ItemsAnswer",
    "Moved",
    "PolicyAnswer",
    "QueriesAnswer",
    "Query",
    "RankAnswer",
    "RankedItems",
    "RankedOption",
    "Reference",
    "Replay",
    "RewardAnswer",
    "RewardsAnswer",
    "ServingRuntime",
    "UserSummary",
    "hash_of_text",
    "mdp_of",
    "reference_of",
    "reference_to_arrays",
    "with_intervals",
]
