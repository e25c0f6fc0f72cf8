"""A fitted environment of texts: some people like it short, others like it kind.

Its encoder is an embeddings endpoint of this process with three features, so that a refit takes a moment.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from uuid import uuid4

import httpx
import numpy as np

from tests.support.answering import answering
from tests.support.api import Json
from tests.support.worker import working

SHORT = ["Yes.", "No.", "Restart it.", "Unplug it.", "Use the back door.", "Pay at the desk.", "Ask Tom.", "Monday."]
KIND = [
    "I am so sorry to hear that! Shall we look at it together?",
    "What a wonderful question, thank you so much for asking me.",
    "Please do not worry, we are all very happy to help you.",
    "Oh dear, that must be so frustrating for you, my friend.",
    "Take all the time that you need, we are here for you.",
    "Thank you kindly for your patience, it means a lot to us.",
]
ON_REQUEST = {"min_new_preferences": 1_000_000}
DEFINITION: Json = {"kind": "catalog", "encoder": "builtin", "refit": ON_REQUEST}


def embedding_of(text: str) -> list[float]:
    kind = sum(text.lower().count(word) for word in ("sorry", "thank", "please", "dear", "we", "together"))
    return [np.log1p(len(text)), float(text.count("!")), float(kind)]


def _embedded(_number: int, _path: str, body: Json) -> tuple[int, Json, dict[str, str]]:
    """Embeddings as OpenAI's API has them: how long, how loud, how kind."""
    rows = [{"index": index, "embedding": embedding_of(text)} for index, text in enumerate(body["input"])]
    return 200, {"data": rows}, {}


@contextmanager
def embeddings() -> Iterator[str]:
    """The endpoint's address."""
    with answering(_embedded) as server:
        yield f"{server.url}/v1"


def said_of_replies(n_users: int = 12, n_each: int = 24) -> list[Json]:
    """Even users like short answers, odd ones like kind ones."""
    rng = np.random.default_rng(3)
    pairs = list(product(SHORT, KIND))
    said = []
    for user in range(n_users):
        for index in rng.choice(len(pairs), n_each, replace=False):
            short, kind = ({"text": text} for text in pairs[index])
            likes_short = (user % 2 == 0) == (rng.random() < 0.97)
            chosen, rejected = (short, kind) if likes_short else (kind, short)
            said.append({"user": f"u{user}", "chosen": chosen, "rejected": rejected})
    return said


@contextmanager
def fitted_replies(api: httpx.Client, database_url: str, **definition: object) -> Iterator[str]:
    name = f"replies-{uuid4().hex}"
    with embeddings() as url:
        encoder = {"url": url, "model": "three-features"}
        body = {"kind": "catalog", "encoder": encoder, "rank": 1, "refit": ON_REQUEST, **definition}
        defined = api.put(f"/v1/environments/{name}", json=body)
        assert defined.status_code == 201, defined.text
        said = said_of_replies()
        assert api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201
        with working(database_url):
            refit(api, name)
        yield name


def refit(api: httpx.Client, name: str) -> None:
    asked = api.post(f"/v1/admin/environments/{name}/retrain").json()["id"]
    deadline = time.monotonic() + 120
    while (now := api.get(f"/v1/admin/refits/{asked}").json())["state"] in {"queued", "running"}:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now["state"] == "succeeded", now
