"""Azure Personalizer's own client: its Rank and Reward calls against this service."""

import math
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from azure.cognitiveservices.personalizer import PersonalizerClient
from azure.cognitiveservices.personalizer.models import ErrorResponseException, RankableAction, RankRequest
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import HttpOperationError

from tests.support.api import Json, found_problem
from tests.support.replies import DEFINITION, KIND, SHORT

ACTIONS = [
    RankableAction(id="short", features=[{"answer": SHORT[0]}]),
    RankableAction(id="kind", features=[{"answer": KIND[0]}, {"tone": {"warm": True}}]),
    RankableAction(id="other", features=[{"answer": KIND[1]}]),
]


def client_with_key(api: httpx.Client, api_url: str, environment: str) -> Any:
    scopes = {"name": "shop", "scopes": ["read", "feedback", "act-as-user"], "environments": [environment]}
    secret = api.post("/v1/admin/keys", json=scopes).json()["secret"]
    return client_of(api_url, secret)


def client_of(api_url: str, key: str) -> Any:
    untyped: Any = PersonalizerClient
    return untyped(api_url, CognitiveServicesCredentials(key))


def message_of(refused: ErrorResponseException) -> tuple[str, str]:
    error: Any = refused.error
    return error.error.code, error.error.message


@pytest.fixture
def fresh(api: httpx.Client, environment_name: str) -> str:
    api.put(f"/v1/environments/{environment_name}", json=DEFINITION)
    return environment_name


def exported(api: httpx.Client, environment: str, user: str) -> list[Json]:
    found: list[Json] = api.get(f"/v1/environments/{environment}/users/{user}/export?format=json").json()["preferences"]
    return found


def test_a_reward_becomes_preferences_over_what_was_not_chosen(api_url: str, api: httpx.Client, fresh: str) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    ranked = personalizer.rank(
        RankRequest(
            actions=ACTIONS, context_features=[{"user": "ada"}, {"daytime": "noon"}], excluded_actions=["other"]
        )
    )
    assert [one.id for one in ranked.ranking][2] == "other"
    assert ranked.ranking[0].id == ranked.reward_action_id
    assert math.fsum(one.probability for one in ranked.ranking) == pytest.approx(1)
    assert ranked.ranking[2].probability == 0
    personalizer.events.reward(ranked.event_id, 0.5)
    personalizer.events.reward(ranked.event_id, -1)
    (said,) = exported(api, fresh, "ada")
    texts = {"short": f"answer: {SHORT[0]}", "kind": f"answer: {KIND[0]}\ntone warm: True"}
    chosen = texts.pop(ranked.reward_action_id)
    assert said["chosen"] == {"text": chosen}
    assert said["rejected"] == {"text": texts.popitem()[1]}
    assert (said["label"], said["weight"]) == (0.75, 1.0)


def test_an_event_weighs_as_much_as_one_answer_and_names_its_user_by_header(
    api_url: str, api: httpx.Client, fresh: str
) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    headers = {"X-Psharelora-User": "bob"}
    ranked = personalizer.rank(RankRequest(actions=ACTIONS, event_id="my event"), custom_headers=headers)
    assert ranked.event_id == "my event"
    personalizer.events.reward("my event", 1.0)
    said = exported(api, fresh, "bob")
    assert [one["weight"] for one in said] == [0.5, 0.5]
    assert [one["label"] for one in said] == [1.0, 1.0]


def test_a_deferred_event_teaches_when_it_is_activated(api_url: str, api: httpx.Client, fresh: str) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    ranked = personalizer.rank(
        RankRequest(actions=ACTIONS[:2], context_features=[{"userId": "eve"}], defer_activation=True)
    )
    personalizer.events.reward(ranked.event_id, 1.0)
    assert exported(api, fresh, "eve") == []
    personalizer.events.activate(ranked.event_id)
    personalizer.events.activate(ranked.event_id)
    assert len(exported(api, fresh, "eve")) == 1


