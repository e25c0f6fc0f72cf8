import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.api import ADMIN_KEY, Json, found_problem, problem

PAIR: Json = {"chosen": {"item": "a"}, "rejected": {"item": "b"}}


def preferences(api: httpx.Client, environment: str, body: Any) -> httpx.Response:
    return api.post(f"/v1/environments/{environment}/preferences", json=body)


def stored(api: httpx.Client, environment: str) -> int:
    count: int = api.get(f"/v1/environments/{environment}").json()["n_preferences"]
    return count


def test_one_preference_is_stored_with_all_it_says(api: httpx.Client, catalog: str) -> None:
    said = {
        "user": "ada",
        "chosen": {"item": "a"},
        "rejected": {"features": [0.5, 0.25]},
        "label": 0.75,
        "weight": 2.0,
        "occurred_at": "2026-05-01T09:30:00Z",
        "id": "answer-1",
    }
    response = preferences(api, catalog, said)
    assert (response.status_code, response.json()) == (201, {"accepted": 1, "duplicates": 0})
    exported = api.get(f"/v1/environments/{catalog}/users/ada/export").text
    assert [json.loads(line) for line in exported.splitlines()] == [said]


def test_a_batch_sent_again_is_a_duplicate(api: httpx.Client, catalog: str) -> None:
    batch = {"preferences": [{**PAIR, "user": user, "id": f"{user}-1"} for user in ("ada", "bob", "cy")]}
    assert preferences(api, catalog, batch).json() == {"accepted": 3, "duplicates": 0}
    assert preferences(api, catalog, batch).json() == {"accepted": 0, "duplicates": 3}
    assert stored(api, catalog) == 3


def test_a_reused_id_with_other_content_is_a_conflict_and_stores_nothing(api: httpx.Client, catalog: str) -> None:
    assert preferences(api, catalog, {**PAIR, "user": "ada", "id": "x"}).status_code == 201
    other = {"user": "ada", "chosen": {"item": "b"}, "rejected": {"item": "a"}, "id": "x"}
    detail = "Preference id 'x' is taken by a preference with other content."
    batch = preferences(api, catalog, {"preferences": [{**PAIR, "user": "bob"}, other]})
    alone = preferences(api, catalog, other)
    assert found_problem(batch) == problem("conflict", 409, detail, pointer="/preferences/1/id")
    assert found_problem(alone) == problem("conflict", 409, detail, pointer="/id")
    assert stored(api, catalog) == 1


def test_trajectories_are_stored_by_name_or_index(api: httpx.Client, mdp: str) -> None:
    body = {
        "user": "ada",
        "chosen": {"trajectory": [["home", "go"], ["away", "stay"]]},
        "rejected": {"trajectory": [[0, 0], [0, 1]]},
    }
    assert preferences(api, mdp, body).status_code == 201
    exported = api.get(f"/v1/environments/{mdp}/users/ada/export", params={"format": "json"}).json()
    assert exported["preferences"][0]["chosen"] == {"trajectory": [[0, 1], [1, 0]]}
    assert exported["preferences"][0]["rejected"] == {"trajectory": [[0, 0], [0, 1]]}


def test_texts_and_contexts_are_encoded(api: httpx.Client, environment_name: str) -> None:
    definition = {"kind": "catalog", "encoder": "builtin", "context_dim": 256}
    assert api.put(f"/v1/environments/{environment_name}", json=definition).status_code == 201
    body = {
        "user": "ada",
        "chosen": {"text": "Yes."},
        "rejected": {"text": "It depends."},
        "context": {"text": "Is water wet?"},
    }
    assert preferences(api, environment_name, body).status_code == 201
    exported = api.get(f"/v1/environments/{environment_name}/users/ada/export").json()
    assert {name: exported[name] for name in body} == body


