import pathlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import ValidationError

from app.api import build_application
from app.api.auth import check_loopback
from app.api.problems import PROBLEMS
from app.domain import DomainError, PermissionDeniedError
from app.main import create_app
from app.observability import HttpMetrics
from app.store import EmbeddedPostgres, SchemaBehindError, migrate
from tests.support.api import client_for, found_problem, problem, serving, serving_app, settings_for
from tests.support.postgres import NOT_DURABLE


def subclasses(parent: type[DomainError]) -> Iterator[type[DomainError]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_meaning_of_an_error_has_a_status() -> None:
    assert {error.code for error in subclasses(DomainError)} <= set(PROBLEMS)


def test_the_type_of_a_problem_leads_to_its_description(api: httpx.Client) -> None:
    listed = api.get("/problems").json()
    assert {one["code"] for one in listed} == set(PROBLEMS)
    for one in listed:
        assert api.get(f"/problems/{one['code']}").json() == one
    unknown = found_problem(api.get("/problems/bad-luck"))
    assert unknown == problem("not-found", 404, "there is no kind of problem named bad-luck.")


def test_an_unknown_address_and_a_wrong_method_are_problems(api: httpx.Client) -> None:
    assert found_problem(api.get("/v2/environments")) == problem(
        "not-found", 404, "there is nothing at /v2/environments."
    )
    wrong = api.patch("/v1/environments")
    assert found_problem(wrong) == problem("method-not-allowed", 405, "PATCH is not a method of /v1/environments.")
    assert wrong.headers["allow"] == "GET"


def test_a_wrong_method_is_told_all_that_are_right(api: httpx.Client) -> None:
    """Also where each has a route of its own, whether the thing is there or not."""
    assert api.patch("/v1/environments/nowhere").headers["allow"] == "DELETE, GET, PUT"
    assert api.post("/v1/environments/nowhere/items").headers["allow"] == "GET, PUT"
    assert "GET" in api.post("/openapi.json").headers["allow"]
    assert "GET" in api.post("/console").headers["allow"]


def test_a_name_that_no_environment_can_have_is_refused(api: httpx.Client) -> None:
    found = found_problem(api.get("/v1/environments/two%20words"))
    expected = r'path parameter environment: expected to match ^[A-Za-z0-9._~:@-]{1,128}$; found "two words".'
    assert found == problem("invalid-input", 422, expected)


@pytest.mark.parametrize("body", [b'{"kind": "\\ud800", "\\udfff": 1}', b"\xff\xfe", b"[1, 2]", b"null", b'"text"'])
def test_odd_bodies_are_problems_of_the_client(api: httpx.Client, environment_name: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = api.put(f"/v1/environments/{environment_name}", content=body, headers=headers)
    assert found_problem(response)["status"] in {400, 422}


def test_a_fault_is_answered_with_the_requests_id_and_no_more() -> None:
    broken = APIRouter()

    @broken.get("/broken")
    async def fail() -> None:
        raise ZeroDivisionError("what the log tells, and the answer does not")

    @asynccontextmanager
    async def nothing(_: FastAPI) -> AsyncIterator[None]:
        yield

    app = build_application(
        version="1", lifespan=nothing, metrics=HttpMetrics(), max_body_bytes=1024, body_seconds=1.0, pages=broken
    )
    with serving_app(app) as url, client_for(url) as client:
        response = client.get("/broken", headers={"X-Request-ID": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert found_problem(response) == problem("internal", 500, "the request could not be answered; the log has why.")


def test_an_embeddings_service_that_does_not_answer_is_a_503(api: httpx.Client, environment_name: str) -> None:
    encoder = {"url": "http://127.0.0.1:9/v1/embeddings", "model": "m"}
    path = f"/v1/environments/{environment_name}"
    probed = api.put(path, json={"kind": "catalog", "encoder": encoder})
    assert (probed.status_code, probed.headers["retry-after"]) == (503, "5")
    assert found_problem(probed)["code"] == "encoder-unavailable"
    assert api.get(path).status_code == 404

    assert api.put(path, json={"kind": "catalog", "encoder": encoder, "item_dim": 3}).status_code == 201
    pair = {"user": "u", "chosen": {"text": "a"}, "rejected": {"text": "b"}}
    refused = api.post(f"{path}/preferences", json=pair)
    assert found_problem(refused)["code"] == "encoder-unavailable"
    assert api.get(path).json()["n_preferences"] == 0


def test_without_its_database_the_service_says_so(tmp_path: pathlib.Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings=NOT_DURABLE)
    url = server.acquire()
    try:
        migrate(url)
        with serving(url) as address, client_for(address) as client:
            assert client.get("/readyz").json()["status"] == "ready"
            server.release()
            unavailable = client.get("/v1/environments")
            unready = client.get("/readyz")
            assert client.get("/healthz").json() == {"status": "alive"}
    finally:
        server.release()
    assert (unavailable.status_code, unavailable.headers["retry-after"]) == (503, "5")
    assert found_problem(unavailable)["code"] == "store-unavailable"
    assert found_problem(unready)["code"] == "not-ready"
    assert unready.json()["errors"] == [{"detail": unready.json()["detail"]}]


def test_the_service_does_not_start_on_an_old_schema(tmp_path: pathlib.Path) -> None:
    with EmbeddedPostgres(tmp_path, settings=NOT_DURABLE) as url:
        app = create_app(settings_for(url))

        async def start() -> None:
            async with app.router.lifespan_context(app):
                pass

        with pytest.raises(SchemaBehindError, match="Run `psharelora migrate` first"):
            anyio.run(start)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"auth": "off", "host": "0.0.0.0"}, "refused on 0.0.0.0"),
        ({"admin_key": "short"}, "must have at least 24"),
    ],
)
def test_unsafe_settings_are_refused(values: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        create_app(settings_for("postgresql://nowhere", **values))


def test_without_authentication_everybody_on_this_machine_is_an_administrator(database_url: str) -> None:
    name = f"open-{uuid4().hex}"
    with serving(database_url, auth="off") as url, client_for(url, None) as client:
        assert client.put(f"/v1/environments/{name}", json={"kind": "catalog", "item_dim": 2}).status_code == 201
        # A page of a foreign name that leads here (DNS rebinding) is nobody on this machine.
        foreign = client.get("/v1/environments", headers={"Host": "psharelora.example:8000"})
        detail = (
            'PSHARELORA_AUTH=off answers only as localhost or 127.0.0.1; the request is for "psharelora.example:8000".'
        )
        assert found_problem(foreign) == problem("permission-denied", 403, detail)


@pytest.mark.parametrize("host", ["10.1.2.3", "2001:db8::1", "0.0.0.0"])
def test_without_authentication_only_this_machine_is_answered_however_it_was_started(host: str) -> None:
    """uvicorn can be told to listen anywhere, past our settings: what counts is where a connection came in."""
    scope = {"type": "http", "server": (host, 8000), "headers": [(b"host", b"localhost:8000")]}
    with pytest.raises(PermissionDeniedError, match="for this machine alone"):
        check_loopback(scope)
    for own in ("127.0.0.1", "::1"):
        check_loopback({**scope, "server": (own, 8000)})
