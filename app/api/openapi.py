"""The OpenAPI document: what the framework derives from the routers, and what only we know."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app.api.problems import Problem
from app.api.revalidation import document_revalidation, is_revalidated
from app.api.schemas.users import UserExport

DESCRIPTION = """\
Learns every user's own reward function from pairwise preferences, and serves it.

Rewards are log-odds: an option with reward 1 is chosen 73% of the time over one with reward 0. Preferences fix \
rewards only up to a constant, so each reward is a difference from the environment's reference (a catalogue's \
mean item; the expectation under an MDP's reference policy): 0 means no better than the reference. The scale is \
pinned within a model version; compare rewards of the same `model_version` only.

`stderr`, `lower` and `upper` say how sure the service is of a reward for this very user; `feedback_seen` is how \
many of the user's own preferences an answer rests on. A user nobody has heard of is served the population's \
answer.

Errors are RFC 9457 problem documents; `/problems` lists them. Every answer has an `X-Request-ID`: yours, if you \
sent one.
"""

TAGS = [
    ("environments", "Decision problems: catalogues of items, and finite-horizon MDPs."),
    ("items", "A catalogue's items."),
    ("preferences", "What users said."),
    ("users", "What is known of one user."),
    ("rewards", "How a user values options: rewards, rankings, and what to ask next."),
    ("policies", "What to do for a user in an MDP: certified robust policies and actions."),
    ("refits", "Runs of the worker that fit a new model."),
    ("models", "Fitted model versions."),
    ("keys", "API keys."),
    ("audit", "What administrators did."),
    ("compatibility", "The wire forms of tools that people already use."),
    ("operations", "For those who run the service."),
]


def install_openapi(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, routers)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the framework's own way to extend it


def _document(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": description} for name, description in TAGS],
    )
    schemas = document["components"]["schemas"]
    for model in (Problem, UserExport):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
        for method in route.methods or ():
            operation = document["paths"][route.path][method.lower()]
            _restore_examples(operation, route.responses)
            if is_revalidated(route):
                document_revalidation(operation)
    return document


def _restore_examples(operation: dict[str, Any], responses: Mapping[int | str, dict[str, Any]]) -> None:
    """The framework leaves nulls out of examples, which then lack fields that answers always have."""
    for status, response in responses.items():
        for kind, media in response.get("content", {}).items():
            if "example" in media:
                operation["responses"][str(status)]["content"][kind]["example"] = media["example"]