WITHOUT_ENCODER = (
    "/chosen/text: environment {name} is defined without an encoder, so options are given as an item or by features."
)
IN_A_CATALOGUE: list[tuple[Any, str, str]] = [
    ({"preferences": []}, "/preferences", "/preferences: expected at least 1; found 0."),
    (
        {"preferences": [{**PAIR, "user": "u"}] * 1001},
        "/preferences",
        "/preferences: expected at most 1,000; found 1,001. Use /preferences/import for more.",
    ),
    ({"user": "u", "chosen": {"item": "a"}}, "/rejected", "/rejected: is required, and missing."),
    (
        {"user": "u", "chosen": {"item": "a"}, "rejected": {"item": "a"}},
        "/rejected",
        "/rejected: expected another option than the chosen one; found the same.",
    ),
    (
        {"user": "u", "chosen": {"features": [1, 2]}, "rejected": {"features": [1.0, 2.0]}},
        "/rejected",
        "/rejected: expected another option than the chosen one; found the same.",
    ),
    (
        {"user": "u", "chosen": {"item": "a"}, "rejected": {"item": "zz"}},
        "/rejected/item",
        "There is no item 'zz' in environment '{name}'.",
    ),
    (
        {"user": "u", "chosen": {"features": [1, 2, 3]}, "rejected": {"item": "a"}},
        "/chosen/features",
        "/chosen/features: expected 2 numbers, the environment's item_dim; found 3.",
    ),
    (
        {"user": "u", "chosen": {"features": [1, 1e10]}, "rejected": {"item": "a"}},
        "/chosen/features/1",
        "/chosen/features/1: should be less than or equal to 1000000000; found 10000000000.0.",
    ),
    (
        {"user": "u", "chosen": {"features": ["1", 2]}, "rejected": {"item": "a"}},
        "/chosen/features/0",
        '/chosen/features/0: should be a valid number; found "1".',
    ),
    (
        {"user": "u", "chosen": {"text": "x"}, "rejected": {"item": "a"}},
        "/chosen/text",
        WITHOUT_ENCODER,
    ),
    (
        {"user": "u", "chosen": {"trajectory": [[0, 0]]}, "rejected": {"item": "a"}},
        "/chosen",
        '/chosen: options of a catalogue are {{"item"}}, {{"features"}} or {{"text"}}; found a trajectory.',
    ),
    (
        {"user": "u", "chosen": {"thing": "a"}, "rejected": {"item": "a"}},
        "/chosen",
        '/chosen: expected an object with "trajectory", "item", "features" or "text"; found an object.',
    ),
    (
        {"user": "u", "chosen": {"item": "a", "text": "b"}, "rejected": {"item": "b"}},
        "/chosen/text",
        "/chosen/text: is not a field of this request.",
    ),
    (
        {**PAIR, "user": "u", "context": {"features": [1.0]}},
        "/context",
        "/context: environment {name} is defined without context_dim, so it has no contexts.",
    ),
    ({**PAIR, "user": "u", "label": 1.5}, "/label", "/label: should be less than or equal to 1; found 1.5."),
    ({**PAIR, "user": "u", "weight": 0}, "/weight", "/weight: should be greater than 0; found 0."),
    ({**PAIR, "user": "u", "weight": True}, "/weight", "/weight: should be a valid number; found true."),
    ({**PAIR, "user": "u", "wieght": 1}, "/wieght", "/wieght: is not a field of this request."),
    (
        {**PAIR, "user": "a b"},
        "/user",
        '/user: expected to match ^[A-Za-z0-9._~:@-]{{1,128}}$; found "a b".',
    ),
    (
        {**PAIR, "user": "u", "occurred_at": 1700000000},
        "/occurred_at",
        "/occurred_at: expected an RFC 3339 date and time, such as 2026-05-01T09:30:00Z.",
    ),
]


@pytest.mark.parametrize(("body", "pointer", "detail"), IN_A_CATALOGUE)
def test_a_bad_preference_is_refused_with_the_place(
    api: httpx.Client, catalog: str, body: Any, pointer: str, detail: str
) -> None:
    response = preferences(api, catalog, body)
    assert found_problem(response) == problem("invalid-input", 422, detail.format(name=catalog), pointer=pointer)
    assert stored(api, catalog) == 0


