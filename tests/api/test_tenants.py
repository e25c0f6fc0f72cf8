"""Tenants live side by side and never see each other."""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from sqlalchemy import text

from app.main import create_app
from app.store import Database
from app.store.schema import metadata
from tests.support.api import client_for, settings_for

_document = create_app(settings_for("postgresql://nowhere")).openapi()
OPERATIONS = {(method.upper(), path) for path, item in _document["paths"].items() for method in item}

OF_NOBODY = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/problems"),
    ("GET", "/problems/{code}"),
}
"""Tell nothing of an environment, to anyone."""

LISTS = {("GET", "/v1/environments"), ("GET", "/v1/admin/keys"), ("GET", "/v1/admin/audit")}
"""Answer everybody, with what is theirs."""

_PAIR = {"chosen": {"item": "a"}, "rejected": {"item": "b"}}
_RERANK = {"model": "{environment}/ada", "query": "which?", "documents": [{"item": "a"}]}
_ACTIONS = {"actions": [{"id": "a", "features": []}, {"id": "b", "features": []}]}
BODIES: dict[tuple[str, str], Any] = {
    ("PUT", "/v1/environments/{environment}"): {"kind": "catalog", "item_dim": 9},
    ("PUT", "/v1/environments/{environment}/items"): {"items": [{"id": "a", "features": [9.0, 9.0]}]},
    ("POST", "/v1/environments/{environment}/preferences"): {"user": "ada", **_PAIR},
    ("POST", "/v1/admin/keys"): {"name": "n", "scopes": ["read"], "environments": ["{environment}"]},
    ("POST", "/v1/admin/keys/{key_id}/rotate"): {},
    ("POST", "/v2/rerank"): _RERANK,
    ("POST", "/v1/rerank"): _RERANK,
    ("POST", "/personalizer/v1.0/rank"): _ACTIONS,
    ("POST", "/personalizer/v1.0/events/{event_id}/reward"): {"value": 1.0},
}
"""Where a call needs one to come as far as asking whose environment it is."""

IN_HEADERS = "/personalizer/"


def named(given: Any, values: dict[str, str]) -> Any:
    """A body or an address with the values in it."""
    return json.loads(re.sub(r"{(\w+)}", lambda found: values.get(found[1], found[0]), json.dumps(given)))


@pytest.fixture
def victim(api: httpx.Client, catalog: str) -> dict[str, str]:
    """Something of everything that an environment can have."""
    items = [{"id": "a", "features": [1.0, 2.0], "title": SECRET, "text": SECRET}]
    assert api.put(f"/v1/environments/{catalog}/items", json={"items": items}).status_code == 200
    batch = [{"user": user, **_PAIR} for user in ("ada", "user-of-the-victim") for _ in range(3)]
    assert api.post(f"/v1/environments/{catalog}/preferences", json={"preferences": batch}).status_code == 201
    key = api.post("/v1/admin/keys", json={"name": SECRET, "scopes": ["admin"], "environments": [catalog]}).json()["id"]
    refit = api.post(f"/v1/admin/environments/{catalog}/retrain").json()["id"]
    event = {**_ACTIONS, "eventId": "event-of-the-victim", "contextFeatures": [{"user": "ada"}]}
    headers = {"X-Psharelora-Environment": catalog}
    api.post("/personalizer/v1.0/rank", json=event, headers=headers)
    return {
        "environment": catalog,
        "refit": refit,
        "key_id": key,
        "event_id": "event-of-the-victim",
        "user": "ada",
        "item": "a",
        "version": "1",
    }


SECRET = "only-the-victim-knows"


async def contents(database_url: str, environment: str) -> dict[str, str]:
    """A digest of every table's rows of an environment."""
    db = Database(database_url)
    async with db.begin() as connection:
        key = await connection.scalar(text("SELECT id FROM environments WHERE name = :name"), {"name": environment})
        found = {}
        for table in metadata.sorted_tables:
            column = {"environments": "id", "api_keys": None}.get(table.name, "environment_id")
            if column is not None and column not in table.c:
                continue
            which = f"{column} = {key}" if column else f"'{environment}' = ANY(environments)"
            rows = f"SELECT md5(string_agg(one::text, ' ' ORDER BY one::text)) FROM {table.name} one WHERE {which}"
            found[table.name] = str(await connection.scalar(text(rows)))
    await db.dispose()
    return found


def test_no_call_of_another_tenant_sees_or_changes_anything(
    api: httpx.Client, api_url: str, database_url: str, victim: dict[str, str]
) -> None:
    """Every operation of the OpenAPI document, by keys that may do everything elsewhere.

    A new operation fails here until it names an environment in its path, or is told about above.
    """
    before = anyio.run(contents, database_url, victim["environment"])
    assert len([digest for digest in before.values() if digest != "None"]) >= 6
    nowhere = {**victim, "environment": "no-such-environment", "refit": str(uuid4()), "key_id": "no-such-key"}
    scopes = {"administrator": ["admin"], "backend": ["read", "feedback", "act-as-user"]}
    for who, held in scopes.items():
        body = {"name": who, "scopes": held, "environments": [f"other-{uuid4().hex}"]}
        with client_for(api_url, api.post("/v1/admin/keys", json=body).json()["secret"]) as outsider:
            for method, path in sorted(OPERATIONS - OF_NOBODY):
                hidden, missing = (tried(outsider, method, path, values) for values in (victim, nowhere))
                for leak in (SECRET, "user-of-the-victim", *([victim["environment"]] if path in LISTED else [])):
                    assert leak not in hidden.text, (method, path)
                if (method, path) in LISTS:
                    assert hidden.status_code in {200, 403}
                    continue
                assert hidden.status_code in {403, 404}, (method, path, hidden.text)
                # Nor can anybody tell what is hidden from what is not there.
                assert as_if(nowhere, victim, hidden) == as_if(nowhere, nowhere, missing), (method, path)
    assert anyio.run(contents, database_url, victim["environment"]) == before


def as_if(wanted: dict[str, str], given: dict[str, str], answer: httpx.Response) -> tuple[int, Any]:
    """An answer without its request's id, with the names of what was asked for exchanged."""
    told = answer.text
    for name in ("environment", "refit", "key_id"):
        told = told.replace(given[name], wanted[name])
    return answer.status_code, {**json.loads(told), "request_id": None}


LISTED = {path for _, path in LISTS}


def tried(client: httpx.Client, method: str, path: str, values: dict[str, str]) -> httpx.Response:
    headers = {"X-Psharelora-Environment": values["environment"]} if path.startswith(IN_HEADERS) else {}
    return client.request(
        method, named(path, values), json=named(BODIES.get((method, path), {}), values), headers=headers
    )


@pytest.fixture
def outsider(api: httpx.Client, api_url: str) -> Iterator[httpx.Client]:
    """An administrator of another environment."""
    body = {"name": "other tenant", "scopes": ["admin"], "environments": [f"other-{uuid4().hex}"]}
    with client_for(api_url, api.post("/v1/admin/keys", json=body).json()["secret"]) as client:
        yield client


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
