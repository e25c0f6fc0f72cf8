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
