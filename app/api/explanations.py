"""Why a user's reward is what it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.auth import Reader
from app.api.consistency import After
from app.api.conversion import reader_for
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.schemas.base import Id, Label, Text
from app.api.schemas.explanations import DirectionAnswer, ExplanationAnswer, InfluentialPreference
from app.api.schemas.options import ItemBody, OptionBody, TextBody
from app.api.services import UsedServices
from app.api.users import UserId
from app.domain import InvalidInputError, Option
from app.serving import Direction, Explanation, Moved

router = APIRouter(tags=["users"])

SHOWN_TEXT = 60
"""Characters of a text that a sentence repeats."""

_EXAMPLE: dict[str, Any] = {
    "model_version": 1,
    "feedback_seen": 36,
    "option": {"item": "a"},
    "reward": 1.31,
    "population": 0.4,
    "comparisons": [
        {
            "chosen": {"item": "a"},
            "rejected": {"item": "b"},
            "context": None,
            "label": 1.0,
            "id": "answer-1",
            "moved": 0.21,
            "words": "a rather than b: raised it by 0.21",
        }
    ],
    "directions": [
        {
            "direction": 1,
            "position": 1.8,
            "stderr": 0.4,
            "beyond": 0.93,
            "moved": 0.77,
            "towards": [{"item": "a"}],
            "away": [{"item": "c"}],
            "words": "further than 93% of users towards a, away from c: adds 0.77",
        }
    ],
    "words": "ada's reward of a is 1.31, and 0.40 for somebody nobody has heard of; "
    "most of that comes from a rather than b (0.21).",
}


@router.get(
    "/v1/environments/{environment}/users/{user}/explain",
    summary="Why a reward is what it is",
    description="Which of the user's own answers moved a reward most (what it would lose without each of them, at the "
    "published model), in which directions the user stands out from the others, and options that show each "
    "direction. Of an `item` or a `text`, of a `state` with an `action` in a decision process; else of what the user "
    "likes most.",
    responses={
        200: example(_EXAMPLE),
        **problems("not-found", "model-not-ready", "encoder-unavailable", "corrupt-model"),
    },
)
async def explain(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    item: Annotated[Id | None, Query(description="An item of the catalogue.")] = None,
    text: Annotated[Text | None, Query(description="A text, where the environment has an encoder.")] = None,
    state: Annotated[Label | None, Query(description="A state's name.")] = None,
    action: Annotated[Label | None, Query(description="An action's name.")] = None,
    n: Annotated[int, Query(ge=1, le=100, description="How many answers to name.")] = 5,
) -> ExplanationAnswer:
    given = [name for name, value in (("item", item), ("text", text), ("state", state)) if value is not None]
    if len(given) > 1 or (state is None) != (action is None):
        raise InvalidInputError("query: expected an item, or a text, or a state with an action; found another mixture.")
    option: Option | dict[str, Any] | None = None
    if state is not None:
        option = {"state": state, "action": action}
    elif item is not None or text is not None:
        body: OptionBody = ItemBody(item=item) if item is not None else TextBody(text=text or "")
        reader = await reader_for(
            (await services.current.environment(environment)).definition, [body], services.encoder_for
        )
        option = reader.option(body, given[0])
    found = await services.runtime.explain(environment, user, option, n=n, after=after)
    return ExplanationAnswer(
        model_version=found.model_version,
        feedback_seen=found.feedback_seen,
        option=found.option,
        reward=found.reward,
        population=found.population,
        comparisons=[_preference(one) for one in found.moved],
        directions=[_direction(one) for one in found.directions],
        words=_sentence(user, found),
    )


@router.get(
    "/v1/environments/{environment}/users/{user}/adapter",
    summary="Take a user's adapter away",
    description="A zip with the files that PEFT reads, `adapter_model.safetensors` and `adapter_config.json`, and "
    "`reward_head.safetensors`, the weight that they adapt: a linear reward head with `lora_B` the basis that all "
    "users share and `lora_A` the user's own part. Its output for [1, context], times an item's features, is the "
    "item's reward but for a constant; items' own effects beyond their features are not in it.",
    response_class=Response,
    responses={
        200: {
            "description": "The archive.",
            "content": {
                "application/zip": {"schema": {"type": "string", "format": "binary"}, "example": "the archive's bytes"}
            },
        },
        **problems("not-found", "model-not-ready", "corrupt-model"),
    },
)
async def adapter(
    environment: EnvironmentName, user: UserId, services: UsedServices, _: Reader, after: After
) -> Response:
    return Response(
        await services.runtime.adapter_archive(environment, user, after=after),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{user}.zip"'},
    )


def _preference(moved: Moved) -> InfluentialPreference:
    said = moved.preference
    return InfluentialPreference(
        chosen=said["chosen"],
        rejected=said["rejected"],
        context=said.get("context"),
        label=said["label"],
        id=said.get("id"),
        moved=moved.by,
        words=f"{_choice(moved)}: {_effect(moved.by)}",
    )


def _direction(one: Direction) -> DirectionAnswer:
    towards, away = (", ".join(_name(option) for option in options) for options in (one.towards, one.away))
    places = " ".join(
        part for part in (f"towards {towards}," if towards else "", f"away from {away}:" if away else "") if part
    )
    return DirectionAnswer(
        direction=one.number,
        position=one.position,
        stderr=one.stderr,
        beyond=one.beyond,
        moved=one.moved,
        towards=list(one.towards),
        away=list(one.away),
        words=f"further than {one.beyond:.0%} of users {places} adds {one.moved:.2f}",
    )


def _sentence(user: str, found: Explanation) -> str:
    told = (
        f"{user}'s reward of {_name(found.option)} is {found.reward:.2f}, and {found.population:.2f} for somebody "
        "nobody has heard of"
    )
    if not found.directions:
        return f"{told}; this model found nothing in which users differ."
    if not found.moved:
        return f"{told}; {user} has not answered anything yet."
    first = found.moved[0]
    return f"{told}; the answer that moved it most is {_choice(first)} ({first.by:+.2f})."


def _choice(moved: Moved) -> str:
    return f"{_name(moved.preference['chosen'])} rather than {_name(moved.preference['rejected'])}"


def _effect(by: float) -> str:
    return f"raised it by {by:.2f}" if by >= 0 else f"lowered it by {-by:.2f}"


def _name(option: dict[str, Any]) -> str:
    match option:
        case {"item": str(item)}:
            return item
        case {"text": str(text)}:
            return f'"{text}"' if len(text) <= SHOWN_TEXT else f'"{text[:SHOWN_TEXT]}..."'
        case {"state": state, "action": action}:
            return f"{action} when {state}"
        case {"trajectory": list(steps)}:
            return " ".join(f"{state}:{action}" for state, action in steps)
        case _:
            return "what was given by features"
