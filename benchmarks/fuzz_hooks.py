"""What Schemathesis must be told about the service: how a body of lines is written."""

import json
from typing import Any

import schemathesis
from schemathesis import SerializationContext


@schemathesis.serializer("application/x-ndjson")
def lines(_: SerializationContext, value: Any) -> bytes:
    rows = value if isinstance(value, list) else [value]
    return b"".join(
        (row if isinstance(row, str) else json.dumps(row)).encode("utf-8", "replace") + b"\n" for row in rows
    )
