"""Reward models for OpenRLHF and slime, in the form in which those post."""

import math
from typing import Any

import httpx
import pytest
import structlog.testing

from app.api.compat.openrlhf import response_in
from app.domain import InvalidInputError
from tests.support.api import ADMIN_KEY, Json, client_for, found_problem, problem
from tests.support.replies import DEFINITION, KIND, SHORT

PROMPT = "<|im_start|>user\nMy screen is black.<|im_end|>\n<|im_start|>assistant\n"


def posted(url: str, body: Json) -> httpx.Response:
    """As a trainer posts: JSON, and no header of its own."""
    return httpx.post(url, json=body, trust_env=False)


def body_for(responses: list[str], labels: list[Any]) -> Json:
    queries = [f"{PROMPT}{response}<|im_end|>" for response in responses]
    return {"query": queries, "prompts": [PROMPT] * len(queries), "labels": labels}


def test_rewards_are_those_of_the_labels_users(api_url: str, api: httpx.Client, replies: str, read_key: str) -> None:
    labels = ["u0", "u1", "u0", "u1", None]
    responses = [SHORT[0], SHORT[0], KIND[0], KIND[0], KIND[0]]
    address = f"{api_url}/compat/keys/{read_key}/openrlhf/{replies}/get_reward"
    answer = posted(address, body_for(responses, labels))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found.keys() == {"rewards", "scores", "extra_logs"}
    lists = [found["rewards"], found["scores"], *found["extra_logs"].values()]
    assert all(len(one) == 5 and all(type(number) is float for number in one) for one in lists)
    short_0, short_1, kind_0, kind_1, _ = found["rewards"]
    assert short_0 > kind_0
    assert kind_1 > short_1
    assert found["scores"] == pytest.approx([1 / (1 + math.exp(-reward)) for reward in found["rewards"]])
    assert found["extra_logs"]["feedback_seen"] == [24, 24, 24, 24, 0]
    for index, (user, text) in enumerate(zip(["u0", "u1", "u0", "u1", "nobody"], responses, strict=True)):
        path = f"/v1/environments/{replies}/users/{user}/rewards"
        direct = api.post(path, json={"options": [{"text": text}]}).json()["rewards"][0]
        assert found["rewards"][index] == pytest.approx(direct["reward"])
        assert found["extra_logs"]["stderr"][index] == pytest.approx(direct["stderr"])


def test_a_header_will_do_as_well_as_the_path(api: httpx.Client, replies: str) -> None:
    answer = api.post(f"/compat/openrlhf/{replies}/get_reward", json={"query": ["Yes."]})
    assert answer.status_code == 200
    assert len(answer.json()["rewards"]) == 1


def test_slime_is_answered_a_number(api_url: str, replies: str, read_key: str) -> None:
    address = f"{api_url}/compat/keys/{read_key}/slime/{replies}/reward"
    chat = [{"role": "user", "content": "My screen is black."}]
    for prompt in ("My screen is black.", chat):
        rewards = [
            posted(address, {"prompt": prompt, "response": text, "label": label}).json()
            for text in (SHORT[0], KIND[0])
            for label in ("u0", {"user": "u1"})
        ]
        assert all(type(reward) is float for reward in rewards)
        assert rewards[0] > rewards[2]
        assert rewards[3] > rewards[1]


@pytest.mark.parametrize(("tool", "body"), [("openrlhf", {"query": ["Yes."]}), ("slime", {"response": "Yes."})])
def test_before_the_first_model_there_is_no_number(
    api: httpx.Client, environment_name: str, tool: str, body: Json
) -> None:
    api.put(f"/v1/environments/{environment_name}", json=DEFINITION)
    call = {"openrlhf": "get_reward", "slime": "reward"}[tool]
    answer = api.post(f"/compat/{tool}/{environment_name}/{call}", json=body)
    assert answer.status_code == 503
    assert found_problem(answer)["code"] == "model-not-ready"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"labels": ["u0", "u1"]}, "/labels"),
        ({"prompts": []}, "/prompts"),
        ({"labels": ["the answer is 42"]}, "/labels/0"),
        ({"labels": ['{"user": "u0"']}, "/labels/0"),
        ({"prompts": ["Quite another prompt, which is not in the query."]}, "/query/0"),
        ({"query": []}, "/query"),
    ],
)
def test_what_cannot_be_read_is_named(api: httpx.Client, replies: str, change: Json, pointer: str) -> None:
    answer = api.post(f"/compat/openrlhf/{replies}/get_reward", json={**body_for(["Yes."], ["u0"]), **change})
    assert answer.status_code == 422
    assert found_problem(answer)["pointer"] == pointer


def test_an_environment_without_an_encoder_says_so(api: httpx.Client, catalog: str) -> None:
    answer = api.post(f"/compat/slime/{catalog}/reward", json={"response": "Yes."})
    assert "has no encoder" in found_problem(answer)["detail"]


def test_the_response_is_what_follows_the_prompt() -> None:
    assert response_in("Q: rain?\nA: Yes.</s>", "Q: rain?\nA: ", "/query/0") == "Yes."
    assert response_in("Yes.<|im_end|>\n<|endoftext|>", None, "/query/0") == "Yes."
    prompt = "begins here and then goes on, much too long for the model's context. Assistant: "
    assert response_in(prompt[8:] + "Yes.", prompt, "/query/0") == "Yes."
    with pytest.raises(InvalidInputError, match="/query/0"):
        response_in("Yes.", "Q: rain?", "/query/0")


def test_only_a_key_that_can_do_no_more_than_read_may_travel_in_the_path(
    api_url: str, api: httpx.Client, replies: str
) -> None:
    writes = api.post("/v1/admin/keys", json={"name": "both", "scopes": ["read", "feedback"]}).json()["secret"]
    for secret in (writes, ADMIN_KEY):
        refused = posted(f"{api_url}/compat/keys/{secret}/slime/{replies}/reward", {"response": "Yes."})
        assert found_problem(refused)["code"] == "permission-denied"
    unknown = posted(f"{api_url}/compat/keys/psk_nobody_knows/slime/{replies}/reward", {"response": "Yes."})
    assert found_problem(unknown) == problem("unauthenticated", 401, "The API key is not valid.")


def test_a_key_in_the_path_is_in_no_answer_and_reaches_its_environments_only(
    api_url: str, catalog: str, read_key: str
) -> None:
    for path in (f"slime/{catalog}/reward", "nothing/here"):
        refused = posted(f"{api_url}/compat/keys/{read_key}/{path}", {"response": "Yes."})
        assert refused.status_code == 404
        assert read_key not in refused.text
    with client_for(api_url, None) as stranger:
        assert stranger.post(f"/compat/slime/{catalog}/reward", json={"response": "Yes."}).status_code == 401


def test_a_key_in_the_path_is_never_logged(api_url: str, replies: str, read_key: str) -> None:
    with structlog.testing.capture_logs() as logged:
        posted(f"{api_url}/compat/keys/{read_key}/slime/{replies}/reward", {"response": "Yes."})
        posted(f"{api_url}/compat/keys/{read_key}/nothing/here", {"response": "Yes."})
        posted(f"{api_url}/compat/keys/{read_key}x/slime/{replies}/reward", {"response": "Yes."})
    routes = [one["route"] for one in logged if one["event"] == "request"]
    assert routes == ["/compat/slime/{environment}/reward", "unmatched", "unmatched"]
    assert read_key not in str(logged)
