"""Reward functions, called as TRL's GRPOTrainer and verl's reward managers call them, against a real service."""

from collections.abc import Iterator

import pytest

import psharelora.trl
import psharelora.verl
from app.client import ApiError, Client
from tests.support.api import ADMIN_KEY, client_for, serving
from tests.support.replies import DEFINITION, KIND, SHORT, fitted_replies


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[tuple[str, str]]:
    with serving(database_url) as url, client_for(url) as api, fitted_replies(api, database_url) as name:
        yield url, name


def test_trl_gets_a_reward_a_completion_and_none_without_a_user(service: tuple[str, str]) -> None:
    url, name = service
    with Client(url, key=ADMIN_KEY) as client:
        reward = psharelora.trl.trl_reward(client, name)
        texts = [SHORT[0], KIND[0], SHORT[0], KIND[0]]
        users = ["u0", "u0", "u1", None]
        plain = reward(
            prompts=["My screen is black."] * 4,
            completions=texts,
            completion_ids=[[1]] * 4,
            user=users,
            trainer_state=None,
        )
        chats = [[{"role": "assistant", "content": text}] for text in texts]
        prompt = [{"role": "user", "content": "My screen is black."}]
        assert reward(prompts=[prompt] * 4, completions=chats, user=users) == plain
        short, kind, disliked, nobody = plain
        assert short is not None
        assert kind is not None
        assert disliked is not None
        assert short > kind
        assert short > disliked
        assert nobody is None
        assert reward.__name__ == f"reward_in_{name}"
        with pytest.raises(ValueError, match="no column 'user'"):
            reward(prompts=["?"], completions=["Yes."])


def test_before_a_model_trl_gets_no_number(service: tuple[str, str], environment_name: str) -> None:
    with Client(service[0], key=ADMIN_KEY) as client:
        client.put_environment(environment_name, DEFINITION)
        reward = psharelora.trl.trl_reward(client, environment_name)
        with pytest.raises(ApiError, match="model-not-ready"):
            reward(prompts=["?"], completions=["Yes."], user=["u0"])


def test_verl_scores_for_the_user_in_the_extra_information(
    service: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = service
    monkeypatch.setenv("PSHARELORA_URL", url)
    monkeypatch.setenv("PSHARELORA_KEY", ADMIN_KEY)
    score = psharelora.verl.compute_score
    found = score(data_source=name, solution_str=SHORT[0], ground_truth="", extra_info={"user": "u0", "index": 3})
    assert type(found) is float
    assert score(name, SHORT[0], "u0") == found
    assert score(name, SHORT[0], "u1") < found
    monkeypatch.setenv("PSHARELORA_ENVIRONMENT", name)
    assert score(data_source="any", solution_str=SHORT[0], ground_truth="u0", extra_info=None) == found
    with pytest.raises(ValueError, match="whose reward"):
        score(name, SHORT[0], ground_truth=None)
