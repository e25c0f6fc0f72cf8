"""Explanations over HTTP: of texts, of items and of decision processes."""

from uuid import uuid4

import httpx
import pytest

from tests.support.api import Json, found_problem
from tests.support.replies import KIND, ON_REQUEST, SHORT, refit
from tests.support.worker import working


def explained(api: httpx.Client, environment: str, user: str, **asked: str | int) -> Json:
    answer = api.get(f"/v1/environments/{environment}/users/{user}/explain", params=asked)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def test_the_reward_is_told_beside_the_populations_and_what_moved_it(api: httpx.Client, replies: str) -> None:
    found = explained(api, replies, "u0", text=SHORT[0], n=3)
    path = f"/v1/environments/{replies}/users"
    for user, field in (("u0", "reward"), ("nobody", "population")):
        direct = api.post(f"{path}/{user}/rewards", json={"options": [{"text": SHORT[0]}]}).json()["rewards"][0]
        assert found[field] == pytest.approx(direct["reward"], abs=1e-9)  # which is told with nine decimals
    moved = [one["moved"] for one in found["comparisons"]]
    assert len(moved) == 3
    assert [abs(by) for by in moved] == sorted((abs(by) for by in moved), reverse=True)
    assert moved[0] > 0
    assert found["comparisons"][0]["chosen"]["text"] in SHORT
    assert found["comparisons"][0]["words"].endswith(f"raised it by {moved[0]:.2f}")
    (direction,) = found["directions"]
    # What is personal about a reward is what its directions add.
    assert direction["moved"] == pytest.approx(found["reward"] - found["population"])
    assert all(option["text"] in SHORT for option in direction["towards"])
    assert all(option["text"] in KIND for option in direction["away"])
    assert "'Yes.'" not in found["words"]
    assert found["words"].startswith(f'u0\'s reward of "Yes." is {found["reward"]:.2f}')


def test_people_of_opposite_tastes_stand_on_opposite_sides(api: httpx.Client, replies: str) -> None:
    places = [explained(api, replies, f"u{user}")["directions"][0]["position"] for user in (0, 1, 2, 3)]
    assert places[0] * places[2] > 0
    assert places[1] * places[3] > 0
    assert places[0] * places[1] < 0


def test_without_an_option_it_is_what_the_user_likes_most(api: httpx.Client, replies: str) -> None:
    assert explained(api, replies, "u0")["option"]["text"] in SHORT


def test_a_removed_answer_takes_about_its_influence_with_it(api: httpx.Client, replies: str) -> None:
    """By the service itself: the same answers but one, from another user."""
    told = explained(api, replies, "u0", text=SHORT[0], n=1)
    said = api.get(f"/v1/environments/{replies}/users/u0/export?format=json").json()["preferences"]
    first = told["comparisons"][0]
    at = next(
        i for i, one in enumerate(said) if (one["chosen"], one["rejected"]) == (first["chosen"], first["rejected"])
    )
    twin = f"twin-{uuid4().hex}"
    others = [{**one, "user": twin} for index, one in enumerate(said) if index != at]
    api.post(f"/v1/environments/{replies}/preferences", json={"preferences": others})
    path = f"/v1/environments/{replies}/users/{twin}/rewards"
    without = api.post(path, json={"options": [{"text": SHORT[0]}]}).json()["rewards"][0]["reward"]
    api.delete(f"/v1/environments/{replies}/users/{twin}")
    assert told["reward"] - without == pytest.approx(first["moved"], rel=0.5)


def test_somebody_nobody_has_heard_of_is_the_average(api: httpx.Client, replies: str) -> None:
    found = explained(api, replies, "nobody", text=SHORT[0])
    assert (found["comparisons"], found["feedback_seen"]) == ([], 0)
    assert found["reward"] == found["population"]
    assert [one["position"] for one in found["directions"]] == [0]
    assert found["words"].endswith("nobody has not answered anything yet.")


def test_a_decision_process_is_explained_by_its_steps(api: httpx.Client, mdp: str, database_url: str) -> None:
    courses = [[["home", "go"], ["away", "stay"]], [["home", "stay"], ["home", "stay"]]]
    said = []
    for number in range(120):
        user = number % 6
        chosen, rejected = courses if user % 2 == 0 else courses[::-1]
        sides = {"chosen": {"trajectory": chosen}, "rejected": {"trajectory": rejected}}
        said.append({"user": f"u{user}", "label": 0.9, **sides})
    definition = api.get(f"/v1/environments/{mdp}").json()["definition"]
    api.put(f"/v1/environments/{mdp}", json={**definition, "rank": 1, "refit": ON_REQUEST})
    api.post(f"/v1/environments/{mdp}/preferences", json={"preferences": said})
    with working(database_url):
        refit(api, mdp)
    found = explained(api, mdp, "u0", state="home", action="go", n=2)
    assert found["option"] == {"state": "home", "action": "go"}
    assert len(found["comparisons"]) == 2
    assert all("rather than" in one["words"] for one in found["comparisons"])
    assert all(one.keys() == {"state", "action"} for one in found["directions"][0]["towards"])
    refused = api.get(f"/v1/environments/{mdp}/users/u0/explain", params={"state": "nowhere", "action": "go"})
    assert found_problem(refused)["code"] == "invalid-input"


@pytest.mark.parametrize("asked", [{"item": "a", "text": "b"}, {"state": "home"}])
def test_a_mixture_is_refused(api: httpx.Client, replies: str, asked: dict[str, str]) -> None:
    refused = api.get(f"/v1/environments/{replies}/users/u0/explain", params=asked)
    assert (refused.status_code, found_problem(refused)["code"]) == (422, "invalid-input")


def test_an_unknown_item_is_named(api: httpx.Client, replies: str) -> None:
    refused = api.get(f"/v1/environments/{replies}/users/u0/explain", params={"item": "nothing"})
    assert "nothing" in found_problem(refused)["detail"]
