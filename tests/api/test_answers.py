"""Answers that rest on a model: the real worker fits it from preferences that were sent over HTTP."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psycopg
import pytest

from app.serving.planning import DEFAULT_PESSIMISM
from tests.support.api import Json, client_for, found_problem, problem, serving
from tests.support.worker import working

ITEMS = np.array([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
N_USERS = 12
ON_REQUEST = {"min_new_preferences": 1_000_000}


def wait_for(api: httpx.Client, refit: str) -> Json:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found: Json = api.get(f"/v1/admin/refits/{refit}").json()
        if found["state"] not in {"queued", "running"}:
            return found
        time.sleep(0.05)
    raise AssertionError("the refit did not end")


def retrained(api: httpx.Client, environment: str) -> Json:
    ended = wait_for(api, api.post(f"/v1/admin/environments/{environment}/retrain").json()["id"])
    assert (ended["state"], ended["error"]) == ("succeeded", None)
    return ended


def answers_about_items(rng: np.random.Generator) -> list[Json]:
    """Even users like the first feature, odd ones dislike it."""
    said = []
    for number in range(N_USERS * 24):
        user = number % N_USERS
        one, other = rng.choice(len(ITEMS), 2, replace=False)
        gain = (ITEMS[one] - ITEMS[other]) @ [2.0 if user % 2 == 0 else -2.0, 0.5]
        if rng.random() > 1 / (1 + np.exp(-gain)):
            one, other = other, one
        said.append({"user": f"u{user}", "chosen": {"item": f"i{one}"}, "rejected": {"item": f"i{other}"}})
    return said


def answers_about_courses(rng: np.random.Generator) -> list[Json]:
    """Even users like being away, odd ones like being at home."""
    courses = [
        [["home", "stay"], ["home", "stay"]],
        [["home", "go"], ["away", "stay"]],
        [["home", "stay"], ["home", "go"]],
        [["home", "go"], ["away", "go"]],
    ]
    said = []
    for number in range(N_USERS * 24):
        user = number % N_USERS
        one, other = rng.choice(len(courses), 2, replace=False)
        liked = {True: "away", False: "home"}[user % 2 == 0]
        gain = 4.0 * (visits(courses[one], liked) - visits(courses[other], liked))
        if rng.random() > 1 / (1 + np.exp(-gain)):
            one, other = other, one
        sides = {"chosen": {"trajectory": courses[one]}, "rejected": {"trajectory": courses[other]}}
        said.append({"user": f"u{user}", **sides})
    return said


def visits(course: list[list[str]], liked: str) -> int:
    return sum(state == liked for state, _ in course)


@pytest.fixture(scope="module")
def fitted(api: httpx.Client, database_url: str) -> Iterator[tuple[str, str]]:
    """The names of a fitted catalogue and a fitted MDP."""
    catalog, mdp = f"fitted-{uuid4().hex}", f"fitted-{uuid4().hex}"
    rng = np.random.default_rng(11)
    api.put(f"/v1/environments/{catalog}", json={"kind": "catalog", "item_dim": 2, "rank": 1, "refit": ON_REQUEST})
    items = [{"id": f"i{index}", "features": row} for index, row in enumerate(ITEMS.tolist())]
    api.put(f"/v1/environments/{catalog}/items", json={"items": items})
    definition: Json = {
        "kind": "mdp",
        "states": ["home", "away", "gone"],
        "terminal": ["gone"],
        "actions": ["stay", "go"],
        "horizon": 2,
        "refit": ON_REQUEST,
        "initial": [1.0, 0.0, 0.0],
        "rank": 1,
        "transitions": [[s, a, (s + a) % 2, 1.0] for s in range(2) for a in range(2)],
    }
    api.put(f"/v1/environments/{mdp}", json=definition)
    for name, said in ((catalog, answers_about_items(rng)), (mdp, answers_about_courses(rng))):
        assert api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201
    with working(database_url):
        for name in (catalog, mdp):
            retrained(api, name)
        yield catalog, mdp


def asked(api: httpx.Client, environment: str, user: str, what: str, body: Json) -> Json:
    response = api.post(f"/v1/environments/{environment}/users/{user}/{what}", json=body)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def test_rewards_are_answered_in_order_with_their_intervals(api: httpx.Client, fitted: tuple[str, str]) -> None:
    options = [{"item": "i7"}, {"item": "i1"}, {"features": [0.0, 0.0]}]
    answer = asked(api, fitted[0], "u0", "rewards", {"options": options})
    assert answer.keys() == {"model_version", "feedback_seen", "rewards"}
    assert (answer["model_version"], answer["feedback_seen"]) == (1, 24)
    good, bad, middle = answer["rewards"]
    for one in answer["rewards"]:
        assert one.keys() == {"reward", "stderr", "lower", "upper"}
        assert one["lower"] <= one["reward"] <= one["upper"]
    assert good["reward"] > 0 > bad["reward"]
    # The catalogue's mean is the reference.
    assert middle["reward"] == pytest.approx(0, abs=0.1)
    whole = asked(api, fitted[0], "u0", "rewards", {"options": [{"item": f"i{index}"} for index in range(len(ITEMS))]})
    assert np.mean([one["reward"] for one in whole["rewards"]]) == pytest.approx(0, abs=1e-6)
    other = asked(api, fitted[0], "u1", "rewards", {"options": options})["rewards"]
    assert other[0]["reward"] < other[1]["reward"]


def test_a_ranking_is_the_rewards_sorted(api: httpx.Client, fitted: tuple[str, str]) -> None:
    options = [{"item": "i0"}, {"features": [1.0, 1.0]}, {"item": "i4"}]
    rewards = asked(api, fitted[0], "u0", "rewards", {"options": options})["rewards"]
    for by, key in (("mean", "reward"), ("lower", "lower")):
        answer = asked(api, fitted[0], "u0", "rank", {"options": options, "by": by})
        order = sorted(range(3), key=lambda index: -rewards[index][key])
        assert answer.pop("options") == [{**rewards[i], "option": options[i], "index": i} for i in order]
        assert answer == {"model_version": 1, "feedback_seen": 24, "by": by}


def test_without_options_the_catalogue_is_ranked(api: httpx.Client, fitted: tuple[str, str]) -> None:
    everything = asked(api, fitted[0], "u0", "rank", {})["options"]
    best = asked(api, fitted[0], "u0", "rank", {"top_n": 2})["options"]
    assert len(everything) == len(ITEMS)
    assert best == everything[:2]
    assert best[0]["index"] is None
    assert ITEMS[int(best[0]["option"]["item"][1:])][0] == 1.0


def test_several_users_are_one_call(api: httpx.Client, fitted: tuple[str, str]) -> None:
    users, options = ["u0", "u1", "a-stranger"], [{"item": "i7"}, {"features": [0.0, 0.5]}]
    body = {"users": users, "options": options}
    several = api.post(f"/v1/environments/{fitted[0]}/rewards", json=body).json()["answers"]
    assert [one.pop("user") for one in several] == users
    assert several == [asked(api, fitted[0], user, "rewards", {"options": options}) for user in users]
    ranked = api.post(f"/v1/environments/{fitted[0]}/rank", json={"users": users, "top_n": 3}).json()["answers"]
    assert [one.pop("user") for one in ranked] == users
    for user, one in zip(users, ranked, strict=True):
        alone = asked(api, fitted[0], user, "rank", {"top_n": 3})
        assert [place["option"] for place in one["options"]] == [place["option"] for place in alone["options"]]
    refused = api.post(f"/v1/environments/{fitted[0]}/rank", json={"users": users})
    assert found_problem(refused)["pointer"] == "/users"


def test_usual_bodies_are_answered_as_the_declared_way_answers_them(api: httpx.Client, fitted: tuple[str, str]) -> None:
    """A parameter of the content type is unusual, and takes the declared way."""
    bodies: list[tuple[str, Json]] = [
        ("rewards", {"options": [{"item": f"i{index}"} for index in (7, 1, 7)]}),
        ("rank", {"options": [{"item": f"i{index}"} for index in (0, 8, 4, 2)], "top_n": 2, "by": "lower"}),
        ("rank", {"top_n": 4}),
        ("rank", {"by": "lower"}),
    ]
    for what, body in bodies:
        for user in ("u0", "u5", "a-stranger"):
            path = f"/v1/environments/{fitted[0]}/users/{user}/{what}"
            declared = api.post(
                path, content=json.dumps(body), headers={"Content-Type": "application/json; charset=utf-8"}
            )
            found = api.post(path, json=body)
            assert found.headers["content-type"] == declared.headers["content-type"]
            assert_alike(found.json(), declared.json())


def assert_alike(one: Any, other: Any) -> None:
    """The same document, with the same order of fields, but for rounding."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    else:
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


