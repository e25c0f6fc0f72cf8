"""slime's remote reward model: what `--rm-type remote_rm --rm-url ...` posts to."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field

from app.api.auth import Reader
from app.api.compat.wire import ForeignBody, Said, user_in, valued
from app.api.environments import EnvironmentName, example
from app.api.problems import ASKED, problems
from app.api.services import UsedServices

router = APIRouter(tags=["compatibility"])


class Message(ForeignBody):
    role: str = ""
    content: str = ""


class SampleBody(ForeignBody):
    prompt: str | list[Message] = Field(default="", description="A text, or a chat's messages.")
    response: str
    label: Any = Field(
        default=None, description='Whose reward: a user\'s id or `{"user": id}`; null is the population.'
    )


@router.post(
    "/compat/slime/{environment}/reward",
    summary="A reward for slime",
    description="The response's reward for the user that the label names, as a bare number. slime sends no headers, so "
    "a key whose only scope is `read` may travel in the path: `/compat/keys/{key}/slime/{environment}/reward`; it is "
    "never logged. Before the first model the answer is a 503, never a 0.",
    responses={
        200: example(1.31),
        **problems(*ASKED),
    },
)
async def reward(
    environment: EnvironmentName,
    body: Annotated[
        SampleBody,
        Body(openapi_examples={"one": {"value": {"prompt": "Is it raining?", "response": "Yes.", "label": "ada"}}}),
    ],
    services: UsedServices,
    _: Reader,
) -> float:
    prompt = body.prompt if isinstance(body.prompt, str) else "\n".join(message.content for message in body.prompt)
    said = Said(user_in(body.label, "/label"), body.response, prompt or None)
    (found,) = await valued(services, environment, [said])
    return found.reward.reward
