"""Schemathesis: whatever the OpenAPI document allows, and much that it does not, is answered without a fault."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from tests.support.api import ADMIN_KEY, serving, settings_for

schema = schemathesis.openapi.from_dict(create_app(settings_for("postgresql://nowhere")).openapi())

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def address(database_url: str) -> Iterator[str]:
    with serving(database_url) as url:
        yield url


@schema.exclude(path="/v1/environments/{environment}/preferences/import").parametrize()
@hypothesis.settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_no_request_is_answered_with_a_fault(case: schemathesis.Case[Any], address: str) -> None:
    response = case.call(base_url=address, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
    if response.status_code == 503:
        # The embeddings service that a definition names is not there.
        return
    case.validate_response(response, checks=CHECKS)
