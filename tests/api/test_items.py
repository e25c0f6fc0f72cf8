import httpx
import pytest

from tests.support.api import Json, found_problem, problem


def test_items_are_upserted_and_listed_page_by_page(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/items"
    changed = api.put(
        path,
        json={
            "items": [
                {"id": "a", "features": [0, 1]},
                {"id": "b", "features": [9, 9], "title": "B"},
                {"id": "d", "features": [3, 3]},
            ]
        },
    )
    assert (changed.status_code, changed.json()) == (200, {"created": 1, "updated": 1})

    first = api.get(path, params={"limit": 3}).json()
    rest = api.get(path, params={"limit": 3, "after": first["next"]}).json()
    assert first == {
        "items": [
            {"id": "a", "title": None, "text": None, "features": [0.0, 1.0]},
            {"id": "b", "title": "B", "text": None, "features": [9.0, 9.0]},
            {"id": "c", "title": None, "text": None, "features": [2.0, 1.0]},
        ],
        "next": "c",
    }
    assert rest == {"items": [{"id": "d", "title": None, "text": None, "features": [3.0, 3.0]}], "next": None}


def test_a_retired_item_is_gone_and_comes_back_when_put_again(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/items"
    assert api.delete(f"{path}/a").status_code == 204
    assert [item["id"] for item in api.get(path).json()["items"]] == ["b", "c"]
    assert found_problem(api.delete(f"{path}/a"))["code"] == "not-found"
    assert api.put(path, json={"items": [{"id": "a", "features": [5, 5]}]}).json() == {"created": 0, "updated": 1}
    assert [item["id"] for item in api.get(path).json()["items"]] == ["a", "b", "c"]


def test_a_text_becomes_features(api: httpx.Client, environment_name: str) -> None:
    path = f"/v1/environments/{environment_name}"
    assert api.put(path, json={"kind": "catalog", "encoder": "builtin"}).status_code == 201
    put = api.put(f"{path}/items", json={"items": [{"id": "warm", "text": "Warm soup on a cold day."}]})
    assert put.json() == {"created": 1, "updated": 0}
    (item,) = api.get(f"{path}/items").json()["items"]
    assert (item["id"], item["text"], len(item["features"])) == ("warm", "Warm soup on a cold day.", 256)
    assert sum(value**2 for value in item["features"]) == pytest.approx(1, abs=1e-4)


WITHOUT_ENCODER = (
    "/items/0/text: environment {name} is defined without an encoder, so options are given as an item or by features."
)


@pytest.mark.parametrize(
    ("items", "pointer", "detail"),
    [
        ([], "/items", "/items: expected at least 1; found 0."),
        ([{"id": "x"}], "/items/0", "/items/0: expected features or a text; found neither."),
        (
            [{"id": "x", "features": [1, 2]}, {"id": "y", "features": [1]}],
            "/items/1/features",
            "/items/1/features: expected 2 numbers, the environment's item_dim; found 1.",
        ),
        (
            [{"id": "x", "text": "hello"}],
            "/items/0/text",
            WITHOUT_ENCODER,
        ),
        (
            [{"id": "a b", "features": [1, 2]}],
            "/items/0/id",
            '/items/0/id: expected to match ^[A-Za-z0-9._~:@-]{{1,128}}$; found "a b".',
        ),
        ([{"id": "x", "features": [1, 2]}] * 2, "/items/1/id", "Item 'x' is given twice."),
    ],
)
def test_bad_items_are_refused_and_none_is_stored(
    api: httpx.Client, catalog: str, items: list[Json], pointer: str, detail: str
) -> None:
    path = f"/v1/environments/{catalog}/items"
    before = api.get(path).json()
    response = api.put(path, json={"items": items})
    assert found_problem(response) == problem("invalid-input", 422, detail.format(name=catalog), pointer=pointer)
    assert api.get(path).json() == before


def test_an_mdp_has_no_items(api: httpx.Client, mdp: str) -> None:
    response = api.put(f"/v1/environments/{mdp}/items", json={"items": [{"id": "x", "features": [1]}]})
    detail = f"environment {mdp} is an MDP, and has no items."
    assert found_problem(response) == problem("invalid-input", 422, detail, pointer="/items")
