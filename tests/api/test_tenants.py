"""Tenants live side by side and never see each other."""

import re
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from app.main import create_app
from tests.support.api import client_for, settings_for

VALUES = {"user": "ada", "item": "a", "version": "1"}

_document = create_app(settings_for("postgresql://nowhere")).openapi()
CALLS = [
    (method.upper(), path)
    for path, item in sorted(_document["paths"].items())
    for method in item
    if "{environment}" in path or "{refit}" in path
]


@pytest.fixture
def outsider(api: httpx.Client, api_url: str) -> Iterator[httpx.Client]:
    """An administrator of another environment."""
    body = {"name": "other tenant", "scopes": ["admin"], "environments": [f"other-{uuid4().hex}"]}
    with client_for(api_url, api.post("/v1/admin/keys", json=body).json()["secret"]) as client:
        yield client


def test_every_call_that_names_an_environment_or_a_refit_is_tried() -> None:
    assert len(CALLS) >= 22


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_another_tenants_key_sees_nothing(
    api: httpx.Client, outsider: httpx.Client, catalog: str, method: str, path: str
) -> None:
    refit = api.post(f"/v1/admin/environments/{catalog}/retrain").json()["id"]
    values = {**VALUES, "environment": catalog, "refit": refit}
    address = re.sub(r"{(\w+)}", lambda found: values[found[1]], path)
    nowhere = address.replace(catalog, "no-such-environment").replace(refit, str(uuid4()))

    hidden = outsider.request(method, address, json={"kind": "catalog", "item_dim": 9})
    missing = outsider.request(method, nowhere, json={"kind": "catalog", "item_dim": 9})
    assert hidden.status_code in {403, 404}
    assert hidden.status_code == missing.status_code
    shown = {"request_id", "detail"}
    assert {**hidden.json(), **dict.fromkeys(shown)} == {**missing.json(), **dict.fromkeys(shown)}
    assert "item" not in hidden.json()["detail"]
    assert api.get(f"/v1/environments/{catalog}").json()["definition"]["item_dim"] == 2


def test_the_list_of_environments_is_filtered(api: httpx.Client, outsider: httpx.Client, catalog: str) -> None:
    assert catalog in api.get("/v1/environments").text
    assert outsider.get("/v1/environments").json() == {"environments": []}


def test_the_same_user_id_means_two_users(api: httpx.Client, api_url: str) -> None:
    names = [f"tenant-{uuid4().hex}" for _ in range(2)]
    for name in names:
        body = {"name": name, "scopes": ["admin"], "environments": [name]}
        secret = api.post("/v1/admin/keys", json=body).json()["secret"]
        with client_for(api_url, secret) as tenant:
            assert tenant.put(f"/v1/environments/{name}", json={"kind": "catalog", "item_dim": 1}).status_code == 201
            items = {"items": [{"id": "a", "features": [0]}, {"id": "b", "features": [1]}]}
            tenant.put(f"/v1/environments/{name}/items", json=items)
            pair = {"user": "ada", "chosen": {"item": "a"}, "rejected": {"item": "b"}, "id": "1"}
            assert tenant.post(f"/v1/environments/{name}/preferences", json=pair).json()["accepted"] == 1
            assert tenant.get(f"/v1/environments/{name}/users/ada").json()["feedback_count"] == 1
