"""OpenRLHF's remote reward model: what `--reward.remote_url` (before 0.9: `--remote_rm_url`) posts to."""

import math
import re
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field

from app.api.auth import Reader
from app.api.compat.wire import ForeignBody, Said, user_in, valued
from app.api.environments import EnvironmentName, example
from app.api.problems import ASKED, problems
from app.api.schemas.answers import REWARD
from app.api.schemas.base import MAX_BATCH, Answer
from app.api.services import UsedServices
from app.domain import InvalidInputError

router = APIRouter(tags=["compatibility"])

TAIL_CHARACTERS = 48
"""How much of a prompt's end is looked for in a query whose beginning is not the prompt: it may have been cut."""

_SPECIAL_TOKENS = re.compile(r"(?:\s*(?:<\|[^|<>]{1,40}\|>|</?s>|<eos>|<pad>|<end_of_turn>))+\s*\Z")
"""What tokenizers put behind an answer, and preferences do not have."""


class RewardRequest(ForeignBody):
    query: list[str] = Field(min_length=1, max_length=MAX_BATCH, description="Prompts with their responses.")
    prompts: list[str] | None = Field(
        default=None, description="The prompts, which are cut off the queries; without them a query is a response."
    )
    labels: list[Any] | None = Field(
        default=None, description='Whose reward: a user\'s id or `{"user": id}` each; null or "" is the population.'
    )


class ExtraLogs(Answer):
    """Numbers beside every reward; OpenRLHF logs their means."""

    stderr: list[float]
    lower: list[float]
    upper: list[float]
    feedback_seen: list[float] = Field(description="How many of the user's own preferences the reward rests on.")
    model_version: list[float]


class RewardsGiven(Answer):
    rewards: list[float] = Field(description=f"One a query. {REWARD}")
    scores: list[float] = Field(description="The rewards in [0, 1]: how often the response wins over the reference.")
    extra_logs: ExtraLogs


_BODY = {
    "query": ["User: Is it raining?\nAssistant: Yes.</s>"],
    "prompts": ["User: Is it raining?\nAssistant: "],
    "labels": ["ada"],
}
_ANSWER = {
    "rewards": [1.31],
    "scores": [0.79],
    "extra_logs": {
        "stderr": [0.42],
        "lower": [0.49],
        "upper": [2.13],
        "feedback_seen": [36.0],
        "model_version": [1.0],
    },
}


@router.post(
    "/compat/openrlhf/{environment}/get_reward",
    summary="Rewards for OpenRLHF",
    description="Each response's reward for the user that its label names. OpenRLHF sends no headers, so a key whose "
    "only scope is `read` may travel in the path: `/compat/keys/{key}/openrlhf/{environment}/get_reward`; it is never "
    "logged. Before the first model the answer is a 503, never a 0.",
    responses={
        200: example(_ANSWER),
        **problems(*ASKED),
    },
)
async def get_reward(
    environment: EnvironmentName,
    body: Annotated[RewardRequest, Body(openapi_examples={"one": {"value": _BODY}})],
    services: UsedServices,
    _: Reader,
) -> RewardsGiven:
    n = len(body.query)
    prompts: list[str | None] = [None] * n if body.prompts is None else list(body.prompts)
    labels = [None] * n if body.labels is None else body.labels
    for name, values in (("prompts", prompts), ("labels", labels)):
        if len(values) != n:
            raise InvalidInputError(
                f"/{name}: expected as many as queries, {n}; found {len(values)}.", pointer=f"/{name}"
            )
    rows = [
        Said(user_in(label, f"/labels/{index}"), response_in(query, prompt, f"/query/{index}"), prompt)
        for index, (query, prompt, label) in enumerate(zip(body.query, prompts, labels, strict=True))
    ]
    found = await valued(services, environment, rows)
    return RewardsGiven(
        rewards=[one.reward.reward for one in found],
        scores=[share(one.reward.reward) for one in found],
        extra_logs=ExtraLogs(
            stderr=[one.reward.stderr for one in found],
            lower=[one.reward.lower for one in found],
            upper=[one.reward.upper for one in found],
            feedback_seen=[float(one.feedback_seen) for one in found],
            model_version=[float(one.model_version) for one in found],
        ),
    )


def share(reward: float) -> float:
    """How often an option with this reward is chosen over the reference."""
    return 1.0 / (1.0 + math.exp(-reward)) if reward > -700 else 0.0


def response_in(query: str, prompt: str | None, pointer: str) -> str:
    """What follows the prompt, without the tokens that end it.

    A prompt that was too long for the model has lost its beginning, and then only its end is in the query.
    """
    if prompt is None or query.startswith(prompt):
        return _SPECIAL_TOKENS.sub("", query.removeprefix(prompt or ""))
    tail = prompt.rstrip()[-TAIL_CHARACTERS:]
    at = query.find(tail)
    if at < 0:
        raise InvalidInputError(
            f"{pointer}: expected the prompt and then the response; the end of its prompt is not in it.",
            pointer=pointer,
        )
    return _SPECIAL_TOKENS.sub("", query[at + len(tail) :].lstrip())