@pytest.mark.parametrize(("bad", "pointer", "detail"), [one for one in IN_A_CATALOGUE if "user" in one[0]])
def test_one_bad_preference_refuses_its_whole_batch(
    api: httpx.Client, catalog: str, bad: Any, pointer: str, detail: str
) -> None:
    good = {**PAIR, "user": "someone-else"}
    response = preferences(api, catalog, {"preferences": [good, bad, good]})
    assert response.status_code == 422
    assert found_problem(response)["pointer"] == f"/preferences/1{pointer}"
    assert stored(api, catalog) == 0
    assert api.get(f"/v1/environments/{catalog}/users/someone-else").json()["feedback_count"] == 0


@pytest.mark.parametrize(
    ("chosen", "pointer", "detail"),
    [
        (
            [["home", "fly"], ["away", "stay"]],
            "/chosen/trajectory/0/1",
            '/chosen/trajectory/0/1: there is no action "fly"; expected a name, or an index from 0 to 1.',
        ),
        (
            [["nowhere", "go"], ["away", "stay"]],
            "/chosen/trajectory/0/0",
            '/chosen/trajectory/0/0: there is no state "nowhere"; expected a name, or an index from 0 to 1.',
        ),
        (
            [["home", "go"]],
            "/chosen/trajectory",
            "/chosen/trajectory: expected 2 steps, the environment's horizon; found 1.",
        ),
        (
            [["home", "stay"], ["away", "stay"]],
            "/chosen/trajectory/1",
            "/chosen/trajectory/1: state away cannot follow state home and action stay.",
        ),
        (
            [["home"], ["away", "stay"]],
            "/chosen/trajectory/0",
            "/chosen/trajectory/0: expected [state, action]; found a list of 1.",
        ),
    ],
)
def test_a_bad_trajectory_is_refused_with_the_step(
    api: httpx.Client, mdp: str, chosen: Any, pointer: str, detail: str
) -> None:
    rejected = {"trajectory": [["home", "stay"], ["home", "stay"]]}
    response = preferences(api, mdp, {"user": "u", "chosen": {"trajectory": chosen}, "rejected": rejected})
    assert found_problem(response) == problem("invalid-input", 422, detail, pointer=pointer)
    assert stored(api, mdp) == 0


def test_an_mdp_takes_only_trajectories(api: httpx.Client, mdp: str) -> None:
    response = preferences(api, mdp, {**PAIR, "user": "u"})
    detail = '/chosen: options of an MDP are {"trajectory": [[state, action], ...]}.'
    assert found_problem(response) == problem("invalid-input", 422, detail, pointer="/chosen")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(api: httpx.Client, catalog: str, literal: str) -> None:
    body = '{"user": "u", "chosen": {"features": [1, LITERAL]}, "rejected": {"item": "a"}}'.replace("LITERAL", literal)
    headers = {"Content-Type": "application/json"}
    response = api.post(f"/v1/environments/{catalog}/preferences", content=body, headers=headers)
    assert response.status_code == 422
    assert found_problem(response)["pointer"] == "/chosen/features/1"
    assert "expected a finite number" in found_problem(response)["detail"]
    assert stored(api, catalog) == 0


def test_a_time_in_the_future_is_refused(api: httpx.Client, catalog: str) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    late = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    assert preferences(api, catalog, {**PAIR, "user": "u", "occurred_at": soon}).status_code == 201
    refused = preferences(api, catalog, {**PAIR, "user": "u", "occurred_at": late})
    assert found_problem(refused)["detail"].startswith(
        "/occurred_at: expected a time that is not in the future; found "
    )


