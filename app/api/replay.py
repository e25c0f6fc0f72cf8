"""Answers given again, as they were: by the model version and the feedback that they name."""

from typing import Annotated

from fastapi import Depends, Query

from app.domain import InvalidInputError
from app.serving import Replay


def _replay(
    model_version: Annotated[
        int | None,
        Query(
            ge=1,
            le=2_147_483_647,
            description="Answer as this version did, whatever is published now; with `feedback_seen`.",
        ),
    ] = None,
    feedback_seen: Annotated[
        int | None,
        Query(ge=0, le=2**53, description="Answer from the user's first so many preferences; with `model_version`."),
    ] = None,
) -> Replay | None:
    if model_version is None and feedback_seen is None:
        return None
    if model_version is None or feedback_seen is None:
        missing = "model_version" if model_version is None else "feedback_seen"
        raise InvalidInputError(f"query parameter {missing}: an answer is given again by both of its names.")
    return Replay(model_version, feedback_seen)


AsItWas = Annotated[Replay | None, Depends(_replay)]
"""Which answer to give again; None: the newest."""
