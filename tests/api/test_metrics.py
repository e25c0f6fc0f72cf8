"""What operators see: /metrics with and without a key, /readyz, and a request's id on its way to the worker."""

import time
from contextlib import closing

import httpx
import psycopg
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Json, client_for, found_problem, serving
from tests.support.commands import free_port
from tests.support.faults.installation import wait_until
from tests.support.replies import refit
from tests.support.worker import working


def scraped(api: httpx.Client, **headers: str) -> dict[tuple[str, ...], float]:
    """By name and the values of labels."""
    response = api.get("/metrics", headers=headers)
    assert response.status_code == 200, response.text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_a_key_shows_the_models_of_its_environments_and_no_others(
    api: httpx.Client, api_url: str, replies: str, read_key: str, catalog: str
) -> None:
    with client_for(api_url, None) as nobody:
        told = scraped(nobody)
        assert ("psharelora_commit_preferences_count",) in told
        assert not any(replies in key for key in told)
        assert ("psharelora_database_up",) not in told
        refused = nobody.get("/metrics", headers={"Authorization": "Bearer wrong"})
        assert (refused.status_code, found_problem(refused)["code"]) == (401, "unauthenticated")
        told = scraped(nobody, Authorization=f"Bearer {read_key}")
    version = api.get(f"/v1/admin/environments/{replies}/models").json()["models"][0]
    metrics, diagnostics = version["metrics"], version["diagnostics"]
    n = api.get(f"/v1/environments/{replies}").json()["n_preferences"]
    assert told["psharelora_database_up",] == 1.0
    assert told["psharelora_refit_queue", "queued"] >= 0
    assert told["psharelora_stored_preferences", replies] == n
    assert told["psharelora_new_preferences", replies] == 0
    assert told["psharelora_model_version", replies] == version["version"]
    assert 0 < told["psharelora_model_age_seconds", replies] < 3600
    for model in ("new", "global", "per_user"):
        assert told["psharelora_held_out_accuracy", replies, model] == metrics[model]["accuracy"]
        assert told["psharelora_held_out_log_loss", replies, model] == metrics[model]["log_loss"]
    lift = metrics["new"]["accuracy"] - metrics["global"]["accuracy"]
    assert told["psharelora_held_out_accuracy_lift", replies] == pytest.approx(lift)
    assert told["psharelora_calibration_error", replies] == metrics["new"]["ece"]
    assert told["psharelora_interval_coverage", replies] == diagnostics["coverage"]
    assert ("psharelora_subspace_distance", replies) not in told  # there is no model before the first
    assert told["psharelora_last_refit_failed", replies] == 0
    environments = {key[1] for key in told if key[0] == "psharelora_stored_preferences"}
    assert environments == {replies}
    assert {replies, catalog} <= {key[1] for key in scraped(api) if key[0] == "psharelora_stored_preferences"}


def answered_by(api: httpx.Client, environment: str, user: str) -> int:
    """The version that a user's rewards come from now."""
    response = api.post(f"/v1/environments/{environment}/users/{user}/rewards", json={"options": [{"text": "No."}]})
    assert response.status_code == 200, response.text
    version: int = response.json()["model_version"]
    return version


def test_commits_and_fold_ins_are_counted(api: httpx.Client, replies: str, database_url: str) -> None:
    assert answered_by(api, replies, "u1") >= 1
    with working(database_url):
        refit(api, replies)
    newest = scraped(api)["psharelora_model_version", replies]
    # Until it is loaded the version before answers, and each of them folds a user in for itself.
    wait_until(lambda: answered_by(api, replies, "u1") == newest, seconds=30)
    before = scraped(api)
    said = [
        {"user": f"new-{index}", "chosen": {"text": "Yes."}, "rejected": {"text": "I am so sorry!"}}
        for index in range(7)
    ]
    assert api.post(f"/v1/environments/{replies}/preferences", json={"preferences": said}).status_code == 201
    assert [answered_by(api, replies, "new-3") for _ in range(2)] == [newest, newest]
    after = scraped(api)

    def grown(*key: str) -> float:
        return after[key] - before[key]

    assert grown("psharelora_commit_preferences_count") == 1
    assert grown("psharelora_commit_preferences_sum") == 7
    assert grown("psharelora_commit_preferences_bucket", "5.0") == 0
    assert grown("psharelora_commit_preferences_bucket", "10.0") == 1
    assert grown("psharelora_commit_seconds_count") == 1
    assert grown("psharelora_fold_in_seconds_count") == 1
    assert after["psharelora_waiting_preferences",] == 0
    assert after["psharelora_processes",] == 1


