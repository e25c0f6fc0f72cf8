"""Nothing that a client sends comes into a log: keys, texts, features, users, whether it was right or wrong."""

import io
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote

import anyio
import httpx
import pytest
import structlog

from app.observability import configure_logging
from tests.support.api import client_for, serving
from tests.support.replies import embeddings, refit, said_of_replies
from tests.support.waiting import eventually
from tests.support.worker import working

CANARY = "canary-7f3a"
NUMBER = 7315.90625
"""As a feature."""


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged meanwhile, everything that can be."""
    written, root = io.StringIO(), logging.getLogger()
    before, level = root.handlers, root.level
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        configure_logging("debug", "json")
    yield written
    root.handlers = before
    root.setLevel(level)
    structlog.reset_defaults()


def provoke(client: httpx.Client, name: str) -> None:
    """Say it wherever something can be said, rightly and wrongly."""
    env, json_type = f"/v1/environments/{name}", {"Content-Type": "application/json"}
    option, other = {"text": f"Yes, {CANARY}."}, {"text": "No."}
    pair = {"user": CANARY, "chosen": option, "rejected": other, "id": CANARY}
    statuses = [
        client.post(f"{env}/preferences", json=pair),
        client.post(f"{env}/preferences", json={**pair, "weight": 2.0}),
        client.post(f"{env}/preferences", json={**pair, "label": CANARY}),
        client.post(f"{env}/preferences", json={**pair, CANARY: CANARY}),
        client.post(f"{env}/preferences", json={**pair, "chosen": {"features": [NUMBER]}}),
        client.post(f"{env}/preferences", content=f'{{"user": "{CANARY}'.encode(), headers=json_type),
        client.post(f"{env}/preferences/import", content=f'{{"user": "{CANARY}"}}\n{CANARY}\n'.encode()),
        client.put(f"{env}/items", json={"items": [{"id": CANARY, "text": CANARY, "title": CANARY}]}),
        client.put(f"{env}/items", json={"items": [{"id": "i", "features": [NUMBER, NUMBER, NUMBER]}]}),
        client.post(f"{env}/users/{CANARY}/rewards", json={"options": [option, {"features": [NUMBER] * 3}]}),
        client.post(f"{env}/users/{CANARY}/rank", json={"options": [option, {"item": CANARY}]}),
        client.get(f"{env}/users/{CANARY}/actions", params={"state": CANARY, "seed": CANARY}),
        client.get(f"{env}/users/{CANARY}/export", params={"format": CANARY}),
        client.get(f"/v1/{CANARY}", params={CANARY: CANARY}),
        client.post("/v2/rerank", json={"model": f"{name}/{CANARY}", "query": CANARY, "documents": [CANARY]}),
        client.post("/v1/admin/keys", json={"name": CANARY, "scopes": ["read"]}),
        client.put(f"/v1/environments/{CANARY}", json={"kind": "catalog", "item_dim": 1}),
        client.delete(f"/v1/environments/{CANARY}"),
        client.delete(f"{env}/users/{CANARY}"),
        httpx.get(f"{client.base_url}/v1/environments", headers={"Authorization": f"Bearer psk_{CANARY}_x"}),
        httpx.get(f"{client.base_url}/v1/environments", headers={"Authorization": f"Basic {CANARY}"}),
        httpx.post(f"{client.base_url}/compat/keys/{CANARY}/slime/{name}/reward", json={"response": CANARY}),
        httpx.post(f"{client.base_url}/personalizer/v1.0/rank", headers={"Ocp-Apim-Subscription-Key": CANARY}),
    ]
    assert {one.status_code for one in statuses} >= {200, 201, 401, 404, 422}


def test_nothing_that_is_sent_is_logged(
    logs: io.StringIO, database_url: str, environment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError(f"could not convert string to float: {CANARY}, {NUMBER}")

    name = environment_name
    with serving(database_url) as url, client_for(url) as client, embeddings() as encoder, working(database_url):
        definition = {"kind": "catalog", "encoder": {"url": encoder, "model": CANARY}, "rank": 1}
        assert client.put(f"/v1/environments/{name}", json=definition).status_code == 201
        said = [{**one, "user": f"{CANARY}-{one['user']}"} for one in said_of_replies(n_users=4)]
        assert client.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201
        refit(client, name)
        provoke(client, name)
        secret = client.post("/v1/admin/keys", json={"name": "n", "scopes": ["read"]}).json()["secret"]
        with client_for(url, secret) as reader:
            assert reader.get(f"/v1/environments/{name}").status_code == 200
        monkeypatch.setattr("app.api.users.export_user", broken)
        assert client.get(f"/v1/environments/{name}/users/{CANARY}/export").status_code == 500
        monkeypatch.setattr("app.worker.refit.evaluate", broken)
        client.post(f"/v1/admin/environments/{name}/retrain")
        anyio.run(eventually, lambda: "refit_ended_in_failure" in logs.getvalue())
    told = logs.getvalue()
    assert "refit_succeeded" in told
    assert "request_failed" in told
    for spoken in (CANARY, quote(CANARY), str(NUMBER), secret, secret.split("_")[2]):
        assert spoken not in told, next(line for line in told.splitlines() if spoken in line)
