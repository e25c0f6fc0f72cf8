import httpx
import pytest

from tests.support.api import Json, client_for, found_problem, problem


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
    ],
)
def test_a_bad_key_definition_is_refused(api: httpx.Client, body: Json, pointer: str) -> None:
    response = api.post("/v1/admin/keys", json=body)
    assert response.status_code == 422
    assert found_problem(response)["pointer"] == pointer
