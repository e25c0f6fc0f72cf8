"""What both clients do beside sending: retries, ids, batches, tokens, progress; against real servers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stamina

from app.client import ApiError, AsyncClient, Client, ServerUnreachableError
from app.client.calls import import_preferences
from tests.support.answering import answering
from tests.support.api import ADMIN_KEY, serving
from tests.support.commands import free_port

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


PAIR: Json = {"user": "ada", "chosen": {"item": "a"}, "rejected": {"item": "b"}}
STORED: Json = {"accepted": 1, "duplicates": 0}


def busy_first(number: int, _path: str, _body: Json) -> tuple[int, Json, dict[str, str]]:
    if number == 1:
        return 503, {"code": "store-unavailable", "detail": "away"}, {}
    return 201, STORED, {"Consistency-Token": f"v1.{number:x}"}


def test_a_request_that_is_sent_again_carries_the_same_id() -> None:
    with answering(busy_first) as server, Client(server.url) as client:
        assert client.record("shop", PAIR) == STORED
        first, again = (body["preferences"][0]["id"] for _, body, _ in server.seen)
        assert first == again
        client.record("shop", {**PAIR, "id": "mine"})
        assert server.seen[-1][1]["preferences"][0]["id"] == "mine"


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same() -> None:
    with answering(busy_first) as server:
        async with AsyncClient(server.url) as client:
            assert await client.record("shop", [PAIR]) == STORED
            await client.environments()
        first, again = (body["preferences"][0]["id"] for _, body, _ in server.seen[:2])
        assert first == again
        assert server.seen[2][2]["consistency-token"] == "v1.2"


def test_the_newest_token_is_sent_back() -> None:
    tokens = iter(["v1.5", "v1.1f", "v1.6", None])

    def answer(*_: Any) -> tuple[int, Json, dict[str, str]]:
        token = next(tokens)
        return 200, STORED, {} if token is None else {"Consistency-Token": token}

    with answering(answer) as server, Client(server.url) as client:
        for _ in range(4):
            client.environments()
    assert [headers.get("consistency-token") for _, _, headers in server.seen] == [None, "v1.5", "v1.1f", "v1.1f"]


@pytest.mark.parametrize(
    ("status", "code", "tries"),
    [(503, "store-unavailable", 3), (502, "unknown", 3), (503, "model-not-ready", 1), (422, "invalid-input", 1)],
)
def test_what_a_moment_will_not_change_is_not_tried_again(status: int, code: str, tries: int) -> None:
    with answering(lambda *_: (status, {"code": code, "detail": "no"}, {})) as server, Client(server.url) as client:
        with pytest.raises(ApiError) as refused:
            client.environments()
        assert (refused.value.status, refused.value.code, len(server.seen)) == (status, code, tries)


def test_a_key_is_not_made_twice() -> None:
    with answering(lambda *_: (502, {}, {})) as server, Client(server.url) as client:
        with pytest.raises(ApiError):
            client.create_key("shop", ["read"])
        assert len(server.seen) == 1


def test_a_service_that_is_not_there_is_named() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with Client(address) as client, pytest.raises(ServerUnreachableError, match=f"no answer from {address}"):
        client.environments()


def test_the_address_and_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSHARELORA_KEY", "secret")
    with answering(lambda *_: (200, {"environments": []}, {})) as server:
        monkeypatch.setenv("PSHARELORA_URL", server.url)
        with Client() as client:
            assert client.environments() == {"environments": []}
        assert server.seen[0][2]["authorization"] == "Bearer secret"
    monkeypatch.delenv("PSHARELORA_URL")
    with Client() as client:
        assert client._base_url == "http://127.0.0.1:8000"


def test_an_import_is_cut_into_batches_and_its_ids_are_of_what_is_said() -> None:
    said = [PAIR, PAIR, {**PAIR, "user": "bob"}] * 700
    first, again = ([call.arguments["content"] for call in calls_of(said)] for _ in range(2))
    assert len(first) == 3
    assert first == again
    lines = [json.loads(line) for batch in first for line in batch.splitlines()]
    assert len({one["id"] for one in lines}) == len(said)


def calls_of(said: list[Json]) -> Iterator[Any]:
    steps = import_preferences("shop", said)
    asked = next(steps)
    while True:
        yield asked
        try:
            asked = steps.send({"accepted": 1, "duplicates": 0, "rejected": 0, "errors": []})
        except StopIteration:
            return


@pytest.mark.anyio
async def test_both_import_many_report_progress_and_read_their_own_writes(
    database_url: str, environment_name: str
) -> None:
    bad = {**PAIR, "chosen": {"item": "nothing"}}
    said = [{**PAIR, "user": f"u{number}"} for number in range(1500)]
    said[1200] = bad
    told: list[int] = []
    with serving(database_url) as url, Client(url, key=ADMIN_KEY) as client:
        client.put_environment(environment_name, {"kind": "catalog", "item_dim": 1})
        client.put_items(environment_name, [{"id": name, "features": [float(at)]} for at, name in enumerate("ab")])
        done = client.import_preferences(environment_name, said, progress=told.append)
        assert (done["accepted"], done["duplicates"], done["rejected"]) == (1499, 0, 1)
        assert done["errors"][0]["line"] == 1201
        assert told == [1000, 1500]
        async with AsyncClient(url, key=ADMIN_KEY) as other:
            again = await other.import_preferences(environment_name, said)
            assert (again["accepted"], again["duplicates"]) == (0, 1499)
            recorded = await other.record(environment_name, [{**PAIR, "user": "eve"}] * 1001)
            assert recorded == {"accepted": 1001, "duplicates": 0}
            assert (await other.user(environment_name, "eve"))["feedback_count"] == 1001
            with pytest.raises(ApiError, match="model-not-ready"):
                await other.rank(environment_name, "eve")
            refit = await other.retrain(environment_name)
            with pytest.raises(TimeoutError):
                await other.wait_for_refit(refit["id"], timeout_seconds=0.1)
            await other.cancel_refit(refit["id"])
            lines = iter([json.dumps({**PAIR, "user": "kim"}).encode() + b"\n"])
            assert (await other.import_lines(environment_name, lines))["accepted"] == 1
