"""Why a reward is what it is, on the wire."""

from typing import Any

from pydantic import Field

from app.api.schemas.answers import REWARD, Grounded
from app.api.schemas.base import Answer


class InfluentialPreference(Answer):
    chosen: dict[str, Any]
    rejected: dict[str, Any]
    context: dict[str, Any] | None = None
    label: float
    id: str | None = None
    moved: float = Field(description="Log-odds that the reward would lose without this answer.")
    words: str


class DirectionAnswer(Answer):
    direction: int = Field(description="From 1, in the order of how much users differ along it.")
    position: float = Field(
        description="The user's place along it in standard deviations of the population: 0 is the average. In a "
        "decision process its length, which has no sign."
    )
    stderr: float = Field(description="Standard error of the position.")
    beyond: float = Field(description="The share of users who stand less far out, 0..1.")
    moved: float = Field(description="What it adds to the explained reward, in log-odds.")
    towards: list[dict[str, Any]] = Field(description="Options that this user likes more than others do because of it.")
    away: list[dict[str, Any]] = Field(description="Options that this user likes less.")
    words: str


class ExplanationAnswer(Grounded):
    option: dict[str, Any] = Field(description="What the explained reward is of.")
    reward: float = Field(description=REWARD)
    population: float = Field(description="The same reward for somebody nobody has heard of.")
    comparisons: list[InfluentialPreference] = Field(
        description="The user's own answers, those that moved it most first."
    )
    directions: list[DirectionAnswer] = Field(description="Where the user stands out most first.")
    words: str = Field(description="The same in a sentence.")
