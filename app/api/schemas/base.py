"""What the wire format is made of: strict numbers, ids, and unions told apart by shape."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints

MAX_ID = 128
ID_PATTERN = rf"^[A-Za-z0-9._~:@-]{{1,{MAX_ID}}}$"

LARGEST_WEIGHT = 1e6
"""How many answers one can count for."""

LARGEST_FEATURE = 1e9
"""Features are kept as 32-bit floats, and their squares are summed; nothing sensible is larger."""

MAX_DIM = 4096
"""Features an item or a context may have; the widest embeddings in common use have 4,096."""

MAX_BATCH = 1000
"""Preferences, items or options in one request."""

MAX_TEXT = 20_000
"""Characters of a text; encoders read no further than their own, shorter limit."""

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=MAX_TEXT)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]*$", min_length=1, max_length=200)]
"""A name for people: no control characters."""


def _is_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("expected an RFC 3339 date and time, such as 2026-05-01T09:30:00Z.")  # noqa: TRY004 (pydantic)
    return value


Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_is_text, json_schema_input_type=str)]
"""Times are texts; numbers are not taken for them."""

Feature = Annotated[float, Field(ge=-LARGEST_FEATURE, le=LARGEST_FEATURE)]
Features = Annotated[list[Feature], Field(min_length=1, max_length=MAX_DIM)]


class Body(BaseModel):
    """A request's body: nothing is guessed or converted, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A response's body."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


def one_of_keys(*keys: str) -> Discriminator:
    """Tells objects apart by which of the keys they have; the tags are the keys after an @."""

    def tag(value: Any) -> str | None:
        if not isinstance(value, dict):
            return None
        found = [key for key in keys if key in value]
        return f"@{found[0]}" if found else None

    listed = ", ".join(f'"{key}"' for key in keys[:-1]) + f' or "{keys[-1]}"' if len(keys) > 1 else f'"{keys[0]}"'
    return Discriminator(
        tag,
        custom_error_type="unknown_shape",
        custom_error_message=f"expected an object with {listed}",
    )


def by_type(
    table: dict[type, str], expected: str, otherwise: Callable[[Any], str | None] | None = None
) -> Discriminator:
    """Tells values apart by their JSON type; `table` gives the tag of a Python type."""

    def tag(value: Any) -> str | None:
        found = table.get(type(value))
        return found if found is not None or otherwise is None else otherwise(value)

    return Discriminator(tag, custom_error_type="unknown_shape", custom_error_message=f"expected {expected}")
