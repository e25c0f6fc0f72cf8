"""Preferences and items on the wire."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, Tag

from app.api.schemas.base import LARGEST_WEIGHT, MAX_BATCH, Answer, Body, Features, Id, Label, Text, Time, by_type
from app.api.schemas.options import ContextBody, OptionBody

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

CLOCK_ALLOWANCE = timedelta(days=1)
"""How far a client's clock may be ahead."""


def happened(value: datetime) -> datetime:
    """A time that something can have happened at."""
    if value < EARLIEST:
        raise ValueError(f"expected a time after 1970; found {value.isoformat()}.")
    if value > datetime.now(UTC) + CLOCK_ALLOWANCE:
        raise ValueError(f"expected a time that is not in the future; found {value.isoformat()}.")
    return value


Moment = Annotated[Time, AfterValidator(happened)]


class PreferenceBody(Body):
    """One option was chosen over another by a user."""

    user: Id
    chosen: OptionBody
    rejected: OptionBody
    context: ContextBody | None = Field(default=None, description="What the choice was made for.")
    label: float = Field(
        default=1.0, ge=0, le=1, description="Probability that `chosen` is preferred: 1 is sure, 0.5 a tie."
    )
    weight: float = Field(
        default=1.0, gt=0, le=LARGEST_WEIGHT, description="How many such answers this one counts for."
    )
    occurred_at: Moment | None = Field(default=None, description="When, as RFC 3339; the time of arrival if absent.")
    id: Id | None = Field(
        default=None,
        description="Makes it idempotent: the same id and content again is a duplicate, other content a 409.",
    )


class PreferenceBatch(Body):
    preferences: list[PreferenceBody] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description="At most 1,000, all or nothing; use /preferences/import for more.",
    )


def _one_or_many(value: Any) -> str:
    return "@batch" if isinstance(value, dict) and "preferences" in value else "@one"


PreferencesBody = Annotated[
    Annotated[PreferenceBody, Tag("@one")] | Annotated[PreferenceBatch, Tag("@batch")],
    by_type({}, 'a preference or {"preferences": [...]}', otherwise=_one_or_many),
]


class RecordedAnswer(Answer):
    accepted: int = Field(description="Stored by this call.")
    duplicates: int = Field(description="Stored before, with the same id and content.")


class LineError(Answer):
    line: int = Field(description="From 1.")
    detail: str
    pointer: str | None = Field(default=None, description="JSON pointer into the line.")


class ImportProgress(Answer):
    """What became of an import's lines so far."""

    lines: int = Field(description="Read; the last few thousand of them are about to be stored.")
    accepted: int
    duplicates: int
    rejected: int


class ImportAnswer(Answer):
    accepted: int
    duplicates: int
    rejected: int = Field(description="Lines that were not stored.")
    errors: list[LineError] = Field(description="The first 20 bad lines.")


class CatalogItemBody(Body):
    """An item, by its features or by a text that the environment's encoder turns into features."""

    id: Id
    features: Features | None = None
    text: Text | None = None
    title: Label | None = Field(default=None, description="For people only; never used to learn.")


class ItemsBody(Body):
    items: list[CatalogItemBody] = Field(min_length=1, max_length=MAX_BATCH)


class UpsertedAnswer(Answer):
    created: int
    updated: int


class ItemAnswer(Answer):
    id: str
    title: str | None
    text: str | None
    features: list[float]


class ItemList(Answer):
    items: list[ItemAnswer]
    next: str | None = Field(description="Pass it as `after` to read on; null at the end.")