def test_malformed_json_and_other_media_types_are_told_apart(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/preferences"
    broken = api.post(path, content=b'{"user": ', headers={"Content-Type": "application/json"})
    assert found_problem(broken) == problem(
        "malformed-json", 400, "the body is not JSON: Expecting value, at character 9."
    )
    for deep in (b"[" * 100_000 + b"]" * 100_000, b'{"preferences":' * 100_000 + b"1" + b"}" * 100_000):
        nested = api.post(path, content=deep, headers={"Content-Type": "application/json"})
        assert found_problem(nested) == problem("malformed-json", 400, "the body is nested too deeply.")
    form = api.post(path, data={"user": "u"})
    assert found_problem(form) == problem(
        "unsupported-media-type", 415, "the body must be application/json; found application/x-www-form-urlencoded."
    )


def test_a_body_of_ten_megabytes_is_refused(api: httpx.Client, catalog: str) -> None:
    path = f"/v1/environments/{catalog}/preferences"
    headers = {"Content-Type": "application/json"}
    announced = api.post(path, content=b" " * 10_000_000, headers=headers)
    detail = "the body may have at most 8,388,608 bytes{}. Use /preferences/import for more."
    assert found_problem(announced) == problem("body-too-large", 413, detail.format("; found 10,000,000"))

    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 1_000_000

    streamed = api.post(path, content=chunks(), headers=headers)
    assert found_problem(streamed) == problem("body-too-large", 413, detail.format(""))


def line(**said: Any) -> bytes:
    return json.dumps({**PAIR, "user": "u", **said}).encode() + b"\n"


def imported(api: httpx.Client, environment: str, content: Any) -> Json:
    response = api.post(f"/v1/environments/{environment}/preferences/import", content=content)
    assert response.status_code == 200
    answer: Json = response.json()
    return answer


def test_an_import_of_nothing_stores_nothing(api: httpx.Client, catalog: str) -> None:
    assert imported(api, catalog, b"") == {"accepted": 0, "duplicates": 0, "rejected": 0, "errors": []}


def test_an_import_keeps_good_lines_and_names_bad_ones(api: httpx.Client, catalog: str) -> None:
    content = b"".join(
        [
            line(id="1"),
            line(id="2", chosen={"item": "zz"}),
            b"not json\n",
            b"\n",
            line(id="3", label=7),
            line(id="1", label=0.5),
            line(id="4", chosen={"features": [1, 2, 3]}),
            line(id="1"),
            line(id="5").rstrip(),
        ]
    )
    assert imported(api, catalog, content) == {
        "accepted": 2,
        "duplicates": 1,
        "rejected": 5,
        "errors": [
            {"line": 2, "detail": f"There is no item 'zz' in environment '{catalog}'.", "pointer": "/chosen/item"},
            {"line": 3, "detail": "the line is not JSON: expected ident at line 1 column 2.", "pointer": None},
            {"line": 5, "detail": "/label: should be less than or equal to 1; found 7.", "pointer": "/label"},
            {"line": 6, "detail": "Preference id '1' is taken by a preference with other content.", "pointer": "/id"},
            {
                "line": 7,
                "detail": "/chosen/features: expected 2 numbers, the environment's item_dim; found 3.",
                "pointer": "/chosen/features",
            },
        ],
    }
    assert stored(api, catalog) == 2


def test_an_import_of_many_batches_may_break_lines_anywhere(api: httpx.Client, catalog: str) -> None:
    content = b"".join(line(id=str(number), user=f"u{number % 7}") for number in range(2500))
    pieces = (content[start : start + 777] for start in range(0, len(content), 777))
    assert imported(api, catalog, pieces) == {"accepted": 2500, "duplicates": 0, "rejected": 0, "errors": []}
    assert imported(api, catalog, content)["duplicates"] == 2500
    assert stored(api, catalog) == 2500


def test_an_import_reports_the_first_twenty_bad_lines(api: httpx.Client, catalog: str) -> None:
    content = b"".join(line(chosen={"item": "zz"}) + b"x\n" for _ in range(30)) + line()
    answer = imported(api, catalog, content)
    assert (answer["accepted"], answer["rejected"]) == (1, 60)
    assert [error["line"] for error in answer["errors"]] == list(range(1, 21))


def test_an_import_refuses_an_endless_line(api: httpx.Client, catalog: str) -> None:
    pieces = [line(), b'{"user": "', *[b"x" * 500_000] * 6, b'"}\n', line()]
    answer = imported(api, catalog, iter(pieces))
    assert (answer["accepted"], answer["rejected"]) == (2, 1)
    assert answer["errors"] == [{"line": 2, "detail": "the line has more than 1,048,576 bytes.", "pointer": None}]


def test_an_import_that_breaks_off_keeps_the_lines_that_came(api: httpx.Client, api_url: str, catalog: str) -> None:
    lines = b"".join(line(id=str(number)) for number in range(1500))
    head = (
        f"POST /v1/environments/{catalog}/preferences/import HTTP/1.1\r\nHost: here\r\n"
        f"Authorization: Bearer {ADMIN_KEY}\r\nContent-Length: {len(lines) + 1000}\r\n\r\n"
    )
    host, port = api_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + lines + b'{"user": "u", "cho')
    wait_until(lambda: stored(api, catalog) == 1500)
    assert imported(api, catalog, lines + line(id="more")) == {
        "accepted": 1,
        "duplicates": 1500,
        "rejected": 0,
        "errors": [],
    }


