"""What administrators do is noted, whoever they are, and nobody can take it back."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.store import Database
from tests.support.api import Json, client_for


def entries(api: httpx.Client, environment: str) -> list[Json]:
    """An environment's, oldest first."""
    found: list[Json] = api.get("/v1/admin/audit", params={"limit": 1000}).json()["entries"]
    return [one for one in reversed(found) if one["environment"] == environment]


def said(entry: Json, *names: str) -> tuple[Any, ...]:
    return tuple(entry[name] for name in names)


def test_every_deed_and_every_refusal_is_noted(api: httpx.Client, api_url: str, catalog: str) -> None:
    key = api.post("/v1/admin/keys", json={"name": "k", "scopes": ["admin"], "environments": [catalog]}).json()
    reader = api.post("/v1/admin/keys", json={"name": "r", "scopes": ["read"], "environments": [catalog]}).json()
    pair = {"user": "ada-lovelace", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
    api.post(f"/v1/environments/{catalog}/preferences", json=pair)
    with client_for(api_url, key["secret"]) as admin:
        admin.headers["X-Request-Id"] = "the-deed"
        admin.put(f"/v1/environments/{catalog}", json={"kind": "catalog", "item_dim": 2, "confidence": 0.9})
        admin.put(f"/v1/environments/{catalog}", json={"kind": "catalog", "item_dim": 2, "confidence": 0.9})
        admin.delete(f"/v1/environments/{catalog}/items/c")
        refit = admin.post(f"/v1/admin/environments/{catalog}/retrain").json()["id"]
        admin.post(f"/v1/admin/refits/{refit}/cancel")
        admin.delete(f"/v1/environments/{catalog}/users/ada-lovelace")
        admin.post(f"/v1/admin/environments/{catalog}/models/9/promote")
        rotated = admin.post(f"/v1/admin/keys/{reader['id']}/rotate", json={"grace_seconds": 0}).json()["id"]
        admin.delete(f"/v1/admin/keys/{rotated}")
    with client_for(api_url, reader["secret"]) as outsider:
        outsider.delete(f"/v1/environments/{catalog}")
    found = entries(api, catalog)
    assert [said(one, "key_id", "action", "outcome") for one in found[:4]] == [
        ("bootstrap", "environment.create", "done"),
        ("bootstrap", "items.upsert", "done"),
        ("bootstrap", "keys.create", "done"),
        ("bootstrap", "keys.create", "done"),
    ]
    assert [said(one, "action", "target", "outcome") for one in found[4:]] == [
        ("environment.change", "definition", "done"),
        ("items.retire", "c", "done"),
        ("refit.request", refit, "done"),
        ("refit.cancel", refit, "done"),
        ("user.erase", found[8]["target"], "done"),
        ("POST /v1/admin/environments/{environment}/models/{version}/promote", None, "404"),
        ("keys.rotate", reader["id"], "done"),
        ("keys.revoke", rotated, "done"),
    ]
    assert {said(one, "key_id", "request_id") for one in found[4:]} == {(key["id"], "the-deed")}
    assert "ada-lovelace" not in str(found)


def test_a_refused_administrators_call_is_noted(api: httpx.Client, api_url: str, catalog: str) -> None:
    reader = api.post("/v1/admin/keys", json={"name": "r", "scopes": ["read"], "environments": [catalog]}).json()
    with client_for(api_url, reader["secret"]) as client:
        assert client.delete(f"/v1/environments/{catalog}").status_code == 403
    last = entries(api, catalog)[-1]
    assert said(last, "key_id", "action", "outcome") == (reader["id"], "DELETE /v1/environments/{environment}", "403")


def test_pages_go_on_where_the_one_before_ended(api: httpx.Client, api_url: str, catalog: str) -> None:
    body = {"name": "k", "scopes": ["admin"], "environments": [catalog]}
    with client_for(api_url, api.post("/v1/admin/keys", json=body).json()["secret"]) as tenant:
        whole = tenant.get("/v1/admin/audit").json()
        assert {one["environment"] for one in whole["entries"]} == {catalog}
        assert whole["next"] is None
        read, before = list[Json](), None
        while True:
            page = tenant.get("/v1/admin/audit", params={"limit": 1} | ({"before": before} if before else {})).json()
            read += page["entries"]
            before = page["next"]
            if before is None:
                break
    assert read == whole["entries"]
    assert len(read) == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    "deed", ["UPDATE audit_log SET key_id = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_no_entry_is_changed_or_removed(db: Database, deed: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        async with db.begin() as connection:
            await connection.execute(text(deed))
