"""Preferences read by compiled code: the same contract as `app.api.schemas.preferences`, without its words.

Whatever is not as it must be, or not in its usual form, raises a `msgspec.DecodeError`; whoever needs to say what is
wrong reads the same bytes again with pydantic. `tests/api/test_decoding.py` holds the two against each other.
"""

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.api.schemas.base import ID_PATTERN, LARGEST_FEATURE, LARGEST_WEIGHT, MAX_BATCH, MAX_DIM, MAX_TEXT
from app.api.schemas.preferences import happened

# Python's `$` also matches before a last line break.
Id = Annotated[str, Meta(pattern=ID_PATTERN.replace("$", r"\Z"))]
Text = Annotated[str, Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=MAX_TEXT)]
Features = Annotated[
    list[Annotated[float, Meta(ge=-LARGEST_FEATURE, le=LARGEST_FEATURE)]], Meta(min_length=1, max_length=MAX_DIM)
]

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
# The form in which nearly everybody writes a time; pydantic reads the others.


class WireContent(Struct, forbid_unknown_fields=True):
    """An option or a context: exactly one of its fields is there."""

    item: Id | UnsetType = UNSET
    features: Features | UnsetType = UNSET
    text: Text | UnsetType = UNSET
    trajectory: Annotated[list[Any], Meta(min_length=1)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.item, self.features, self.text, self.trajectory).count(UNSET) != 3:
            raise ValueError("expected one shape")


class WirePreference(Struct, forbid_unknown_fields=True):
    """As `PreferenceBody`."""

    user: Id
    chosen: WireContent
    rejected: WireContent
    context: WireContent | None = None
    label: Annotated[float, Meta(ge=0, le=1)] = 1.0
    weight: Annotated[float, Meta(gt=0, le=LARGEST_WEIGHT)] = 1.0
    occurred_at: str | None = None
    id: Id | None = None

    def __post_init__(self) -> None:
        if self.occurred_at is not None:
            happened(_moment(self.occurred_at))
        context = self.context
        if context is not None and context.features is UNSET and context.text is UNSET:
            raise ValueError("expected a context")

    @property
    def moment(self) -> datetime | None:
        return None if self.occurred_at is None else _moment(self.occurred_at)


class _WireBatch(Struct, forbid_unknown_fields=True):
    preferences: Annotated[list[WirePreference], Meta(min_length=1, max_length=MAX_BATCH)]


_one = msgspec.json.Decoder(WirePreference)
_batch = msgspec.json.Decoder(_WireBatch)


def decode_one(line: bytes) -> WirePreference:
    return _one.decode(line)


def decode_body(body: bytes) -> tuple[list[WirePreference], bool]:
    """One preference or a batch; the second value says that it is a batch."""
    if b'"preferences"' in body:
        return _batch.decode(body).preferences, True
    return [_one.decode(body)], False


def _moment(given: str) -> datetime:
    if _RFC_3339.fullmatch(given) is None:
        raise ValueError("expected the usual form of a time")
    return datetime.fromisoformat(given)
