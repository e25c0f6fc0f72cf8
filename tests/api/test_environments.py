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
