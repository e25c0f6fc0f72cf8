"""However deep a body is nested, and whatever stands in it, it costs no more than its size, and is no fault."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.compat.personalizer import in_words
from app.api.compat.wire import user_in
from app.api.schemas.base import MAX_TEXT
from app.domain import InvalidInputError
from app.main import create_app
from tests.api.test_tenants import BODIES, named
from tests.support.api import Json, settings_for

DOCUMENT: Json = create_app(settings_for("postgresql://nowhere")).openapi()
DEPTHS = (400, 900, 5_000)
"""What our own code might stumble over, what a parser takes, and what none takes."""


def bodies() -> Iterator[tuple[str, str, str, set[str]]]:
    """Method, path, media type and fields of every operation that reads a body."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield method.upper(), path, media_type, fields(content.get("schema", {}))


def fields(schema: Json) -> set[str]:
    if "$ref" in schema:
        return fields(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    found = set(schema.get("properties", {}))
    return found.union(*(fields(one) for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ())))


def test_a_body_that_is_nested_deeply_is_no_fault(api: httpx.Client, catalog: str) -> None:
    values = {"environment": catalog, "user": "u", "key_id": "k", "refit": "r", "event_id": "e"}
    tried = 0
    for method, path, media_type, names in bodies():
        begun = named(BODIES.get((method, path), {}), values)
        for name in names or {"preferences"}:
            for depth, (left, right) in ((d, pair) for d in DEPTHS for pair in (("[", "]"), ('{"user":', "}"))):
                content = with_field(begun, name, left * depth + "1" + right * depth)
                headers = {"Content-Type": media_type, "X-Psharelora-Environment": catalog}
                answer = api.request(method, named(path, values), content=content, headers=headers)
                assert answer.status_code < 500, (method, path, name, depth, answer.text)
                tried += 1
    assert tried > 300


def with_field(body: Json, name: str, value: str) -> bytes:
    rest = "".join(f", {json.dumps(key)}: {json.dumps(one)}" for key, one in body.items() if key != name)
    return f"{{{json.dumps(name)}: {value}{rest}}}".encode()


def test_features_are_words_in_the_order_of_their_names() -> None:
    features = [{"b": {"y": True, "x": 1.5}, "a": "first"}, "bare", {"c": [{"d": 2}, None, {"d": 3}]}]
    assert in_words(features) == "a: first\nb x: 1.5\nb y: True\nbare\nc d: 2\nc d: 3"
    assert in_words(None) == ""


def test_features_cost_no_more_words_than_a_text_may_have() -> None:
    for features in ({"k" * 1_000_000: list(range(100_000))}, nested("k" * 10_000, 900)):
        assert MAX_TEXT <= len(in_words(features)) <= 3 * MAX_TEXT


def nested(name: str, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {name: value}
    return value


def test_a_label_may_name_its_user_at_any_depth() -> None:
    assert user_in({"user": '{"user": {"user": "ada"}}'}, "/label") == "ada"
    deep: Any = "ada"
    for _ in range(50_000):
        deep = {"user": deep}
    assert user_in(deep, "/label") == "ada"
    for wrong in ({"name": "ada"}, '{"name": 1}', "{", '{"user": ' * 100_000):
        with pytest.raises(InvalidInputError, match="expected a user's id"):
            user_in(wrong, "/label")
