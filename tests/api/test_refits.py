import json
from uuid import uuid4

import httpx

from tests.support.api import found_problem, problem


def test_a_refit_is_asked_for_joined_followed_and_cancelled(api: httpx.Client, catalog: str) -> None:
    asked = api.post(f"/v1/admin/environments/{catalog}/retrain")
    body = asked.json()
    assert asked.status_code == 202
    assert asked.headers["location"] == f"/v1/admin/refits/{body['id']}"
    assert body.pop("created_at").endswith("Z")
    assert body == {
        "id": body["id"],
        "environment": catalog,
        "state": "queued",
        "phase": "waiting",
        "progress": 0.0,
        "attempt": 0,
        "cancel_requested": False,
        "reason": "request",
        "metrics": {},
        "error": None,
        "model_version": None,
        "started_at": None,
        "finished_at": None,
        "joined": False,
    }
    again = api.post(f"/v1/admin/environments/{catalog}/retrain").json()
    assert (again["id"], again["joined"]) == (body["id"], True)

    followed = api.get(asked.headers["location"]).json()
    assert {**followed, "joined": True} == again
    assert api.get(f"/v1/admin/environments/{catalog}/refits").json() == {"refits": [followed]}

    cancelled = api.post(f"{asked.headers['location']}/cancel")
    assert cancelled.status_code == 200
    assert (cancelled.json()["state"], cancelled.json()["cancel_requested"]) == ("cancelled", True)
    assert cancelled.json()["finished_at"] is not None


def test_an_unknown_refit_is_not_found(api: httpx.Client) -> None:
    refit = uuid4()
    for response in (api.get(f"/v1/admin/refits/{refit}"), api.post(f"/v1/admin/refits/{refit}/cancel")):
        assert found_problem(response) == problem("not-found", 404, f"There is no refit {refit}.")


def test_an_unknown_model_version_is_not_found(api: httpx.Client, catalog: str) -> None:
    assert api.get(f"/v1/admin/environments/{catalog}/models").json() == {"models": []}
    path = f"/v1/admin/environments/{catalog}/models/3"
    for response in (api.get(path), api.post(f"{path}/promote")):
        detail = f"Environment '{catalog}' has no model version 3."
        assert found_problem(response) == problem("not-found", 404, detail)


def test_a_refit_is_followed_until_it_has_ended(api: httpx.Client, catalog: str) -> None:
    asked = api.post(f"/v1/admin/environments/{catalog}/retrain").headers["location"]
    states = []
    with api.stream("GET", f"{asked}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: ")))
                if len(states) == 1:
                    api.post(f"{asked}/cancel")
    assert [one["state"] for one in states] == ["queued", "cancelled"]
    assert states[-1] == api.get(asked).json()


def test_a_followed_refit_that_goes_with_its_environment_ends_the_stream(api: httpx.Client, catalog: str) -> None:
    asked = api.post(f"/v1/admin/environments/{catalog}/retrain").headers["location"]
    with api.stream("GET", f"{asked}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: refit"
        assert api.delete(f"/v1/environments/{catalog}").status_code == 204
        assert sum(line.startswith("data: ") for line in lines) == 1
    assert found_problem(api.get(f"{asked}/events"))["status"] == 404
