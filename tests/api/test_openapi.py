"""The OpenAPI document: complete, true, and changed on purpose only."""

import json
from pathlib import Path

import httpx
import jsonschema_rs
import pytest

from app.api.problems import PROBLEMS
from app.main import create_app
from tests.support.api import Json, settings_for

GOLDEN = Path(__file__).parents[1] / "golden" / "openapi.json"
OPEN_TO_ALL = {"/healthz", "/readyz", "/metrics", "/problems", "/problems/{code}"}

DOCUMENT: Json = create_app(settings_for("postgresql://nowhere")).openapi()
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]


def operation(method: str, path: str) -> Json:
    found: Json = DOCUMENT["paths"][path][method]
    return found


def test_the_document_is_the_golden_one(pytestconfig: pytest.Config) -> None:
    found = {**DOCUMENT, "info": {**DOCUMENT["info"], "version": "any"}}
    text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if pytestconfig.getoption("--update-golden"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "run pytest with --update-golden if this change of the contract is meant"


def test_the_document_is_served(api: httpx.Client) -> None:
    assert api.get("/openapi.json").json() == DOCUMENT


def test_every_call_of_the_contract_is_there() -> None:
    user = "/v1/environments/{environment}/users/{user}"
    models = "/v1/admin/environments/{environment}/models"
    assert set(OPERATIONS) >= {
        ("put", "/v1/environments/{environment}"),
        ("get", "/v1/environments/{environment}"),
        ("delete", "/v1/environments/{environment}"),
        ("get", "/v1/environments"),
        ("put", "/v1/environments/{environment}/items"),
        ("get", "/v1/environments/{environment}/items"),
        ("delete", "/v1/environments/{environment}/items/{item}"),
        ("post", "/v1/environments/{environment}/preferences"),
        ("post", "/v1/environments/{environment}/preferences/import"),
        ("get", user),
        ("delete", user),
        ("get", f"{user}/export"),
        ("post", f"{user}/rewards"),
        ("post", f"{user}/rank"),
        ("get", f"{user}/actions"),
        ("get", f"{user}/policy"),
        ("get", f"{user}/queries"),
        ("post", "/v1/admin/environments/{environment}/retrain"),
        ("get", "/v1/admin/refits/{refit}"),
        ("post", "/v1/admin/refits/{refit}/cancel"),
        ("get", models),
        ("get", f"{models}/{{version}}"),
        ("post", f"{models}/{{version}}/promote"),
        ("post", "/v1/admin/keys"),
        ("get", "/v1/admin/keys"),
        ("delete", "/v1/admin/keys/{key_id}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_call_is_described_with_examples_and_errors(method: str, path: str) -> None:
    described = operation(method, path)
    assert described["summary"]
    assert described["description"].endswith(".")
    (tag,) = described["tags"]
    assert tag in {one["name"] for one in DOCUMENT["tags"]}
    for parameter in described.get("parameters", []):
        assert parameter["description"], parameter["name"]
    if path not in OPEN_TO_ALL:
        assert described["security"] == [{"ApiKey": []}]
        assert {"401", "403", "422", "503"} <= described["responses"].keys()
    if "requestBody" in described:
        for media in described["requestBody"]["content"].values():
            assert media.get("example") or media.get("examples")
    for status, response in described["responses"].items():
        if status >= "400":
            assert response["content"].keys() == {"application/problem+json"}
        elif status not in {"204", "304"} and path not in {"/metrics", "/problems", "/problems/{code}"}:
            assert all("example" in media for media in response["content"].values())


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_examples_fit_their_schemas(method: str, path: str) -> None:
    described = operation(method, path)
    bodies = [described.get("requestBody", {}), *described["responses"].values()]
    for body in bodies:
        for kind, media in body.get("content", {}).items():
            examples = [one["value"] for one in media.get("examples", {}).values()]
            examples += [media["example"]] if "example" in media else []
            if kind in {"application/json", "application/problem+json"}:
                validator = jsonschema_rs.validator_for({**media["schema"], "components": DOCUMENT["components"]})
                for example in examples:
                    validator.validate(example)


def test_every_problem_is_documented_where_it_can_happen() -> None:
    documented = {
        code
        for method, path in OPERATIONS
        for response in operation(method, path)["responses"].values()
        for code in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    # The framework's own refusal of a method, and faults, belong to no call.
    assert set(PROBLEMS) - documented == {"method-not-allowed", "internal"}


def test_the_meaning_of_a_reward_is_told() -> None:
    reference = "difference from the environment's reference"
    reward = DOCUMENT["components"]["schemas"]["Reward"]["properties"]["reward"]["description"]
    for text in (DOCUMENT["info"]["description"], reward):
        for words in ("og-odds", reference, "no better than the reference", "pinned within a model version"):
            assert words in text
