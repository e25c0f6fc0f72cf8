"""The URL encoder against a real HTTP server on this machine."""

import socket
import threading
from typing import Any

import anyio
import numpy as np
import pytest

from app.domain import EncoderSpec, EncoderUnavailableError, InvalidInputError
from app.encoders import UrlEncoder, encoder_for, probe_dim
from tests.support.answering import Answer, Server, answering


def embedding_of(text: str) -> list[float]:
    return [float(len(text)), float(text.count("a")), 1.0]


def address(server: Server) -> str:
    return f"{server.url}/v1"


def backwards(_number: int, _path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
    """Right embeddings in the wrong order, told apart by their index."""
    data = [{"index": i, "embedding": embedding_of(text)} for i, text in enumerate(body["input"])]
    return 200, {"data": data[::-1]}, {}


def always(status: int, body: Any) -> Answer:
    return lambda _number, _path, _body: (status, body, {})


def encode(server: Server, texts: list[str], **options: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    encoder = UrlEncoder(address(server), "some-model", **{"first_pause_seconds": 0.001, **options})
    return anyio.run(encoder.encode, texts)


def test_batches_are_asked_for_in_turn_and_put_in_the_order_of_their_index() -> None:
    texts = ["a", "bb", "aaa", "dddd", "eeeee"]
    with answering(backwards) as server:
        rows = encode(server, texts, dim=3, batch_texts=2, api_key="sk-secret")
    np.testing.assert_array_equal(rows, [embedding_of(text) for text in texts])
    assert rows.dtype == np.float32
    assert [body["input"] for _, body, _ in server.seen] == [["a", "bb"], ["aaa", "dddd"], ["eeeee"]]
    path, body, headers = server.seen[0]
    assert path == "/v1/embeddings"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert body["model"] == "some-model"


def test_without_a_key_no_authorization_is_sent() -> None:
    with answering(backwards) as server:
        encode(server, ["a"], dim=3)
    assert "Authorization" not in server.seen[0][2]


def test_the_full_address_is_used_as_it_is() -> None:
    with answering(backwards) as server:
        encoder = UrlEncoder(f"{address(server)}/embeddings", "m", dim=3)
        anyio.run(encoder.encode, ["a"])
    assert server.seen[0][0] == "/v1/embeddings"


def test_no_texts_ask_nothing() -> None:
    with answering(backwards) as server:
        assert encode(server, [], dim=3).shape == (0, 3)
    assert not server.seen


def test_a_busy_endpoint_is_asked_again() -> None:
    def busy_once(number: int, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return backwards(number, path, body) if number == 2 else (429, {}, {"Retry-After": "0.01"})

    with answering(busy_once) as server:
        assert encode(server, ["a"], dim=3).shape == (1, 3)
    assert len(server.seen) == 2


def test_an_endpoint_that_stays_down_is_asked_three_times() -> None:
    with answering(always(503, {})) as server, pytest.raises(EncoderUnavailableError, match=r"status 503, 3 times"):
        encode(server, ["a"], dim=3)
    assert len(server.seen) == 3


def test_a_refusal_is_not_repeated_and_the_key_not_told() -> None:
    with (
        answering(always(401, {"error": "bad key"})) as server,
        pytest.raises(EncoderUnavailableError, match=r"127\.0\.0\.1:\d+ answered with status 401") as caught,
    ):
        encode(server, ["a"], dim=3, api_key="sk-secret")
    assert len(server.seen) == 1
    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}, "2 numbers where 3 were expected"),
        ({"data": []}, "one embedding for each of 1 texts"),
        ({"data": [{"index": 1, "embedding": [1.0, 2.0, 3.0]}]}, "one embedding for each"),
        ({"data": [{"index": 0, "embedding": "AAAA"}]}, "one embedding for each"),
        ({"nothing": 1}, "one embedding for each"),
        (b"<html>", "one embedding for each"),
        (b'{"data": [{"index": 0, "embedding": [1.0, 2.0, NaN]}]}', "not finite"),
    ],
)
def test_an_answer_of_another_shape_is_refused(body: Any, message: str) -> None:
    with answering(always(200, body)) as server, pytest.raises(EncoderUnavailableError, match=message):
        encode(server, ["a"], dim=3)


def test_a_slow_endpoint_times_out() -> None:
    released = threading.Event()

    def slow(number: int, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        released.wait(10)
        return 204, b"", {}

    with answering(slow) as server:
        with pytest.raises(EncoderUnavailableError, match="ReadTimeout"):
            encode(server, ["a"], dim=3, timeout_seconds=0.05)
        released.set()


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    encoder = UrlEncoder(f"http://127.0.0.1:{port}/v1", "m", dim=3, first_pause_seconds=0.001)
    with pytest.raises(EncoderUnavailableError, match="did not answer"):
        anyio.run(encoder.encode, ["a"])


@pytest.mark.parametrize("url", ["ftp://somewhere/v1", "http://[", "nonsense"])
def test_an_address_that_cannot_be_asked_is_unavailable(url: str) -> None:
    encoder = UrlEncoder(url, "m", dim=3, first_pause_seconds=0.001)
    with pytest.raises(EncoderUnavailableError):
        anyio.run(encoder.encode, ["a"])


def test_a_key_that_no_header_can_carry_is_said_without_telling_it() -> None:
    encoder = UrlEncoder("http://127.0.0.1:9/v1", "m", dim=3, api_key="sk-ключ")
    with pytest.raises(EncoderUnavailableError, match="outside ASCII") as caught:
        anyio.run(encoder.encode, ["a"])
    assert "ключ" not in caught.value.message


def test_probe_dim_asks_for_one_embedding() -> None:
    with answering(backwards) as server:
        assert anyio.run(probe_dim, address(server), "m") == 3
    assert len(server.seen) == 1


def test_encoder_for_a_url_checks_the_environments_width() -> None:
    with answering(backwards) as server:
        spec = EncoderSpec(kind="url", dim=4, url=address(server), model="m")
        encoder = encoder_for(spec, api_key="k")
        assert encoder is encoder_for(spec, api_key="k")
        assert encoder.dim == 4
        with pytest.raises(EncoderUnavailableError, match="3 numbers where 4"):
            anyio.run(encoder.encode, ["a"])


def test_a_url_encoder_needs_an_address() -> None:
    with pytest.raises(InvalidInputError, match="needs its url"):
        encoder_for(EncoderSpec(kind="url", dim=4))


def test_an_unprobed_encoder_does_not_guess_its_width() -> None:
    with pytest.raises(ValueError, match="not known"):
        _ = UrlEncoder("http://127.0.0.1/v1", "m").dim
