"""What pydantic finds, as one sentence and a JSON pointer."""

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_QUOTE = 60
"""Characters of an offending value that a message repeats."""

_HINTS = {"preferences": " Use /preferences/import for more."}
"""What to do about a list that is too long, by the name of its field."""

_PLACES = {"path": "path parameter", "query": "query parameter", "header": "header"}


def located(loc: Sequence[str | int], prefix: str = "") -> str | None:
    """The JSON pointer of a place in the body, "" for the body itself; None for a place outside of it."""
    if not loc or loc[0] != "body":
        return None
    return prefix + pointer_to(loc[1:])


def pointer_to(parts: Sequence[str | int]) -> str:
    """RFC 6901; the tags by which unions were told apart (they begin with @) are no part of the body."""
    kept = [str(part) for part in parts if not str(part).startswith("@")]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in kept)


def first_sentence(error: Mapping[str, Any], *, root: str = "the body") -> str:
    """What, where, what was expected, what was found."""
    loc: Sequence[str | int] = error["loc"]
    place = loc[0] if loc else "body"
    if place in _PLACES:
        where = f"{_PLACES[str(place)]} {loc[-1]}"
    else:
        inside = loc[1:] if place == "body" else loc
        where = pointer_to(inside) or root
    return f"{where}: {_expectation(error)}"


def _expectation(error: Mapping[str, Any]) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is required, and missing."
        case "extra_forbidden":
            return "is not a field of this request."
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected an object; found {quoted(error.get('input'))}."
        case "value_error":
            return str(context.get("error", error["msg"]))
        case "finite_number":
            return f"expected a finite number; found {quoted(error.get('input'))}."
        case "string_pattern_mismatch":
            return f"expected to match {context['pattern']}; found {quoted(error.get('input'))}."
        case "too_short":
            return f"expected at least {context['min_length']:,}; found {context['actual_length']:,}."
        case "too_long":
            hint = _HINTS.get(str(error["loc"][-1]), "")
            return f"expected at most {context['max_length']:,}; found {_more_than(context)}.{hint}"
        case "string_too_short" | "string_too_long":
            return f"{_lower(error['msg'])}."
        case _:
            return f"{_lower(error['msg'])}; found {quoted(error.get('input'))}."


def _more_than(context: Mapping[str, Any]) -> str:
    """A list may be given up before its end is counted."""
    found = context["actual_length"]
    return "more" if found is None else f"{found:,}"


def _lower(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def quoted(value: object) -> str:
    """A value as a message may repeat it: short, and no list or object in full."""
    match value:
        case dict():
            return "an object"
        case list() | tuple():
            return f"a list of {len(value)}"
        case bytes():
            return "bytes"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= LONGEST_QUOTE else f'"{value[:LONGEST_QUOTE]}..."'
        case _:
            text = repr(value)
            return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def encodable(message: str) -> str:
    """JSON can name half of a surrogate pair, which no answer may repeat."""
    return message.encode("utf-8", "backslashreplace").decode("utf-8")