def test_a_token_that_is_none_of_ours_is_refused(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path, body = f"/v1/environments/{fitted[0]}/users/u0/rewards", {"options": [{"item": "i1"}]}
    for content_type in ("application/json", "application/json; charset=utf-8"):
        headers = {"Consistency-Token": "yesterday", "Content-Type": content_type}
        detail = "header Consistency-Token: expected a token that an acknowledgement gave; found another."
        refused = api.post(path, content=json.dumps(body), headers=headers)
        assert found_problem(refused) == problem("invalid-input", 422, detail)


def test_an_unknown_user_is_served_the_population(api: httpx.Client, fitted: tuple[str, str]) -> None:
    body = {"options": [{"item": "i0"}, {"item": "i8"}]}
    one = asked(api, fitted[0], "never-heard-of", "rewards", body)
    assert (one["feedback_seen"], one) == (0, asked(api, fitted[0], "nor-of-this-one", "rewards", body))


def test_feedback_is_in_the_next_answer(api: httpx.Client, fitted: tuple[str, str]) -> None:
    user = f"new-{uuid4().hex}"
    path = f"/v1/environments/{fitted[0]}/preferences"
    body = {"options": [{"item": "i7"}]}
    before = asked(api, fitted[0], user, "rewards", body)["rewards"][0]
    for count in range(1, 7):
        api.post(path, json={"user": user, "chosen": {"item": "i7"}, "rejected": {"item": "i1"}})
        answer = asked(api, fitted[0], user, "rewards", body)
        assert answer["feedback_seen"] == count
        assert answer["rewards"][0]["reward"] > before["reward"]
        before = answer["rewards"][0]
    read = api.get(f"/v1/environments/{fitted[0]}/users/{user}").json()
    assert read.pop("first_at") <= read.pop("last_at")
    assert read["adapter"].pop("iterations") >= 1
    assert read == {
        "user": user,
        "feedback_count": 6,
        "model_version": 1,
        "adapter": {"rank": 1, "feedback_seen": 6, "converged": True},
    }


def test_queries_are_pairs_that_can_be_answered(api: httpx.Client, fitted: tuple[str, str]) -> None:
    answer = api.get(f"/v1/environments/{fitted[0]}/users/u0/queries", params={"n": 3}).json()
    assert (answer["model_version"], answer["feedback_seen"], len(answer["queries"])) == (1, 24, 3)
    for query in answer["queries"]:
        assert query.keys() == {"first", "second", "information", "probability"}
        assert query["first"] != query["second"]
        assert query["information"] > 0
        body = {"options": [query["first"], query["second"]]}
        assert len(asked(api, fitted[0], "u0", "rewards", body)["rewards"]) == 2


def test_a_policy_comes_with_its_certificate(api: httpx.Client, fitted: tuple[str, str]) -> None:
    answer = api.get(f"/v1/environments/{fitted[1]}/users/u0/policy").json()
    assert (answer["states"], answer["actions"]) == (["home", "away", "gone"], ["stay", "go"])
    assert np.array(answer["policy"]).shape == (2, 3, 2)
    assert np.array(answer["policy"])[:, :2].sum(axis=2) == pytest.approx(1)
    assert np.array(answer["policy"])[:, 2] == pytest.approx(0)
    assert [step[2] for step in answer["greedy"]] == [None, None]
    assert (answer["converged"], answer["feedback_seen"]) == (True, 24)
    assert (answer["set"], answer["confidence"]) == (DEFAULT_PESSIMISM.set, DEFAULT_PESSIMISM.confidence)
    assert 0 <= answer["lower"] <= answer["upper"]
    assert answer["lower"] <= answer["nominal"] <= answer["greedy_nominal"] + 1e-9
    assert answer["gap"] == pytest.approx(answer["upper"] - answer["lower"])
    trusting = api.get(f"/v1/environments/{fitted[1]}/users/u0/policy", params={"confidence": 0}).json()
    assert (trusting["beta"], trusting["greedy"][0][0]) == (0, "go")
    assert trusting["lower"] == pytest.approx(trusting["nominal"])
    assert trusting["lower"] > answer["lower"]
    other = api.get(f"/v1/environments/{fitted[1]}/users/u1/policy", params={"confidence": 0}).json()
    assert other["greedy"][0][0] == "stay"


def test_an_action_is_the_policys_and_sampled_by_seed(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[1]}/users/u0/actions"
    asking: Json = {"step": 0, "seed": 3, "confidence": 0}
    answer = api.get(path, params={**asking, "state": "home"}).json()
    policy = api.get(f"/v1/environments/{fitted[1]}/users/u0/policy", params={"confidence": 0}).json()
    assert answer["distribution"] == dict(zip(["stay", "go"], policy["policy"][0][0], strict=True))
    assert (answer["state"], answer["step"], answer["greedy"]) == ("home", 0, "go")
    assert answer["sampled"] in {"stay", "go"}
    assert api.post(path, json={**asking, "state": 0}).json() == answer
    assert api.get(path, params={**asking, "state": "0"}).json() == answer
    for name in ("model_version", "confidence", "lower", "upper", "gap", "nominal", "beta"):
        assert answer[name] == policy[name]


def test_sets_are_asked_for_by_name(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[1]}/users/u0/policy"
    joint = api.get(path, params={"confidence": 0.9}).json()
    asked_for = api.get(path, params={"confidence": 0.9, "set": "ellipsoid"}).json()
    assert (joint["set"], joint) == ("ellipsoid", asked_for)
    one = api.get(path, params={"set": "credible"}).json()
    assert (one["set"], one["confidence"]) == ("credible", 0.95)
    assert one["beta"] == pytest.approx(1.6449, abs=1e-4)
    trusting = api.get(path, params={"set": "credible", "confidence": 0.5}).json()
    assert trusting["beta"] == pytest.approx(0.0, abs=1e-9)
    assert trusting["lower"] >= max(joint["lower"], one["lower"])
    assert api.get(path, params={"set": "sphere"}).status_code == 422


def test_several_states_are_one_call(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[1]}/users/u0/actions"
    places: list[Json] = [{"state": "home", "step": 0}, {"state": "away", "step": 1}, {"state": 0, "step": 1}]
    answer = api.post(f"{path}/batch", json={"places": places, "confidence": 0.5, "seed": 1}).json()
    alone = [api.post(path, json={**place, "confidence": 0.5, "seed": 1}).json() for place in places]
    assert answer == {"actions": alone}
    refused = api.post(f"{path}/batch", json={"places": [{"state": "nowhere"}]})
    assert (refused.status_code, "nowhere" in found_problem(refused)["detail"]) == (422, True)


def test_a_slate_is_a_robust_choice_of_several_items(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[0]}/users/u0"
    trusting = api.post(f"{path}/slates", json={"size": 3, "confidence": 0}).json()
    ranked = [one["option"]["item"] for one in asked(api, fitted[0], "u0", "rank", {"top_n": 3})["options"]]
    assert sorted(trusting["best"]) == sorted(ranked)
    assert trusting["lower"] == pytest.approx(trusting["greedy_nominal"])
    robust = api.post(f"{path}/slates", json={"size": 3, "confidence": 0.95, "seed": 1}).json()
    assert 0 <= robust["lower"] <= robust["upper"] <= trusting["lower"] + 1e-9
    assert robust["best_lower"] <= robust["lower"] + 1e-9
    assert robust["greedy_lower"] <= robust["upper"] + 1e-9
    assert sum(one["probability"] for one in robust["slates"]) + robust["any_items"] == pytest.approx(1)
    assert len(set(robust["sampled"])) == 3
    assert api.post(f"{path}/slates", json={"size": 3, "confidence": 0.95, "seed": 1}).json() == robust
    # A slate of one is the choice of an action.
    one = api.post(f"{path}/slates", json={"size": 1, "confidence": 0.9}).json()
    action = api.post(f"{path}/actions", json={"confidence": 0.9}).json()
    assert one["lower"] == pytest.approx(action["lower"], abs=1e-3)
    for wrong, pointer in (({"size": 10}, "/size"), ({"size": 2, "set": "likelihood_ratio"}, "/set")):
        refused = api.post(f"{path}/slates", json=wrong)
        assert (refused.status_code, found_problem(refused)["pointer"]) == (422, pointer)
    assert api.post(f"/v1/environments/{fitted[1]}/users/u0/slates", json={"size": 1}).status_code == 422


def test_an_action_is_explained(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[1]}/users/u0/actions"
    why = api.post(f"{path}/explanation", json={"state": "home", "n": 2}).json()
    done = api.get(path, params={"state": "home"}).json()
    assert (why["action"], why["lower"], why["upper"]) == (done["greedy"], done["lower"], done["upper"])
    assert why["next_best"] == {"stay": "go", "go": "stay"}[why["action"]]
    assert why["over_next_best"].keys() == {"robust", "estimate", "caution", "stderr"}
    assert why["population"] + why["own"] == pytest.approx(why["over_reference"]["estimate"])
    assert [one["preference"]["user"] for one in why["comparisons"]] == ["u0", "u0"]
    other = api.post(f"{path}/explanation", json={"state": "home", "action": why["next_best"]}).json()
    assert other["over_next_best"]["estimate"] == pytest.approx(-why["over_next_best"]["estimate"])
    refused = api.post(f"{path}/explanation", json={"state": "home", "action": "fly"})
    assert (refused.status_code, found_problem(refused)["pointer"]) == (422, "/action")
    item = api.post(f"/v1/environments/{fitted[0]}/users/u0/actions/explanation", json={"confidence": 0}).json()
    assert item["action"] == asked(api, fitted[0], "u0", "rank", {"top_n": 1})["options"][0]["option"]["item"]
    assert item["over_next_best"]["caution"] == 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"state": "nowhere", "step": 0}, "has no state 'nowhere'"),
        ({"state": "home", "step": 2}, "it must be from 0 to 1"),
        ({"state": "home", "step": -1}, "query parameter step"),
        ({"state": "home", "confidence": "nan"}, "query parameter confidence"),
    ],
)
def test_a_bad_state_or_step_is_refused(
    api: httpx.Client, fitted: tuple[str, str], parameters: dict[str, Any], words: str
) -> None:
    response = api.get(f"/v1/environments/{fitted[1]}/users/u0/actions", params=parameters)
    assert (response.status_code, found_problem(response)["code"]) == (422, "invalid-input")
    assert words in found_problem(response)["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"options": []}, "/options"),
        ({"options": [{"item": "zz"}]}, "/options/0/item"),
        ({"options": [{"item": "i0"}, {"features": [1.0]}]}, "/options/1/features"),
        ({"options": [{"item": "i0"}], "context": {"features": [1.0]}}, "/context"),
        ({"options": [{"item": "i0"}], "kontext": 1}, "/kontext"),
    ],
)
def test_bad_options_are_refused_with_the_place(
    api: httpx.Client, fitted: tuple[str, str], body: Json, pointer: str
) -> None:
    response = api.post(f"/v1/environments/{fitted[0]}/users/u0/rewards", json=body)
    assert (response.status_code, found_problem(response)["pointer"]) == (422, pointer)


