import re
from datetime import UTC, datetime, timedelta
from typing import Literal

import anyio
import httpx
import pytest
from argon2 import PasswordHasher
from typing_extensions import override

from app.domain import UnauthenticatedError
from app.store import Database, authenticate
from tests.support.api import Json, client_for, found_problem, problem, serving
from tests.support.waiting import eventually


def made(api: httpx.Client, **body: object) -> Json:
    response = api.post("/v1/admin/keys", json={"name": "a test's", **body})
    assert response.status_code == 201, response.text
    key: Json = response.json()
    return key


def test_a_secret_is_shown_once(api: httpx.Client, catalog: str) -> None:
    key = made(api, scopes=["read", "feedback"], environments=[catalog])
    secret = key.pop("secret")
    assert secret.startswith("psk_")
    assert key.pop("created_at").endswith("Z")
    key_id = key.pop("id")
    assert key == {
        "name": "a test's",
        "scopes": ["feedback", "read"],
        "environments": [catalog],
        "revoked_at": None,
        "expires_at": None,
        "successor": None,
        "requests_per_minute": None,
    }
    listing = api.get("/v1/admin/keys")
    (listed,) = [one for one in listing.json()["keys"] if one["id"] == key_id]
    assert "secret" not in listed
    assert secret not in listing.text


def test_a_revoked_key_is_refused_at_once(api: httpx.Client, api_url: str) -> None:
    key = made(api, scopes=["read"])
    with client_for(api_url, key["secret"]) as client:
        assert client.get("/v1/environments").status_code == 200
        revoked = api.delete(f"/v1/admin/keys/{key['id']}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"] is not None
        refused = client.get("/v1/environments")
    assert found_problem(refused) == problem("unauthenticated", 401, "The API key is not valid.")
    assert refused.headers["www-authenticate"] == 'Bearer realm="psharelora"'
    assert api.delete(f"/v1/admin/keys/{key['id']}").json() == revoked.json()


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "an API key is needed: send the header Authorization: Bearer <key>."),
        ("Basic dTpw", "the Authorization header must be Bearer <key>."),
        ("Bearer", "the Authorization header must be Bearer <key>."),
        ("Bearer psk_0123456789abcdef_nonsense", "The API key is not valid."),
        ("Bearer nonsense", "The API key is not valid."),
    ],
)
def test_a_bad_key_is_refused(api_url: str, header: str | None, detail: str) -> None:
    with client_for(api_url, None) as client:
        headers = {} if header is None else {"Authorization": header}
        response = client.get("/v1/environments", headers=headers)
    assert found_problem(response) == problem("unauthenticated", 401, detail)
    assert response.headers["www-authenticate"] == 'Bearer realm="psharelora"'


def test_a_bad_key_is_refused_before_its_body_is_read(api_url: str) -> None:
    with client_for(api_url, "nonsense") as client:
        response = client.post(
            "/v1/environments/e/preferences", content=b"{", headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 401


def test_each_call_needs_its_scope(api: httpx.Client, api_url: str, catalog: str) -> None:
    pair = {"user": "u", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
    calls = {
        "feedback": ("POST", f"/v1/environments/{catalog}/preferences", pair, 201),
        "read": ("GET", f"/v1/environments/{catalog}", None, 200),
        "admin": ("GET", f"/v1/admin/environments/{catalog}/models", None, 200),
    }
    for held in calls:
        with client_for(api_url, made(api, scopes=[held])["secret"]) as client:
            for needed, (method, path, body, status) in calls.items():
                response = client.request(method, path, json=body)
                if held in {needed, "admin"}:
                    assert response.status_code == status
                else:
                    detail = f"this call needs the scope {needed}; the API key has {held}."
                    assert found_problem(response) == problem("permission-denied", 403, detail)


def test_a_restricted_administrator_defines_only_its_own(
    api: httpx.Client, api_url: str, environment_name: str
) -> None:
    key = made(api, scopes=["admin"], environments=[environment_name])
    with client_for(api_url, key["secret"]) as tenant:
        definition = {"kind": "catalog", "item_dim": 2}
        assert tenant.put(f"/v1/environments/{environment_name}", json=definition).status_code == 201
        elsewhere = tenant.put(f"/v1/environments/{environment_name}-2", json=definition)
        detail = f"this API key may define only these environments: {environment_name}."
        assert found_problem(elsewhere) == problem("permission-denied", 403, detail)


def test_a_restricted_administrator_makes_no_key_beyond_itself(
    api: httpx.Client, api_url: str, environment_name: str
) -> None:
    key = made(api, scopes=["admin"], environments=[environment_name])
    other = made(api, scopes=["read"])
    detail = f"this API key may only make keys for these environments: {environment_name}."
    with client_for(api_url, key["secret"]) as tenant:
        for environments in (None, ["elsewhere"], [environment_name, "elsewhere"]):
            body = {"name": "more", "scopes": ["read"], "environments": environments}
            assert found_problem(tenant.post("/v1/admin/keys", json=body)) == problem("permission-denied", 403, detail)
        own = made(tenant, scopes=["admin"], environments=[environment_name])
        listed = {one["id"] for one in tenant.get("/v1/admin/keys").json()["keys"]}
        assert listed == {key["id"], own["id"]}
        hidden = tenant.delete(f"/v1/admin/keys/{other['id']}")
        assert found_problem(hidden) == problem("not-found", 404, f"There is no API key '{other['id']}'.")
        assert tenant.delete(f"/v1/admin/keys/{own['id']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": ["read"]}, "/name"),
        ({"name": "n", "scopes": []}, "/scopes"),
        ({"name": "n", "scopes": ["everything"]}, "/scopes/0"),
        ({"name": "n", "scopes": ["read"], "environments": []}, "/environments"),
        ({"name": "n\x00", "scopes": ["read"]}, "/name"),
        ({"name": "n", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "n", "scopes": ["read"], "requests_per_minute": 0}, "/requests_per_minute"),
    ],
)
def test_a_bad_key_definition_is_refused(api: httpx.Client, body: Json, pointer: str) -> None:
    response = api.post("/v1/admin/keys", json=body)
    assert response.status_code == 422
    assert found_problem(response)["pointer"] == pointer