def test_readiness_tells_of_models_that_cannot_be_read(database_url: str, environment_name: str) -> None:
    with serving(database_url) as url, client_for(url) as api:
        ready = api.get("/readyz").json()
        assert ready.items() >= {"status": "ready", "unreadable_models": 0, "listening": True}.items()
        path = f"/v1/environments/{environment_name}"
        api.put(path, json={"kind": "catalog", "item_dim": 2, "rank": 1, "refit": {"min_new_preferences": 10**6}})
        said = [
            {"user": f"u{one}", "chosen": {"features": [1.0, one]}, "rejected": {"features": [0.0, 1.0]}}
            for one in range(6)
        ]
        api.post(f"{path}/preferences", json={"preferences": said})
        with working(database_url):
            refit(api, environment_name)
        # The worker may have published others' first models too.
        ready = api.get("/readyz").json()
        assert 1 <= ready["published_models"] <= ready["environments"]
        with closing(psycopg.connect(database_url, autocommit=True)) as connection:
            (key,) = connection.execute(
                "SELECT id FROM environments WHERE name = %s", [environment_name]
            ).fetchone() or (0,)
            connection.execute("UPDATE model_arrays SET data = '\\x00' WHERE environment_id = %s", [key])
        asked = api.post(f"{path}/users/u1/rewards", json={"options": [{"features": [1, 1]}]})
        assert found_problem(asked)["code"] == "corrupt-model"
        answer = api.get("/readyz")
        if ready["published_models"] > 1:
            assert answer.json()["unreadable_models"] == 1
        else:
            assert (answer.status_code, found_problem(answer)["code"]) == (503, "not-ready")
            assert "promote another version, or retrain" in answer.json()["detail"]
        assert api.delete(path).status_code == 204
        assert api.get("/readyz").json()["unreadable_models"] == 0


def test_a_requests_id_reaches_the_workers_log_and_its_metrics_are_scraped(
    api: httpx.Client, database_url: str, catalog: str
) -> None:
    pair: Json = {"user": "ada", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
    assert api.post(f"/v1/environments/{catalog}/preferences", json=pair).status_code == 201
    port = free_port()
    with (
        structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged,
        working(database_url, worker_metrics_port=port),
    ):
        asked = api.post(f"/v1/admin/environments/{catalog}/retrain", headers={"X-Request-ID": "asked-for-it"}).json()
        deadline = time.monotonic() + 60
        while api.get(f"/v1/admin/refits/{asked['id']}").json()["state"] != "succeeded":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with client_for(f"http://127.0.0.1:{port}", None) as worker:
            while (told := scraped(worker))["psharelora_refits_total", "succeeded"] < 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    events = {one["event"]: one for one in logged if one.get("request_id") == "asked-for-it"}
    assert events["refit_requested"]["refit"] == events["refit_begun"]["refit"] == asked["id"]
    assert events["refit_succeeded"]["seconds"].keys() == {"loading", "evaluating", "fitting", "publishing"}
    for phase in ("loading", "evaluating", "fitting", "publishing"):
        assert told["psharelora_refit_phase_seconds_count", phase] >= 1
        assert told["psharelora_refit_phase_seconds_sum", phase] < 60
