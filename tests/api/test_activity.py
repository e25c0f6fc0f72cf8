import itertools
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.support.api import found_problem


def _say(api: httpx.Client, catalog: str, *users: str) -> None:
    said = [{"user": user, "chosen": {"item": "a"}, "rejected": {"item": "b"}} for user in users]
    assert api.post(f"/v1/environments/{catalog}/preferences", json={"preferences": said}).status_code == 201


def test_what_was_just_said_is_in_the_newest_buckets(api: httpx.Client, catalog: str) -> None:
    _say(api, catalog, "ada", "ada", "bob")
    for span, seconds, count in (("hour", 60, 60), ("day", 900, 96), ("month", 86400, 30)):
        answer = api.get(f"/v1/environments/{catalog}/activity", params={"span": span}).json()
        assert (answer["span"], answer["bucket_seconds"], len(answer["buckets"])) == (span, seconds, count)
        starts = [datetime.fromisoformat(one["start"]) for one in answer["buckets"]]
        assert {later - earlier for earlier, later in itertools.pairwise(starts)} == {timedelta(seconds=seconds)}
        assert starts[-1] <= datetime.now(UTC) < starts[-1] + timedelta(seconds=2 * seconds)
        # A bucket may have ended between the two calls.
        assert sum(one["n_preferences"] for one in answer["buckets"][-2:]) == 3
        assert not any(one["n_preferences"] for one in answer["buckets"][:-2])


def test_users_are_listed_by_id_and_page_by_page(api: httpx.Client, catalog: str) -> None:
    _say(api, catalog, "bob", "ada", "ada", "a_b", "axb")
    path = f"/v1/environments/{catalog}/users"
    first = api.get(path, params={"limit": 2}).json()
    assert [one["user"] for one in first["users"]] == ["a_b", "ada"]
    assert [one["feedback_count"] for one in first["users"]] == [1, 2]
    assert first["next"] == "ada"
    rest = api.get(path, params={"limit": 2, "after": first["next"]}).json()
    assert [one["user"] for one in rest["users"]] == ["axb", "bob"]
    assert rest["next"] is None


def test_an_underscore_in_a_beginning_is_an_underscore(api: httpx.Client, catalog: str) -> None:
    _say(api, catalog, "a_b", "axb")
    found = api.get(f"/v1/environments/{catalog}/users", params={"starting_with": "a_"}).json()
    assert [one["user"] for one in found["users"]] == ["a_b"]


@pytest.mark.parametrize(("path", "query"), [("activity", {"span": "year"}), ("users", {"starting_with": "a b"})])
def test_a_wrong_question_is_refused(api: httpx.Client, catalog: str, path: str, query: dict[str, str]) -> None:
    assert found_problem(api.get(f"/v1/environments/{catalog}/{path}", params=query))["status"] == 422


def test_an_erased_user_is_not_listed(api: httpx.Client, catalog: str) -> None:
    _say(api, catalog, "ada", "bob")
    assert api.delete(f"/v1/environments/{catalog}/users/ada").status_code == 200
    assert [one["user"] for one in api.get(f"/v1/environments/{catalog}/users").json()["users"]] == ["bob"]
