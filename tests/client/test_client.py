"""The Python client against the real service: every method, and what it raises."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.client import ApiError, Client, ServerUnreachableError
from tests.support.api import ADMIN_KEY, serving
from tests.support.worker import working

ON_REQUEST = {"every_seconds": 3600, "min_new_preferences": 1_000_000}
MDP = {
    "kind": "mdp",
    "states": ["home", "away"],
    "actions": ["stay", "go"],
    "horizon": 1,
    "initial": [1.0, 0.0],
    "transitions": [[s, a, (s + a) % 2, 1.0] for s in range(2) for a in range(2)],
    "refit": ON_REQUEST,
}


@pytest.fixture(scope="module")
def client(database_url: str) -> Iterator[Client]:
    with serving(database_url) as url, working(database_url), Client(url, key=ADMIN_KEY) as client:
        yield client


def chose(chosen: Any, rejected: Any, user: str = "ada") -> dict[str, Any]:
    return {"user": user, "chosen": chosen, "rejected": rejected}


def test_a_catalogue_from_its_definition_to_its_end(client: Client, environment_name: str) -> None:
    name = environment_name
    client.put_environment(name, {"kind": "catalog", "item_dim": 2, "refit": ON_REQUEST})
    assert client.environment(name)["kind"] == "catalog"
    assert name in {one["name"] for one in client.environments()["environments"]}
    items = [{"id": f"i{n}", "features": [float(n), 1.0]} for n in range(5)]
    assert client.put_items(name, items) == {"created": 5, "updated": 0}
    client.delete_item(name, "i4")
    assert [one["id"] for one in client.items(name, limit=2, after="i1")["items"]] == ["i2", "i3"]

    assert client.record(name, [chose({"item": "i3"}, {"item": "i0"})] * 30) == {"accepted": 30, "duplicates": 0}
    imported = client.import_lines(name, [b'{"user": "bob", "chosen": {"item": "i2"}, "rejected": {"item": "i1"}}\n'])
    assert (imported["accepted"], imported["rejected"]) == (1, 0)
    assert client.user(name, "ada")["feedback_count"] == 30
    assert len(client.export_user(name, "ada").splitlines()) == 30

    refit = client.retrain(name)
    told: list[float] = []
    ended = client.wait_for_refit(refit["id"], progress=lambda now: told.append(now["progress"]))
    assert (ended["state"], told[-1]) == ("succeeded", 1.0)
    assert [one["id"] for one in client.refits(name)["refits"]] == [refit["id"]]
    (version,) = client.models(name)["models"]
    assert client.model(name, version["version"])["status"] == "published"
    assert client.promote(name, version["version"])["status"] == "published"

    best = client.rank(name, "ada", top_n=1)["options"][0]
    assert best["option"] == {"item": "i3"}
    assert client.rank(name, "ada", options=[{"item": "i0"}, {"item": "i3"}], by="lower")["options"][0]["index"] == 1
    assert len(client.rewards(name, "ada", [{"item": "i1"}, {"features": [9.0, 1.0]}])["rewards"]) == 2
    assert len(client.queries(name, "ada", n=2)["queries"]) == 2

    assert client.erase_user(name, "ada")["preferences_erased"] == 30
    client.delete_environment(name)
    with pytest.raises(ApiError) as refused:
        client.environment(name)
    assert (refused.value.status, refused.value.code) == (404, "not-found")


def test_a_decision_process_is_planned_for(client: Client, environment_name: str) -> None:
    client.put_environment(environment_name, MDP)
    stay, go = ({"trajectory": [["home", action]]} for action in ("stay", "go"))
    client.record(environment_name, [chose(go, stay, f"u{n % 4}") for n in range(60)])
    assert client.wait_for_refit(client.retrain(environment_name)["id"])["state"] == "succeeded"
    assert client.actions(environment_name, "u1", state="home", step=0, confidence=0)["greedy"] == "go"
    plan = client.policy(environment_name, "u1", confidence=0.5)
    assert plan["confidence"] == 0.5
    assert 0 <= plan["lower"] <= plan["upper"]


def test_keys_are_made_listed_and_revoked(client: Client, environment_name: str) -> None:
    made = client.create_key("reader", ["read"], environments=[environment_name])
    assert made["secret"] not in str(client.keys())
    assert client.revoke_key(made["id"])["revoked_at"] is not None


def test_a_refusal_carries_the_problem(client: Client, environment_name: str) -> None:
    client.put_environment(environment_name, {"kind": "catalog", "item_dim": 2})
    with pytest.raises(ApiError) as refused:
        client.record(environment_name, [chose({"features": [1.0, 2.0]}, {"features": [1.0]})])
    assert (refused.value.status, refused.value.code) == (422, "invalid-input")
    assert refused.value.pointer == "/preferences/0/rejected/features"
    assert str(refused.value).startswith("422 invalid-input at /preferences/0/rejected/features: ")


def test_a_service_that_is_not_there_is_said_so() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServerUnreachableError, match="no answer from"):
        client.environments()
