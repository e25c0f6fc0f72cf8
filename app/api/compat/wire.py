"""What the foreign wire forms share: whose request it is, and what texts are worth to somebody."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.api.conversion import reader_for
from app.api.schemas.base import ID_PATTERN, MAX_TEXT
from app.api.schemas.options import TextBody
from app.api.services import Services
from app.api.validation import quoted
from app.domain import CatalogEnvironment, Environment, InvalidInputError
from app.serving import RewardAnswer

NOBODY = ""
"""A user that no preference can name: served the population's answer."""


class ForeignBody(BaseModel):
    """A body in another tool's form: fields that mean nothing here are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A text to value, for whom, and what it answers."""

    user: str
    text: str
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Valued:
    reward: RewardAnswer
    model_version: int
    feedback_seen: int


async def valued(services: Services, name: str, said: Sequence[Said]) -> list[Valued]:
    """What each text is worth to its user, in their order.

    A prompt is the context where the environment has contexts, and is passed over where it has none.
    """
    environment = (await services.current.environment(name)).definition
    check_reads_texts(environment)
    has_contexts = isinstance(environment, CatalogEnvironment) and environment.context_dim is not None
    bodies = [readable(one.text) for one in said]
    prompts = [None if one.prompt is None or not has_contexts else readable(one.prompt) for one in said]
    reader = await reader_for(environment, [*bodies, *prompts], services.encoder_for)
    groups: dict[tuple[str, str | None], list[int]] = {}
    for index, (one, prompt) in enumerate(zip(said, prompts, strict=True)):
        groups.setdefault((one.user, None if prompt is None else prompt.text), []).append(index)
    found: dict[int, Valued] = {}
    for (user, prompt_text), indices in groups.items():
        context = None if prompt_text is None else reader.context(TextBody(text=prompt_text), "/prompts")
        options = [reader.option(bodies[index], f"/query/{index}") for index in indices]
        answer = await services.runtime.rewards(name, user, options, context)
        for index, reward in zip(indices, answer.rewards, strict=True):
            found[index] = Valued(reward, answer.model_version, answer.feedback_seen)
    return [found[index] for index in range(len(said))]


def check_reads_texts(environment: Environment) -> None:
    if not isinstance(environment, CatalogEnvironment) or environment.encoder is None:
        raise InvalidInputError(
            f"environment {environment.name!r} has no encoder, so texts mean nothing to it; define a catalogue with an "
            'encoder, such as {"kind": "catalog", "encoder": "builtin"}.'
        )


def readable(text: str) -> TextBody:
    """A text as encoders take it: of at most their length, and a blank for none at all."""
    return TextBody(text=text.replace("\x00", "")[:MAX_TEXT] or " ")


def user_in(label: Any, pointer: str) -> str:
    """The user that a data set's label names: an id, or an object (perhaps as a string) with `user`; none is nobody."""
    while isinstance(label, dict) or (isinstance(label, str) and label.startswith("{")):
        inside = label if isinstance(label, dict) else _parsed(label)
        if "user" not in inside:
            break
        label, pointer = inside["user"], f"{pointer}/user"
    match label:
        case None | "":
            return NOBODY
        case str() if re.fullmatch(ID_PATTERN, label):
            return label
        case int() if not isinstance(label, bool):
            return str(label)
        case _:
            raise InvalidInputError(
                f'{pointer}: expected a user\'s id, or an object with "user"; found {quoted(label)}.', pointer=pointer
            )


def _parsed(label: str) -> dict[str, Any]:
    """The object that a string is, or an empty one."""
    try:
        found = json.loads(label)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
