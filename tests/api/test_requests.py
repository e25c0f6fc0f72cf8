"""What happens around every request."""

import gc
import re

import httpx
import structlog

from tests.support.api import serving


def test_a_requests_id_is_kept_if_it_is_one(api: httpx.Client) -> None:
    assert api.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for odd in ("a b", "x" * 65, "<script>"):
        given = api.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


def test_every_answer_forbids_what_it_does_not_need(api: httpx.Client) -> None:
    for path in ("/healthz", "/console", "/nowhere"):
        headers = api.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_what_lives_as_long_as_the_server_is_left_out_of_garbage_collection(database_url: str) -> None:
    with serving(database_url):
        assert gc.get_freeze_count() > 100_000


def test_over_tls_browsers_are_told_to_stay_there(api: httpx.Client) -> None:
    behind = api.get("/healthz", headers={"X-Forwarded-Proto": "https"})
    assert behind.headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in api.get("/healthz").headers


def test_metrics_count_by_route_and_name_no_user(api: httpx.Client, catalog: str) -> None:
    pair = {"user": "very-private-user", "chosen": {"item": "a"}, "rejected": {"item": "b"}, "id": "m1"}
    for _ in range(2):
        api.post(f"/v1/environments/{catalog}/preferences", json=pair)
    api.get(f"/v1/environments/{catalog}/users/very-private-user")
    told_to_keys = api.get("/metrics").text
    assert f'environment="{catalog}"' in told_to_keys
    assert "very-private-user" not in told_to_keys
    response = httpx.get(api.base_url.join("/metrics"), trust_env=False)
    assert response.headers["content-type"].startswith("text/plain")
    route = 'route="/v1/environments/{environment}/users/{user}"'
    assert re.search(rf'psharelora_requests_total{{method="GET",{re.escape(route)},status="200"}} \d', response.text)
    assert re.search(r'psharelora_preferences_total{outcome="duplicate"} [1-9]', response.text)
    assert "psharelora_request_seconds_bucket" in response.text
    assert "very-private-user" not in response.text
    assert catalog not in response.text


def test_the_log_has_the_request_and_none_of_its_content(api: httpx.Client, catalog: str) -> None:
    pair = {"user": "secret-user", "chosen": {"item": "a"}, "rejected": {"features": [0.123456, 1]}}
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        headers = {"X-Request-ID": "log-test"}
        assert api.post(f"/v1/environments/{catalog}/preferences", json=pair, headers=headers).status_code == 201
    (event,) = [one for one in logged if one.get("request_id") == "log-test"]
    assert event.pop("milliseconds") > 0
    assert event == {
        "event": "request",
        "log_level": "info",
        "request_id": "log-test",
        "route": "/v1/environments/{environment}/preferences",
        "method": "POST",
        "status": 201,
    }


def test_an_answer_that_the_client_has_is_not_sent_again(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/items"
    first = api.get(path)
    assert first.headers["cache-control"] == "private, no-cache"
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = api.get(path, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert api.get(path, params={"limit": 1}, headers={"If-None-Match": tag}).status_code == 200
    assert api.delete(f"{path}/a").status_code == 204
    changed = api.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, len(changed.json()["items"])) == (200, 2)
    assert changed.headers["etag"] != tag
    # A refusal is nobody's answer.
    refused = api.get(f"{path}?limit=0", headers={"If-None-Match": "*"})
    assert (refused.status_code, refused.headers["cache-control"]) == (422, "no-store")
    assert "etag" not in refused.headers
