"""Reward functions in the forms in which trainers call them."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from app.client.client import Client

Text = str | Sequence[Mapping[str, Any]]
"""A text, or a chat's messages."""

MOST_OPTIONS = 1000
"""In one request: the service's limit."""


class TrlReward:
    """What `trl_reward` makes; called by the trainer."""

    def __init__(self, client: Client, environment: str, *, user_column: str, contexts: bool) -> None:
        self._client = client
        self._environment = environment
        self._user_column = user_column
        self._contexts = contexts
        self.__name__ = f"reward_in_{environment}"  # what TRL logs it under

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float | None]:
        users = columns.get(self._user_column)
        if users is None:
            raise ValueError(
                f"the data set has no column {self._user_column!r}, which says whose reward it is; "
                "name it by user_column."
            )
        groups: dict[tuple[str, str], list[int]] = {}
        for index, (user, prompt) in enumerate(zip(users, prompts, strict=True)):
            if user is not None:
                groups.setdefault((str(user), words(prompt) if self._contexts else ""), []).append(index)
        rewards: list[float | None] = [None] * len(completions)
        for (user, prompt), indices in groups.items():
            for begin in range(0, len(indices), MOST_OPTIONS):
                some = indices[begin : begin + MOST_OPTIONS]
                texts = [words(completions[index]) for index in some]
                for index, reward in zip(some, self._rewards(user, texts, prompt), strict=True):
                    rewards[index] = reward
        return rewards

    def _rewards(self, user: str, texts: Sequence[str], prompt: str) -> list[float]:
        context = {"text": prompt} if prompt else None
        options = [{"text": text or " "} for text in texts]
        found = self._client.rewards(self._environment, user, options, context=context)["rewards"]
        return [one["reward"] for one in found]


def trl_reward(
    client: Client, environment: str, *, user_column: str = "user", contexts: bool | None = None
) -> TrlReward:
    """A reward function for `GRPOTrainer(reward_funcs=...)` and its kin.

    A completion's reward is what the environment knows of the user in the sample's column; a sample without a user has
    no reward (None), which TRL leaves out. Before the environment's first model it raises rather than give a number.

    Parameters
    ----------
    user_column
        The data set's column with the user's id.
    contexts
        Whether prompts are sent as contexts; by default, whether the environment has contexts.
    """
    if contexts is None:
        contexts = client.environment(environment)["definition"].get("context_dim") is not None
    return TrlReward(client, environment, user_column=user_column, contexts=contexts)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    """A response's reward for a user, in the form in which verl asks for it.

    The user is `extra_info["user"]`, else the ground truth. The environment is PSHARELORA_ENVIRONMENT, else the data
    source; the service's address and key are PSHARELORA_URL and PSHARELORA_KEY. A prompt in `extra_info["prompt"]` is
    the context where the environment has contexts.

    Raises
    ------
    ValueError
        Neither names a user.
    """
    info = extra_info or {}
    user = info.get("user", ground_truth)
    if not isinstance(user, str | int) or user == "":
        raise ValueError("whose reward is it? Put the user's id into extra_info['user'], or make it the ground truth.")
    reward = _reward_of(os.environ.get("PSHARELORA_ENVIRONMENT") or data_source)
    (found,) = reward([info.get("prompt", "")], [solution_str], user=[str(user)])
    assert found is not None
    return found


@cache
def _reward_of(environment: str) -> TrlReward:
    return trl_reward(Client(), environment)


def words(text: Text) -> str:
    """What is said in a text or in a chat's messages."""
    if isinstance(text, str):
        return text
    return "\n".join(str(message["content"]) for message in text)
