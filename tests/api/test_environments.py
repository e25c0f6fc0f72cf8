import json
from typing import Any

import httpx
import pytest

from tests.support.api import Json, found_problem, problem

MDP: Json = {
    "kind": "mdp",
    "states": ["home", "away"],
    "actions": ["stay", "go"],
    "horizon": 2,
    "initial": [1.0, 0.0],
    "transitions": [
        ["home", "stay", "home", 1.0],
        ["home", "go", "away", 0.5],
        ["home", "go", "home", 0.5],
        ["away", "stay", "away", 1.0],
        ["away", 1, 0, 1],
    ],
}
DEFAULTS: Json = {"rank": "auto", "confidence": 0.95, "refit": {"every_seconds": 60.0, "min_new_preferences": 20}}


def test_a_catalogue_is_defined_once_and_read_back_complete(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    created = api.put(path, json={"kind": "catalog", "item_dim": 6, "rank": 3})
    again = api.put(path, json={"kind": "catalog", "item_dim": 6, "rank": 3})
    read = api.get(path)

    assert (created.status_code, again.status_code, read.status_code) == (201, 200, 200)
    assert created.json() == again.json() == read.json()
    body = read.json()
    assert body.pop("created_at").endswith("Z")
    assert body == {
        "name": environment_name,
        "kind": "catalog",
        "definition": {
            **DEFAULTS,
            "kind": "catalog",
            "rank": 3,
            "item_dim": 6,
            "context_dim": None,
            "encoder": None,
        },
        "n_items": 0,
        "n_users": 0,
        "n_preferences": 0,
        "model_version": None,
    }


def test_an_mdp_may_be_put_again_as_it_was_read(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    created = api.put(path, json=MDP)
    assert created.status_code == 201
    definition = created.json()["definition"]
    assert definition == {
        **DEFAULTS,
        "kind": "mdp",
        "states": ["home", "away"],
        "actions": ["stay", "go"],
        "horizon": 2,
        "initial": [1.0, 0.0],
        "transitions": [[0, 0, 0, 1.0], [0, 1, 1, 0.5], [0, 1, 0, 0.5], [1, 0, 1, 1.0], [1, 1, 0, 1.0]],
        "reference_policy": "uniform",
        "terminal": [],
        "unavailable": [],
        "state_features": None,
        "action_features": None,
        "rewards": "stationary",
    }
    again = api.put(path, json=definition)
    assert again.status_code == 200
    assert again.json() == created.json()


def test_transitions_and_reference_policy_may_differ_by_step(api: httpx.Client, environment_name: str) -> None:
    step = [[s, a, s, 1.0] for s in range(2) for a in range(2)]
    table = [[0.25, 0.75], [1.0, 0.0]]
    body = {"kind": "mdp", "states": 2, "actions": 2, "horizon": 2, "transitions": [step, step]}
    response = api.put(f"/v1/environments/{environment_name}", json={**body, "reference_policy": [table, table]})
    assert response.status_code == 201
    definition = response.json()["definition"]
    assert definition["transitions"] == [step, step]
    assert definition["reference_policy"] == [table, table]
    assert definition["initial"] == [0.5, 0.5]


def test_a_catalogue_of_texts_takes_the_encoders_width(api: httpx.Client, environment_name: str) -> None:
    response = api.put(f"/v1/environments/{environment_name}", json={"kind": "catalog", "encoder": "builtin"})
    assert response.status_code == 201
    assert response.json()["definition"]["item_dim"] == 256
    assert response.json()["definition"]["encoder"] == "builtin"


def test_environments_are_listed_and_deleted(api: httpx.Client, catalog: str) -> None:
    listed = {one["name"]: one for one in api.get("/v1/environments").json()["environments"]}
    read = api.get(f"/v1/environments/{catalog}").json()
    read.pop("definition")
    assert listed[catalog] == read
    assert read["n_items"] == 3

    deleted = api.delete(f"/v1/environments/{catalog}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    missing = problem("not-found", 404, f"There is no environment '{catalog}'.")
    assert found_problem(api.get(f"/v1/environments/{catalog}")) == missing
    assert found_problem(api.delete(f"/v1/environments/{catalog}")) == missing


def test_a_redefinition_may_not_change_what_preferences_mean(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}"
    preference = {"user": "u", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
    assert api.post(f"{path}/preferences", json=preference).status_code == 201

    changed = api.put(path, json={"kind": "catalog", "item_dim": 3})
    assert changed.status_code == 409
    assert found_problem(changed)["code"] == "conflict"
    assert found_problem(changed)["pointer"] == "/item_dim"
    assert "item_dim" in found_problem(changed)["detail"]

    allowed = api.put(path, json={"kind": "catalog", "item_dim": 2, "rank": 1, "confidence": 0.9})
    assert allowed.status_code == 200
    assert allowed.json()["definition"]["rank"] == 1
    assert allowed.json()["n_preferences"] == 1


LESSON: Json = {
    "kind": "mdp",
    "states": ["awake", "over"],
    "actions": ["study", "rest", "stop"],
    "horizon": 3,
    "initial": [1.0, 0.0],
    "transitions": [["awake", "study", "awake", 1.0], ["awake", "stop", "over", 1.0]],
    "terminal": ["over"],
    "unavailable": [["awake", "rest"]],
}


def test_terminal_states_and_unavailable_actions_are_kept(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    more = {"state_features": [[0.5, 1.0], [0.0, 0.0]], "action_features": [[1.0], [2.0], [3.0]], "rewards": "per_step"}
    created = api.put(path, json={**LESSON, **more})
    assert created.status_code == 201, created.text
    definition = created.json()["definition"]
    assert (definition["terminal"], definition["unavailable"]) == ([1], [[0, 1]])
    assert {name: definition[name] for name in more} == more
    assert api.put(path, json=definition).json() == created.json()


def test_a_trajectory_may_stop_where_the_episode_ends(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    assert api.put(path, json=LESSON).status_code == 201
    short, long = [["awake", "stop"]], [["awake", "study"], ["awake", "study"], ["awake", "stop"]]
    body = {"user": "u", "chosen": {"trajectory": short}, "rejected": {"trajectory": long}}
    assert api.post(f"{path}/preferences", json=body).status_code == 201
    (said,) = api.get(f"{path}/users/u/export").text.splitlines()
    assert json.loads(said)["chosen"] == {"trajectory": [[0, 2], [1, 0], [1, 0]]}
    # What was exported says the same, in whatever words the end is told.
    again = {**body, "chosen": json.loads(said)["chosen"], "id": "x"}
    assert api.post(f"{path}/preferences", json=again).json()["accepted"] == 1
    told = {**again, "chosen": {"trajectory": [*short, ["over", "rest"]]}}
    assert api.post(f"{path}/preferences", json=told).json()["duplicates"] == 1
    wrong = {
        "/chosen/trajectory/0/1": [["awake", "rest"], ["awake", "stop"]],
        "/chosen/trajectory/1": [["awake", "stop"], ["awake", "stop"]],
        "/chosen/trajectory/0": [["awake", "study"]],
        "/chosen/trajectory": [["awake", "study"]] * 4,
    }
    for pointer, trajectory in wrong.items():
        refused = api.post(f"{path}/preferences", json={**body, "chosen": {"trajectory": trajectory}})
        assert (refused.status_code, found_problem(refused)["pointer"]) == (422, pointer), refused.text


def test_what_ends_an_episode_gives_preferences_their_meaning(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    api.put(path, json=LESSON)
    body = {"user": "u", "chosen": {"trajectory": [["awake", "stop"]]},
            "rejected": {"trajectory": [["awake", "study"], ["awake", "stop"]]}}  # fmt: skip
    assert api.post(f"{path}/preferences", json=body).status_code == 201
    for change in ({"rewards": "per_step"}, {"state_features": [[1.0], [2.0]]}):
        refused = api.put(path, json={**LESSON, **change})
        assert (refused.status_code, found_problem(refused)["pointer"]) == (409, f"/{next(iter(change))}")
    free = [["awake", "rest", "awake", 1.0], *LESSON["transitions"]]
    assert api.put(path, json={**LESSON, "unavailable": [], "transitions": free}).status_code == 200


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"terminal": ["nowhere"]}, "/terminal/0", "there is no state"),
        ({"unavailable": [["awake"]]}, "/unavailable/0", "expected [state, action]"),
        ({"unavailable": [["awake", "fly"]]}, "/unavailable/0/1", "there is no action"),
        ({"unavailable": [["awake", 0], ["awake", 1], ["awake", 2]]}, "/unavailable", "left without any action"),
        ({"unavailable": []}, "/transitions", "sum to 0"),
        ({"terminal": []}, "/transitions", "out of state 1"),
        ({"transitions": [*LESSON["transitions"], ["over", 0, 0, 1.0]]}, "/transitions/2", "cannot be chosen"),
        ({"state_features": [[1.0]]}, "/state_features", "expected 2 rows, one a state"),
        ({"action_features": [[1.0]]}, "/action_features", "expected 3 rows, one an action"),
        ({"state_features": [[1.0], [1.0, 2.0]]}, "/state_features/1", "row 1 has 2 numbers"),
        ({"rewards": "monthly"}, "/rewards", "per_step"),
        ({"reference_policy": [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]}, "/reference_policy/0", "cannot be taken"),
        ({"rewards": "per_step", "rank": 9}, "/rank", "at most 8"),
    ],
)
def test_a_contradiction_is_named(
    api: httpx.Client, environment_name: str, change: Json, pointer: str, words: str
) -> None:
    refused = api.put(f"/v1/environments/{environment_name}", json={**LESSON, **change})
    assert (refused.status_code, found_problem(refused)["pointer"]) == (422, pointer), refused.text
    assert words in found_problem(refused)["detail"]


def without(name: str) -> Json:
    return {key: value for key, value in MDP.items() if key != name}


@pytest.mark.parametrize(
    ("definition", "pointer", "detail"),
    [
        ({"kind": "graph"}, "", 'the body: expected an object with "kind": "mdp" or "catalog"; found an object.'),
        ({"kind": ["mdp"]}, "", 'the body: expected an object with "kind": "mdp" or "catalog"; found an object.'),
        ({**MDP, "horizon": 0}, "/horizon", "/horizon: should be greater than or equal to 1; found 0."),
        (without("horizon"), "/horizon", "/horizon: is required, and missing."),
        ({**MDP, "colour": 1}, "/colour", "/colour: is not a field of this request."),
        (
            {**MDP, "states": "two"},
            "/states",
            '/states: expected a number of states or a list of their names; found "two".',
        ),
        ({**MDP, "states": ["home", "home"]}, "/states/1", 'states: "home" is listed twice.'),
        ({**MDP, "initial": [1.0]}, "/initial", "initial: expected 2 probabilities, one a state; found 1."),
        (
            {**MDP, "transitions": [["home", "fly", "away", 1.0]]},
            "/transitions/0/1",
            '/transitions/0/1: there is no action "fly"; expected a name, or an index from 0 to 1.',
        ),
        (
            {**MDP, "transitions": [["home", "go", 7, 1.0]]},
            "/transitions/0/2",
            "/transitions/0/2: there is no state 7; expected a name, or an index from 0 to 1.",
        ),
        (
            {**MDP, "transitions": [["home", "go", "away", 1.5]]},
            "/transitions/0/3",
            "/transitions/0/3: expected a probability from 0 to 1; found 1.5.",
        ),
        (
            {**MDP, "transitions": [["home", "go", "away"]]},
            "/transitions/0",
            "/transitions/0: expected [state, action, next state, probability]; found a list of 3.",
        ),
        (
            {**MDP, "transitions": [[[0, 0, 0, 1.0]], [[0, 0, 0, 1.0]], [[0, 0, 0, 1.0]]]},
            "/transitions",
            "transitions: expected one list of rows, or 2 of them, one a step; found 3.",
        ),
        (
            {**MDP, "reference_policy": [[0.5, 0.4], [1.0, 0.0]]},
            "/reference_policy/0",
            "/reference_policy/0: the probabilities sum to 0.9; they must sum to 1 within 1e-09.",
        ),
        (
            {**MDP, "reference_policy": [[0.5, 0.5]]},
            "/reference_policy",
            "/reference_policy: expected 2 rows, one a state; found a list of 1.",
        ),
        ({**MDP, "rank": 3}, "/rank", "rank: expected at most 2, the number of states; found 3."),
        ({**MDP, "horizon": 1_001}, "/horizon", "/horizon: should be less than or equal to 1000; found 1001."),
        ({**MDP, "states": 10_001}, "/states", "/states: should be less than or equal to 10000; found 10001."),
        (
            {**MDP, "states": 10_000, "actions": 10_000},
            "/horizon",
            "states x actions x horizon: expected at most 10,000,000; found 200,000,000.",
        ),
        (
            {"kind": "catalog", "item_dim": 4_097},
            "/item_dim",
            "/item_dim: should be less than or equal to 4096; found 4097.",
        ),
        ({**MDP, "confidence": 1}, "/confidence", "/confidence: should be less than 1; found 1."),
        ({"kind": "catalog"}, "/item_dim", "item_dim: is required where there is no encoder, and missing."),
        ({"kind": "catalog", "item_dim": "6"}, "/item_dim", '/item_dim: should be a valid integer; found "6".'),
        (
            {"kind": "catalog", "item_dim": 2, "rank": 3},
            "/rank",
            "rank: expected at most 2, the number of features; found 3.",
        ),
        (
            {"kind": "catalog", "item_dim": 6, "encoder": "builtin"},
            "/item_dim",
            "item_dim: expected 256, what the built-in encoder makes; found 6.",
        ),
    ],
)
def test_a_bad_definition_is_refused_with_the_place(
    api: httpx.Client, environment_name: str, definition: Any, pointer: str, detail: str
) -> None:
    response = api.put(f"/v1/environments/{environment_name}", json=definition)
    assert found_problem(response) == problem("invalid-input", 422, detail, pointer=pointer)
    assert api.get(f"/v1/environments/{environment_name}").status_code == 404


def test_transitions_that_do_not_sum_to_one_are_refused(api: httpx.Client, environment_name: str) -> None:
    rows = [[s, a, s, 1.0] for s in range(4) for a in range(2) if (s, a) != (3, 1)]
    body = {"kind": "mdp", "states": 4, "actions": 2, "horizon": 2, "transitions": [*rows, [3, 1, 0, 0.97]]}
    found = found_problem(api.put(f"/v1/environments/{environment_name}", json=body))
    assert found["status"] == 422
    assert found["pointer"].startswith("/transitions")
    assert found["detail"].startswith("transitions: the probabilities out of state 3, action 1, step 0 sum to 0.97; ")

    nothing_leaves = api.put(f"/v1/environments/{environment_name}", json={**body, "transitions": rows})
    assert nothing_leaves.status_code == 422
    assert "out of state 3, action 1" in found_problem(nothing_leaves)["detail"]


def test_a_first_offender_is_named_and_all_are_listed(api: httpx.Client, environment_name: str) -> None:
    response = api.put(f"/v1/environments/{environment_name}", json={**MDP, "horizon": 0, "colour": 1})
    errors = response.json()["errors"]
    assert [error["pointer"] for error in errors] == ["/horizon", "/colour"]
    assert response.json()["detail"] == errors[0]["detail"]
