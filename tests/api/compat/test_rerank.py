"""Rerank, by Cohere's own client and in the form of Jina and vLLM."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import cohere
import httpx
import pytest
from cohere.core.request_options import RequestOptions
from cohere.errors import NotFoundError, UnauthorizedError

from tests.support.api import Json, found_problem
from tests.support.replies import DEFINITION, KIND, SHORT

DOCUMENTS = [KIND[0], SHORT[0], KIND[1]]


@contextmanager
def cohere_client(api_url: str, key: str) -> Iterator[cohere.ClientV2]:
    with httpx.Client(trust_env=False) as transport:
        yield cohere.ClientV2(api_key=key, base_url=api_url, httpx_client=transport)


ONCE: RequestOptions = {"max_retries": 0}


def test_cohere_reranks_for_the_user_whom_the_model_names(api_url: str, replies: str, read_key: str) -> None:
    with cohere_client(api_url, read_key) as client:
        for user, first in (("u0", True), ("u1", False)):
            found = client.rerank(model=f"{replies}/{user}", query="My screen is black.", documents=DOCUMENTS)
            scores = [one.relevance_score for one in found.results]
            assert scores == sorted(scores, reverse=True)
            assert all(0 <= score <= 1 for score in scores)
            assert sorted(one.index for one in found.results) == [0, 1, 2]
            assert (found.results[0].index == 1) == first
            assert found.meta is not None
            assert found.id
            extra = found.results[0].model_dump()
            assert extra["lower"] <= extra["reward"] <= extra["upper"]
            assert extra["relevance_score"] == pytest.approx(1 / (1 + math.exp(-extra["reward"])))
        best = client.rerank(model=f"{replies}/u0", query="?", documents=DOCUMENTS, top_n=1)
        assert [one.index for one in best.results] == [1]


def test_cohere_understands_refusals(api_url: str, replies: str, read_key: str) -> None:
    with cohere_client(api_url, "psk_nobody_knows") as stranger, pytest.raises(UnauthorizedError):
        stranger.rerank(model=f"{replies}/u0", query="?", documents=DOCUMENTS, request_options=ONCE)
    with cohere_client(api_url, read_key) as client, pytest.raises(NotFoundError) as refused:
        client.rerank(model="nowhere/u0", query="?", documents=DOCUMENTS, request_options=ONCE)
    assert "There is no environment 'nowhere'." in str(refused.value)


def test_a_header_comes_before_the_body_and_the_body_before_the_model(api: httpx.Client, replies: str) -> None:
    body: Json = {"model": f"{replies}/u1", "query": "?", "documents": DOCUMENTS}

    def feedback(changes: Json, headers: dict[str, str]) -> tuple[int, int]:
        found = api.post("/v1/rerank", json={**body, **changes}, headers=headers).json()
        return found["feedback_seen"], found["results"][0]["index"]

    assert feedback({}, {})[1] != 1
    assert feedback({"user": "u0"}, {}) == (24, 1)
    assert feedback({"user": "u1"}, {"X-Psharelora-User": "u0"}) == (24, 1)
    assert feedback({"model": "any", "environment": replies, "user": "u0"}, {}) == (24, 1)
    in_headers = {"X-Psharelora-Environment": replies, "X-Psharelora-User": "u0"}
    assert feedback({"model": "any", "environment": "other", "user": "u1"}, in_headers) == (24, 1)
    assert feedback({"model": replies}, {})[0] == 0


def test_jina_and_vllm_are_answered_in_their_form(api: httpx.Client, replies: str) -> None:
    body: Json = {"model": f"{replies}/u0", "query": "?", "documents": [{"text": DOCUMENTS[0]}, DOCUMENTS[1]]}
    plain = api.post("/v1/rerank", json={**body, "top_n": 2, "truncation": True}).json()
    assert plain.keys() == {"id", "model", "usage", "results", "model_version", "feedback_seen"}
    assert plain["model"] == f"{replies}/u0"
    assert plain["usage"] == {"total_tokens": 0}
    numbers = {"index", "relevance_score", "reward", "stderr", "lower", "upper"}
    assert all(one.keys() == numbers for one in plain["results"])
    with_documents = api.post("/v1/rerank", json={**body, "return_documents": True}).json()["results"]
    assert [one["document"] for one in with_documents] == [{"text": DOCUMENTS[1]}, {"text": DOCUMENTS[0]}]


def test_what_is_missing_is_named(api: httpx.Client, catalog: str, environment_name: str) -> None:
    nameless = api.post("/v2/rerank", json={"query": "?", "documents": ["a"]})
    assert found_problem(nameless)["pointer"] == "/model"
    deaf = api.post("/v2/rerank", json={"model": catalog, "query": "?", "documents": ["a"]})
    assert "has no encoder" in found_problem(deaf)["detail"]
    fresh = f"{environment_name}-texts"
    api.put(f"/v1/environments/{fresh}", json=DEFINITION)
    early = api.post("/v2/rerank", json={"model": fresh, "query": "?", "documents": ["a"]})
    assert (early.status_code, found_problem(early)["code"]) == (503, "model-not-ready")