def test_an_import_tells_of_its_progress_while_it_runs(api: httpx.Client, catalog: str) -> None:
    content = b"".join(line(id=str(number), user=f"u{number % 7}") for number in range(70_000))
    counted: list[int] = []

    def pieces() -> Iterator[bytes]:
        yield content[:-200]
        # Some of the lines are there before the last ones are sent.
        wait_until(lambda: stored(api, catalog) > 0)
        counted.append(stored(api, catalog))
        yield content[-200:] + b"bad\n"

    path = f"/v1/environments/{catalog}/preferences/import"
    with api.stream("POST", path, content=pieces(), headers={"Accept": "application/x-ndjson"}) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        told = [json.loads(one) for one in response.iter_lines()]
    assert 0 < counted[0] < 70_000
    assert len(told) > 2
    assert [one["lines"] for one in told[:-1]] == sorted({one["lines"] for one in told[:-1]})
    assert [one["accepted"] for one in told] == sorted(one["accepted"] for one in told)
    assert (told[-1]["accepted"], told[-1]["rejected"]) == (70_000, 1)
    assert told[-1]["errors"][0]["line"] == 70_001


def test_an_import_gives_a_consistency_token(api: httpx.Client, catalog: str) -> None:
    response = api.post(f"/v1/environments/{catalog}/preferences/import", content=line())
    assert response.headers["consistency-token"].startswith("v1.")


def test_users_of_an_import_are_known(api: httpx.Client, catalog: str) -> None:
    early = line(user="ada", occurred_at="2026-05-01T09:30:00Z")
    assert imported(api, catalog, early + line(user="ada") * 2 + line(user="bob"))["accepted"] == 4
    ada = api.get(f"/v1/environments/{catalog}/users/ada").json()
    assert ada["feedback_count"] == 3


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


HUGE = [
    ("weight", "1e999", "/weight"),
    ("weight", "1000001", "/weight"),
    ("weight", "-1", "/weight"),
    ("label", "1e999", "/label"),
    ("chosen", '{"features": [1e999, 0]}', "/chosen/features/0"),
    ("chosen", '{"features": [1e10, 0]}', "/chosen/features/0"),
    ("context", '{"features": [-1e10]}', "/context/features/0"),
]


@pytest.mark.parametrize(("field", "literal", "pointer"), HUGE)
def test_infinite_and_huge_numbers_are_refused_where_they_stand(
    api: httpx.Client, catalog: str, field: str, literal: str, pointer: str
) -> None:
    rest = {"user": '"u"', "chosen": '{"item": "a"}', "rejected": '{"item": "b"}', field: literal}
    line = "{" + ", ".join(f'"{name}": {value}' for name, value in rest.items()) + "}"
    path = f"/v1/environments/{catalog}/preferences"
    refused = api.post(path, content=line, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422
    assert found_problem(refused)["pointer"] == pointer
    imported = api.post(f"{path}/import", content=line).json()
    assert (imported["accepted"], imported["errors"][0]["pointer"]) == (0, pointer)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_no_numbers_for_is_refused(api: httpx.Client, catalog: str, literal: str) -> None:
    body = f'{{"user": "u", "chosen": {{"item": "a"}}, "rejected": {{"item": "b"}}, "weight": {literal}}}'
    path = f"/v1/environments/{catalog}/preferences"
    refused = api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code in {400, 422}
    assert api.post(f"{path}/import", content=body).json()["rejected"] == 1
