"""A user's adapter in PEFT's files: the head that they make gives the service's own rewards."""

import io
import json
import zipfile

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from tests.support.api import found_problem
from tests.support.replies import DEFINITION, SHORT, embedding_of, fitted_replies

MODULE = "base_model.model.reward_head"


def files_of(api: httpx.Client, environment: str, user: str) -> dict[str, bytes]:
    answer = api.get(f"/v1/environments/{environment}/users/{user}/adapter")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def weight_of(files: dict[str, bytes]) -> NDArray[np.float32]:
    """As PEFT merges it: the base plus lora_alpha / r times B A."""
    lora, config = load(files["adapter_model.safetensors"]), json.loads(files["adapter_config.json"])
    A, B = lora[f"{MODULE}.lora_A.weight"], lora[f"{MODULE}.lora_B.weight"]
    assert (config["peft_type"], config["target_modules"]) == ("LORA", ["reward_head"])
    assert A.shape[0] == B.shape[1] == config["r"]
    base: NDArray[np.float32] = load(files["reward_head.safetensors"])["reward_head.weight"]
    merged: NDArray[np.float32] = base + config["lora_alpha"] / config["r"] * B @ A
    return merged


@pytest.mark.parametrize("user", ["u0", "u1", "nobody"])
def test_the_adapted_head_gives_the_services_rewards(api: httpx.Client, replies: str, user: str) -> None:
    options = [[5.0, 0.0, 0.0], [1.0, 2.0, 3.0], [2.5, 1.0, 1.0]]
    answer = api.post(
        f"/v1/environments/{replies}/users/{user}/rewards", json={"options": [{"features": one} for one in options]}
    ).json()
    served = np.array([one["reward"] for one in answer["rewards"]])
    head = np.array(options) @ weight_of(files_of(api, replies, user)) @ [1.0]
    assert head - head[0] == pytest.approx(served - served[0], abs=1e-4)


def test_contexts_go_into_the_head_as_they_are(api: httpx.Client, database_url: str) -> None:
    with fitted_replies(api, database_url, context_dim=3) as name:
        options, prompt = [[5.0, 0.0, 0.0], [1.0, 2.0, 3.0]], SHORT[2]
        answer = api.post(
            f"/v1/environments/{name}/users/u0/rewards",
            json={"options": [{"features": one} for one in options], "context": {"text": prompt}},
        ).json()
        served = np.diff([one["reward"] for one in answer["rewards"]])
        weight = weight_of(files_of(api, name, "u0"))
    assert weight.shape == (3, 4)
    head = np.diff(np.array(options) @ weight @ [1.0, *embedding_of(prompt)])
    assert head == pytest.approx(served, abs=1e-4)


def test_before_the_first_model_there_is_no_adapter(api: httpx.Client, environment_name: str) -> None:
    api.put(f"/v1/environments/{environment_name}", json=DEFINITION)
    refused = api.get(f"/v1/environments/{environment_name}/users/u0/adapter")
    assert (refused.status_code, found_problem(refused)["code"]) == (503, "model-not-ready")
