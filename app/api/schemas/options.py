"""Options and contexts on the wire."""

from typing import Annotated, Any

from pydantic import Field, Tag, WithJsonSchema

from app.api.schemas.base import Body, Features, Id, Text, one_of_keys

_STEP = {
    "type": "array",
    "prefixItems": [
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "state, by name or index"},
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "action, by name or index"},
    ],
    "minItems": 2,
    "maxItems": 2,
}


class TrajectoryBody(Body):
    """What happened in an MDP, one `[state, action]` a step."""

    # Steps are read by app.api.mdps, which knows the names and the transitions.
    trajectory: Annotated[
        list[Any], WithJsonSchema({"type": "array", "minItems": 1, "items": _STEP}), Field(min_length=1)
    ]


class ItemBody(Body):
    """An item of the catalogue."""

    item: Id


class FeaturesBody(Body):
    """Something that is not in the catalogue, by its features."""

    features: Features


class TextBody(Body):
    """A text, turned into features by the environment's encoder."""

    text: Text


OptionBody = Annotated[
    Annotated[TrajectoryBody, Tag("@trajectory")]
    | Annotated[ItemBody, Tag("@item")]
    | Annotated[FeaturesBody, Tag("@features")]
    | Annotated[TextBody, Tag("@text")],
    one_of_keys("trajectory", "item", "features", "text"),
]

ContextBody = Annotated[
    Annotated[FeaturesBody, Tag("@features")] | Annotated[TextBody, Tag("@text")],
    one_of_keys("features", "text"),
]
