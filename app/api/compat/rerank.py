"""Rerank: Cohere's `POST /v2/rerank`, and `POST /v1/rerank` as Jina, vLLM and those who follow them have it."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request
from pydantic import Field

from app.api.auth import Reader, check_acts, check_visible
from app.api.compat.openrlhf import share
from app.api.compat.wire import NOBODY, ForeignBody, check_reads_texts, readable
from app.api.conversion import options_and_context
from app.api.environments import example
from app.api.problems import ASKED, problems, request_id_of
from app.api.schemas.answers import Reward
from app.api.schemas.base import MAX_BATCH, Answer, Id
from app.api.schemas.options import ItemBody, TextBody
from app.api.services import Services, UsedServices
from app.domain import ApiKey, CatalogEnvironment, InvalidInputError

router = APIRouter(tags=["compatibility"])

EnvironmentHeader = Annotated[
    Id | None,
    Header(alias="X-Psharelora-Environment", description="The environment; else the body's, else the model's."),
]
UserHeader = Annotated[
    Id | None, Header(alias="X-Psharelora-User", description="The user; else the body's, else the model's.")
]


class TextDocument(ForeignBody):
    text: str


class ItemDocument(ForeignBody):
    item: Id = Field(description="An item of the environment's catalogue.")


class RerankBody(ForeignBody):
    model: str = Field(
        default="", description="`environment/user`, or `environment`; what a header or the body says comes first."
    )
    query: str | TextDocument = Field(
        description="The context, where the environment has contexts; else it is passed over."
    )
    documents: list[str | TextDocument | ItemDocument] = Field(min_length=1, max_length=MAX_BATCH)
    top_n: int | None = Field(default=None, ge=1, description="How many to answer; all if absent.")
    return_documents: bool = False
    environment: Id | None = None
    user: Id | None = Field(default=None, description="Nobody if absent everywhere: the population's ranking.")


class RerankedDocument(Answer):
    text: str | None = None
    item: str | None = None


class Reranked(Reward):
    index: int = Field(description="Its place in the request's `documents`.")
    relevance_score: float = Field(
        description="The reward in [0, 1]: how often the document is chosen over the reference."
    )
    document: RerankedDocument | None = Field(default=None, description="Only with `return_documents`.")


class Grounds(Answer):
    id: str
    model_version: int
    feedback_seen: int = Field(description="How many of the user's own preferences the ranking rests on.")
    results: list[Reranked] = Field(description="Best first.")


class ApiVersion(Answer):
    version: str = "2"


class Meta(Answer):
    api_version: ApiVersion = ApiVersion()


class CohereAnswer(Grounds):
    meta: Meta = Meta()


class Usage(Answer):
    total_tokens: int = Field(default=0, description="Nothing is billed; the field is there because clients read it.")


class JinaAnswer(Grounds):
    model: str
    usage: Usage = Usage()


_RESULT: dict[str, Any] = {
    "index": 1,
    "relevance_score": 0.79,
    "reward": 1.31,
    "stderr": 0.42,
    "lower": 0.49,
    "upper": 2.13,
}
_GROUNDS: dict[str, Any] = {"id": "5f0c6d1e8a6b4d0f", "model_version": 1, "feedback_seen": 36, "results": [_RESULT]}
_BODY = {"model": "replies/ada", "query": "Is it raining?", "documents": ["It depends.", "Yes."], "top_n": 1}
_BODIES: dict[str, Any] = {"texts": {"value": _BODY}}
_DESCRIPTION = (
    "Ranks documents by one user's rewards. The environment and the user come from the headers "
    "`X-Psharelora-Environment` and `X-Psharelora-User`, else from the body's `environment` and `user`, else from a "
    "model named `environment/user`. Naming the user in the header needs the scope `act-as-user`. `relevance_score` is "
    "the reward in [0, 1]; `reward`, its standard error and its bounds stand beside it."
)
_FAILURES = problems(*ASKED)


@router.post(
    "/v2/rerank",
    summary="Rerank, as Cohere has it",
    description=_DESCRIPTION,
    response_model_exclude_none=True,
    responses={200: example({**_GROUNDS, "meta": {"api_version": {"version": "2"}}}), **_FAILURES},
)
async def cohere(
    body: Annotated[RerankBody, Body(openapi_examples=_BODIES)],
    request: Request,
    services: UsedServices,
    key: Reader,
    environment: EnvironmentHeader = None,
    user: UserHeader = None,
) -> CohereAnswer:
    return CohereAnswer(**await _reranked(body, request, services, key, environment, user))


@router.post(
    "/v1/rerank",
    summary="Rerank, as Jina and vLLM have it",
    description=_DESCRIPTION,
    response_model_exclude_none=True,
    responses={200: example({**_GROUNDS, "model": "replies/ada", "usage": {"total_tokens": 0}}), **_FAILURES},
)
async def jina(
    body: Annotated[RerankBody, Body(openapi_examples=_BODIES)],
    request: Request,
    services: UsedServices,
    key: Reader,
    environment: EnvironmentHeader = None,
    user: UserHeader = None,
) -> JinaAnswer:
    return JinaAnswer(model=body.model, **await _reranked(body, request, services, key, environment, user))


async def _reranked(
    body: RerankBody,
    request: Request,
    services: Services,
    key: ApiKey,
    environment_header: str | None,
    user_header: str | None,
) -> dict[str, Any]:
    """The fields of `Grounds`."""
    model_environment, _, model_user = body.model.partition("/")
    name = environment_header or body.environment or model_environment
    user = user_header or body.user or model_user or NOBODY
    if not name:
        raise InvalidInputError(
            "/model: expected environment/user, or the environment in the header X-Psharelora-Environment or the "
            "field environment; found none.",
            pointer="/model",
        )
    check_visible(key, name)
    check_acts(key, user_header)
    environment = (await services.current.environment(name)).definition
    has_contexts = isinstance(environment, CatalogEnvironment) and environment.context_dim is not None
    documents = [_option(document) for document in body.documents]
    if any(isinstance(document, TextBody) for document in documents):
        check_reads_texts(environment)
    query = body.query if isinstance(body.query, str) else body.query.text
    options, context = await options_and_context(
        environment, documents, readable(query) if has_contexts else None, services.encoder_for
    )
    answer = await services.runtime.rank(name, user, options, context, top_n=body.top_n)
    results = []
    for one in answer.ranking:
        assert one.index is not None
        reward = one.reward
        results.append(
            Reranked(
                reward=reward.reward,
                stderr=reward.stderr,
                lower=reward.lower,
                upper=reward.upper,
                index=one.index,
                relevance_score=share(reward.reward),
                document=_document(documents[one.index]) if body.return_documents else None,
            )
        )
    return {
        "id": request_id_of(request.scope),
        "model_version": answer.model_version,
        "feedback_seen": answer.feedback_seen,
        "results": results,
    }


def _option(document: str | TextDocument | ItemDocument) -> TextBody | ItemBody:
    match document:
        case str():
            return readable(document)
        case TextDocument():
            return readable(document.text)
        case ItemDocument():
            return ItemBody(item=document.item)


def _document(option: TextBody | ItemBody) -> RerankedDocument:
    return RerankedDocument(text=option.text) if isinstance(option, TextBody) else RerankedDocument(item=option.item)