def test_a_key_is_refused_once_it_has_expired(api: httpx.Client, api_url: str) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.6)
    key = made(api, scopes=["read"], expires_at=soon.isoformat())
    with client_for(api_url, key["secret"]) as client:
        assert client.get("/v1/environments").status_code == 200
        anyio.run(eventually, lambda: client.get("/v1/environments").status_code == 401)
        assert datetime.now(UTC) >= soon


def test_a_rotated_key_has_a_successor_and_a_grace(api: httpx.Client, api_url: str, catalog: str) -> None:
    old = made(api, scopes=["read"], environments=[catalog], requests_per_minute=500)
    new = api.post(f"/v1/admin/keys/{old['id']}/rotate", json={"grace_seconds": 0.6})
    assert new.status_code == 201
    shared = ("name", "scopes", "environments", "requests_per_minute")
    assert [new.json()[name] for name in shared] == [old[name] for name in shared]
    with client_for(api_url, old["secret"]) as before, client_for(api_url, new.json()["secret"]) as after:
        assert (before.get("/v1/environments").status_code, after.get("/v1/environments").status_code) == (200, 200)
        anyio.run(eventually, lambda: before.get("/v1/environments").status_code == 401)
        assert after.get("/v1/environments").status_code == 200
    (listed,) = [one for one in api.get("/v1/admin/keys").json()["keys"] if one["id"] == old["id"]]
    assert listed["successor"] == new.json()["id"]
    again = api.post(f"/v1/admin/keys/{old['id']}/rotate", json={})
    assert found_problem(again) == problem(
        "conflict", 409, f"The API key '{old['id']}' is not valid any more: make a new one."
    )


def test_a_key_that_was_just_rotated_is_not_rotated_twice(api: httpx.Client) -> None:
    old = made(api, scopes=["read"])
    new = api.post(f"/v1/admin/keys/{old['id']}/rotate", json={}).json()
    detail = f"The API key '{old['id']}' has a successor already: '{new['id']}'."
    assert found_problem(api.post(f"/v1/admin/keys/{old['id']}/rotate", json={})) == problem("conflict", 409, detail)
    assert api.post("/v1/admin/keys/nobodys/rotate", json={}).status_code == 404


def test_a_key_makes_so_many_requests_a_minute_and_no_more(api: httpx.Client, api_url: str) -> None:
    key = made(api, scopes=["read"], requests_per_minute=3)
    with client_for(api_url, key["secret"]) as client:
        answers = [client.get("/v1/environments") for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 200]
        assert [one.headers["ratelimit-policy"] for one in answers] == ['"key";q=3;w=60'] * 3
        left = [re.fullmatch(r'"key";r=(\d);t=(\d+)', one.headers["ratelimit"]) for one in answers]
        assert [found and found[1] for found in left] == ["2", "1", "0"]
        refused = client.get("/v1/environments")
    wait = refused.headers["retry-after"]
    assert 1 <= int(wait) <= 60
    detail = f"this API key may make 3 requests a minute; the next one is taken in {wait} s."
    assert found_problem(refused) == problem("rate-limited", 429, detail)
    assert "ratelimit" not in api.get("/v1/environments").headers


def test_the_settings_limit_is_for_keys_without_their_own(database_url: str) -> None:
    with serving(database_url, requests_per_minute=1) as url, client_for(url) as client:
        assert client.get("/v1/environments").headers["ratelimit"].startswith('"key";r=0;')
        assert client.get("/v1/environments").status_code == 429
        assert client.get("/healthz").status_code == 200


def test_naming_the_user_in_a_header_needs_a_scope_of_its_own(api: httpx.Client, api_url: str, catalog: str) -> None:
    body = {"model": catalog, "query": "which?", "documents": [{"item": "a"}, {"item": "b"}]}
    for scopes, status in ((["read"], 403), (["read", "act-as-user"], 503)):
        with client_for(api_url, made(api, scopes=scopes, environments=[catalog])["secret"]) as client:
            named = client.post("/v2/rerank", json=body, headers={"X-Psharelora-User": "ada"})
            assert named.status_code == status, named.text
            assert client.post("/v2/rerank", json=body).status_code == 503


@pytest.mark.parametrize("secret", ["psk_0123456789abcdef_nonsense", None])
def test_an_unknown_key_is_refused_no_sooner_than_a_wrong_secret(
    api: httpx.Client, database_url: str, secret: str | None
) -> None:
    """By what is computed, not by the clock: both are compared with a slow hash."""
    known = made(api, scopes=["read"])
    tried = secret or f"psk_{known['id']}_nonsense"
    compared: list[str] = []

    class Counting(PasswordHasher):
        @override
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            compared.append(str(password))
            return super().verify(hash, password)

    async def refused() -> None:
        database = Database(database_url)
        with pytest.raises(UnauthenticatedError):
            await authenticate(database, tried)
        await database.dispose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.store.keys._HASHER", Counting(time_cost=2, memory_cost=19_456, parallelism=1))
        anyio.run(refused)
    assert compared == [tried]