def test_a_model_ranks_by_the_user_and_explores(api_url: str, api: httpx.Client, replies: str) -> None:
    personalizer = client_with_key(api, api_url, replies)
    chosen: dict[str, Counter[str]] = {"u0": Counter(), "u1": Counter()}
    for user, counts in chosen.items():
        for number in range(30):
            request = RankRequest(
                actions=ACTIONS, context_features=[{"user": {"id": user}}], event_id=f"{user}-{number}"
            )
            ranked = personalizer.rank(request)
            counts[ranked.reward_action_id] += 1
            assert personalizer.rank(request).reward_action_id == ranked.reward_action_id
    assert chosen["u0"]["short"] > chosen["u1"]["short"]
    assert chosen["u0"].most_common(1)[0][0] == "short"


def test_actions_may_be_items_of_the_catalogue(api: httpx.Client, catalog: str) -> None:
    headers = {"X-Psharelora-Environment": catalog, "X-Psharelora-User": "ada"}
    actions: list[Json] = [{"id": "a", "features": []}, {"id": "b", "features": []}]
    ranked = api.post("/personalizer/v1.0/rank", json={"actions": actions, "eventId": "e"}, headers=headers)
    assert ranked.status_code == 201, ranked.text
    assert api.post("/personalizer/v1.0/events/e/reward", json={"value": 1}, headers=headers).status_code == 204
    (said,) = exported(api, catalog, "ada")
    assert {said["chosen"]["item"], said["rejected"]["item"]} == {"a", "b"}
    unknown = api.post(
        "/personalizer/v1.0/rank", json={"actions": [*actions, {"id": "z", "features": []}]}, headers=headers
    )
    assert found_problem(unknown)["pointer"] == "/actions/2"


def test_azures_client_understands_refusals(api_url: str, api: httpx.Client, fresh: str) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    with pytest.raises(ErrorResponseException) as refused:
        personalizer.rank(RankRequest(actions=[ACTIONS[0], ACTIONS[0]]))
    assert message_of(refused.value) == ("BadRequest", "/actions/1/id: 'short' is there twice.")
    with pytest.raises(HttpOperationError, match="Not Found"):
        personalizer.events.reward(uuid4().hex, 1.0)
    stranger = client_of(api_url, "psk_nobody_knows")
    with pytest.raises(ErrorResponseException) as unknown:
        stranger.rank(RankRequest(actions=ACTIONS))
    assert message_of(unknown.value) == ("BadRequest", "The API key is not valid.")


def test_which_environment_must_be_known(api: httpx.Client) -> None:
    refused = api.post("/personalizer/v1.0/rank", json={"actions": [{"id": "a", "features": []}]})
    assert "X-Psharelora-Environment" in found_problem(refused)["detail"]


def test_an_expired_event_is_gone_and_swept_away(
    api_url: str, api: httpx.Client, fresh: str, database_url: str
) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    old = personalizer.rank(RankRequest(actions=ACTIONS)).event_id
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE ranked_events SET expires_at = now() - interval '1s' WHERE event_id = %s", [old])
    with pytest.raises(HttpOperationError, match="Not Found"):
        personalizer.events.reward(old, 1.0)
    personalizer.rank(RankRequest(actions=ACTIONS))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT count(*) FROM ranked_events WHERE event_id = %s", [old]).fetchone()
    assert rows == (0,)


def test_erasing_a_user_erases_what_was_shown_to_them(
    api_url: str, api: httpx.Client, fresh: str, database_url: str
) -> None:
    personalizer = client_with_key(api, api_url, fresh)
    personalizer.rank(RankRequest(actions=ACTIONS, context_features=[{"user": "ada"}]))
    api.delete(f"/v1/environments/{fresh}/users/ada")
    with psycopg.connect(database_url) as connection:
        query = "SELECT count(*) FROM ranked_events r JOIN environments e ON e.id = r.environment_id WHERE e.name = %s"
        assert connection.execute(query, [fresh]).fetchone() == (0,)