def test_before_the_first_refit_there_is_no_answer_yet(api: httpx.Client, catalog: str) -> None:
    response = api.post(f"/v1/environments/{catalog}/users/u/rewards", json={"options": [{"item": "a"}]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert found_problem(response)["code"] == "model-not-ready"
    assert f"POST /v1/admin/environments/{catalog}/retrain" in found_problem(response)["detail"]
    read = api.get(f"/v1/environments/{catalog}/users/u").json()
    assert read == {
        "user": "u",
        "feedback_count": 0,
        "first_at": None,
        "last_at": None,
        "model_version": None,
        "adapter": None,
    }


def test_models_are_listed_examined_and_promoted(api: httpx.Client, fitted: tuple[str, str]) -> None:
    retrained(api, fitted[1])
    path = f"/v1/admin/environments/{fitted[1]}/models"
    newest, oldest = api.get(path).json()["models"]
    assert (newest["version"], oldest["version"]) == (2, 1)
    assert api.get(f"{path}/1").json() == oldest
    assert (oldest["environment"], oldest["rank"]) == (fitted[1], 1)
    assert (oldest["n_users"], oldest["n_preferences"]) == (12, 288)
    assert {"singular_values", "nu"} <= oldest["diagnostics"].keys()
    assert {"global", "new"} <= oldest["metrics"].keys()

    promoted = api.post(f"{path}/1/promote").json()
    assert (promoted["version"], promoted["status"]) == (1, "published")
    assert api.get(f"/v1/environments/{fitted[1]}").json()["model_version"] == 1
    assert api.get(f"/v1/environments/{fitted[1]}/users/u0/policy").json()["model_version"] == 1


def test_a_refit_that_has_ended_cannot_be_cancelled(api: httpx.Client, fitted: tuple[str, str]) -> None:
    (first, *_) = api.get(f"/v1/admin/environments/{fitted[0]}/refits").json()["refits"]
    response = api.post(f"/v1/admin/refits/{first['id']}/cancel")
    detail = f"Refit {first['id']} has succeeded; there is nothing to cancel."
    assert found_problem(response) == problem("refit-state", 409, detail)


def test_an_erased_user_is_served_the_population_and_a_refit_is_asked_for(
    api: httpx.Client, fitted: tuple[str, str]
) -> None:
    path = f"/v1/environments/{fitted[0]}/users/u11"
    receipt = api.delete(path).json()
    refit, owed = receipt.pop("refit"), receipt.pop("owed")
    assert receipt == {
        "user": "u11",
        "preferences_erased": 24,
        "events_erased": 0,
        "adapters_erased": 1,
        "note": "What all users share in model version 1 still rests on this user's preferences until the refit that "
        "was asked for has published a new version.",
    }
    assert owed.pop("model_version") == 1
    assert all(bound > 0 for bound in owed.values())
    assert owed.keys() == {"subspace_distance", "standard_errors"}
    assert asked(api, fitted[0], "u11", "rewards", {"options": [{"item": "i0"}]})["feedback_seen"] == 0
    assert wait_for(api, refit)["state"] == "succeeded"
    assert api.get(f"{path}/export").text == ""
    none = dict.fromkeys(("preferences_erased", "events_erased", "adapters_erased"), 0)
    nothing = {"user": "u11", **none, "refit": None, "owed": None, "note": "Nothing was stored of this user."}
    assert api.delete(path).json() == nothing


def test_a_corrupt_model_is_not_served(api: httpx.Client, database_url: str, fitted: tuple[str, str]) -> None:
    """A process that has the model in memory serves on; one that has to load it finds out."""
    name = f"corrupt-{uuid4().hex}"
    api.put(f"/v1/environments/{name}", json={"kind": "catalog", "item_dim": 2, "rank": 1, "refit": ON_REQUEST})
    items = [{"id": f"i{index}", "features": row} for index, row in enumerate(ITEMS.tolist())]
    api.put(f"/v1/environments/{name}/items", json={"items": items})
    said = answers_about_items(np.random.default_rng(5))
    assert api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201
    retrained(api, name)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE model_arrays SET data = overlay(data PLACING '\\xffff'::bytea FROM 1) "
            "WHERE environment_id = (SELECT id FROM environments WHERE name = %s)",
            [name],
        )
    with serving(database_url) as url, client_for(url) as fresh:
        response = fresh.post(f"/v1/environments/{name}/users/u0/rewards", json={"options": [{"item": "i0"}]})
        # Nor is it a reason to keep anybody.
        erased = fresh.delete(f"/v1/environments/{name}/users/u0").json()
    assert (erased["preferences_erased"], erased["owed"]) == (24, None)
    assert (response.status_code, found_problem(response)["code"]) == (500, "corrupt-model")


PLANNED = ("likelihood_ratio", "ellipsoid", "frobenius")


def all_answers(api: httpx.Client, fitted: tuple[str, str], user: str, names: list[Json] | None = None) -> list[Json]:
    """Everything that can be asked again: as it is now, or as it was in the answers named."""
    catalog, mdp = (f"/v1/environments/{name}/users/{user}" for name in fitted)
    options = [{"item": "i0"}, {"item": "i5"}, {"features": [0.3, -0.7]}]
    calls: list[tuple[str, str, Json | None]] = [
        ("POST", f"{catalog}/rewards", {"options": options[:2]}),
        ("POST", f"{catalog}/rewards", {"options": options}),
        ("POST", f"{catalog}/rank", {"top_n": 4}),
        ("POST", f"{catalog}/slates", {"size": 2, "seed": 1}),
        ("GET", f"{mdp}/policy", None),
        # Each search begins from the plan before.
        *(("GET", f"{mdp}/policy?set={kind}&confidence={level}", None) for kind in PLANNED for level in (0.5, 0.9)),
        ("GET", f"{mdp}/actions?state=home&step=1&seed=3", None),
        ("POST", f"{mdp}/actions", {"state": "away", "confidence": 0.5, "seed": 3}),
    ]
    found = []
    for index, (method, path, body) in enumerate(calls):
        named: Json = {} if names is None else {key: names[index][key] for key in ("model_version", "feedback_seen")}
        query: Json = dict(httpx.URL(path).params.items())
        query |= named
        response = api.request(method, path.partition("?")[0], params=query, json=body)
        assert response.status_code == 200, response.text
        found.append(response.json())
    return found


OF_EQUALLY_GOOD_PLANS = {
    "lower", "upper", "gap", "nominal", "policy", "greedy", "distribution", "sampled", "converged", "reason"
}  # fmt: skip
"""What plans that are all certified may differ in; a busy machine's time is over sooner."""


def settle(api: httpx.Client, fitted: tuple[str, str]) -> None:
    """Until answers rest on the newest versions, published or not: those that are loaded aside."""
    for name, what, body in zip(fitted, ("rank", "actions"), ({}, {"state": "home"}), strict=True):
        newest = api.get(f"/v1/admin/environments/{name}/models").json()["models"][0]["version"]
        api.post(f"/v1/admin/environments/{name}/models/{newest}/promote")
        deadline = time.monotonic() + 30
        while asked(api, name, "u2", what, body)["model_version"] != newest:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def same(one: Any, other: Any) -> bool:
    """Numbers to what a fold-in's tolerance leaves open; of a plan, what is certified."""
    match one:
        case {"gap": gap, "policy": _} | {"gap": gap, "distribution": _}:
            apart = max(gap, other["gap"]) + 2e-4
            certified = all(abs(one[key] - other[key]) <= apart for key in ("lower", "upper"))
            return certified and all(same(one[key], other[key]) for key in one.keys() - OF_EQUALLY_GOOD_PLANS)
        case dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list():
            return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
        case float():
            return bool(np.isclose(one, other, rtol=1e-5, atol=2e-4))
        case _:
            return bool(one == other)


def test_any_answer_is_given_again_by_what_it_named(
    api: httpx.Client, database_url: str, fitted: tuple[str, str]
) -> None:
    """Also by a process that has never planned for anybody, and so begins elsewhere."""
    catalog, mdp = fitted
    pairs: dict[str, Json] = {
        catalog: {"chosen": {"item": "i8"}, "rejected": {"item": "i0"}},
        mdp: {
            "chosen": {"trajectory": [["home", "stay"], ["home", "stay"]]},
            "rejected": {"trajectory": [["home", "go"], ["away", "stay"]]},
        },
    }
    given: dict[str, list[list[Json]]] = {"u2": [], "newcomer": []}
    settle(api, fitted)
    for _ in range(2):
        for user, told in given.items():
            told.append(all_answers(api, fitted, user))
            for name, pair in pairs.items():
                said = [{"user": user, **pair}] * 3
                assert api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201
    for name in fitted:
        retrained(api, name)
    settle(api, fitted)
    for user, told in given.items():
        now = all_answers(api, fitted, user)
        with serving(database_url) as url, client_for(url) as fresh:
            again = [all_answers(fresh, fitted, user, then) for then in reversed(told)]
        for then, repeated in zip(reversed(told), again, strict=True):
            for a, b, c in zip(then, repeated, now, strict=True):
                assert same(a, b), {key: (a[key], b[key]) for key in a if not same(a[key], b[key])}
                assert a["model_version"] < c["model_version"]
        assert not same(told[0][1]["rewards"], now[1]["rewards"])


def test_what_cannot_be_given_again_is_said(api: httpx.Client, fitted: tuple[str, str]) -> None:
    path = f"/v1/environments/{fitted[0]}/users/u4/rank"
    version = api.post(path, json={}).json()["model_version"]
    half = api.post(path, json={}, params={"model_version": 1})
    detail = "query parameter feedback_seen: an answer is given again by both of its names."
    assert found_problem(half) == problem("invalid-input", 422, detail)
    unknown = api.post(path, json={}, params={"model_version": 99, "feedback_seen": 0})
    assert unknown.status_code == 404
    more = api.post(path, json={}, params={"model_version": version, "feedback_seen": 1000})
    detail = f"User 'u4' of environment '{fitted[0]}' has said 24 things, and not 1000."
    assert found_problem(more) == problem("not-found", 404, detail)
    # A version that rested on somebody who was erased is gone.
    assert wait_for(api, api.delete(f"/v1/environments/{fitted[0]}/users/u5").json()["refit"])["state"] == "succeeded"
    gone = api.post(path, json={}, params={"model_version": version, "feedback_seen": 24})
    detail = f"Version {version} of environment '{fitted[0]}' was emptied: it rested on an erased user."
    assert found_problem(gone) == problem("refit-state", 409, detail)
