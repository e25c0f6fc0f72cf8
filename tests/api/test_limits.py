"""What a request may not do for ever, and what a catalogue may not become."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import client_for, found_problem, problem, serving


@pytest.fixture(scope="module")
def strict(database_url: str) -> Iterator[httpx.Client]:
    with serving(database_url, body_seconds=0.3, max_items=4) as url, client_for(url) as client:
        yield client


def dripping(*pieces: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        time.sleep(0.1)


def line(number: int) -> bytes:
    said = {"id": str(number), "user": "u", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
    return json.dumps(said).encode() + b"\n"


def test_a_body_that_is_not_whole_in_time_is_not_waited_for(strict: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/preferences"
    headers = {"Content-Type": "application/json"}
    slow = strict.post(path, content=dripping(b'{"user"', *[b" "] * 20), headers=headers)
    detail = "the body was not there after 0.3 seconds; nothing of it was used."
    assert found_problem(slow) == problem("body-too-slow", 408, detail)
    assert slow.headers["connection"] == "close"
    quick = strict.post(path, content=dripping(line(0)[:20], line(0)[20:]), headers=headers)
    assert quick.status_code == 201


def test_an_import_may_go_on_for_long_but_not_stand_still(strict: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/preferences/import"
    assert strict.post(path, content=dripping(*map(line, range(6)))).json()["accepted"] == 6
    detail = "nothing came of the body for 0.3 seconds; the good lines of those that came whole are stored."
    still = strict.post(path, content=dripping(line(6), *[b""] * 20))
    assert found_problem(still) == problem("body-too-slow", 408, detail)
    told = strict.post(path, content=dripping(line(7), *[b""] * 20), headers={"Accept": "application/x-ndjson"})
    assert json.loads(told.text.splitlines()[-1]) == {"code": "body-too-slow", "detail": detail}
    assert strict.get(f"/v1/environments/{catalog}").json()["n_preferences"] == 8


def test_a_catalogue_has_its_limit(strict: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/items"

    def put(*names: str) -> httpx.Response:
        return strict.put(path, json={"items": [{"id": name, "features": [2.0, 3.0]} for name in names]})

    detail = (
        f"Environment '{catalog}' would have 5 items; a catalogue may have at most 4 (PSHARELORA_MAX_ITEMS). "
        "Nothing of this request was stored."
    )
    assert found_problem(put("d", "e")) == problem("invalid-input", 422, detail, pointer="/items")
    assert put("a", "d").json() == {"created": 1, "updated": 1}
    assert put("e").status_code == 422
    assert strict.delete(f"{path}/b").status_code == 204
    assert put("e").json() == {"created": 1, "updated": 0}
    assert put("b").status_code == 422
