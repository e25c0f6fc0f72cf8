"""Data sets as other tools write them, read as preferences in the service's own form."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any

from app.cli.tables import UnreadableError, is_table, kind_of, readable, rows_of, unpacked

Json = dict[str, Any]


class Format(StrEnum):
    PAIRS = "pairs"
    """Columns user, chosen, rejected; perhaps prompt, label, weight, id, occurred_at."""
    TRL = "trl"
    """TRL's preference columns: prompt (or none), chosen, rejected, as texts or as messages."""
    ARENA = "arena"
    """Chatbot Arena battles."""
    ARGILLA = "argilla"
    """An Argilla export: a ranking or a choice between responses."""
    LABEL_STUDIO = "label-studio"
    """A Label Studio JSON export: pairwise or ranker."""


def preferences_in(
    file: Path, form: Format, *, user: str | None = None, user_column: str = "user", contexts: bool = False
) -> Iterator[Json]:
    """Preferences as the service takes them.

    Parameters
    ----------
    user
        Whose they all are, where the data do not say.
    contexts
        Whether prompts are kept as contexts.
    """
    for number, record in enumerate(records_in(file), start=1):
        try:
            for found in _READERS[form](record):
                yield _finished(found, record, user=user, user_column=user_column, contexts=contexts)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            what = f"there is no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise UnreadableError(f"{file.name}, row {number}, as {form}: {what}") from error


def guessed_format(file: Path) -> Format:
    """By the first row's columns."""
    first = next(records_in(file), {})
    if "annotations" in first:
        return Format.LABEL_STUDIO
    if "fields" in first and "responses" in first:
        return Format.ARGILLA
    if "winner" in first or "winner_model_a" in first:
        return Format.ARENA
    return Format.TRL if isinstance(first.get("chosen"), list) else Format.PAIRS


def records_in(file: Path) -> Iterator[Json]:
    """Rows of a .csv, .tsv, .parquet, .json or .jsonl / .ndjson file; .gz is unpacked."""
    with file.open("rb") as raw, readable(file):
        if is_table(file):
            yield from rows_of(file, raw)
            return
        text = io.TextIOWrapper(unpacked(file, raw), encoding="utf-8-sig", newline="")
        records = json.load(text) if kind_of(file) == ".json" else (json.loads(line) for line in text if line.strip())
        if not isinstance(records, list | Iterator):
            raise UnreadableError(f"{file.name}: expected a list of objects.")
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict):
                raise UnreadableError(f"{file.name}, row {number}: expected an object; found {str(record)[:80]!r}.")
            yield record


def _finished(found: Json, record: Mapping[str, Any], *, user: str | None, user_column: str, contexts: bool) -> Json:
    """With its user, its texts as options, and the columns that every format may have."""
    prompt = found.pop("prompt", None)
    whose = user or found.pop("user", None) or record.get(user_column)
    if whose is None or whose == "":
        raise ValueError(
            f"there is no column {user_column!r}, which says whose preference it is; name it by --user-column, or give "
            "--user if all are one person's."
        )
    done: Json = {
        "user": str(whose),
        "chosen": {"text": found["chosen"]},
        "rejected": {"text": found["rejected"]},
    }
    if contexts and prompt:
        done["context"] = {"text": prompt}
    if "label" in found:
        done["label"] = found["label"]
    for name, convert in (("label", float), ("weight", float), ("id", str), ("occurred_at", str)):
        if name not in done and record.get(name) not in {None, ""} and not isinstance(record[name], dict | list):
            done[name] = convert(record[name])
    return done


def _pairs(record: Mapping[str, Any]) -> Iterator[Json]:
    yield {"prompt": record.get("prompt"), "chosen": record["chosen"], "rejected": record["rejected"]}


def _trl(record: Mapping[str, Any]) -> Iterator[Json]:
    """An implicit prompt is what both sides begin with."""
    chosen, rejected, prompt = record["chosen"], record["rejected"], record.get("prompt")
    if prompt is None:
        shared = _common(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    yield {"prompt": _said(prompt), "chosen": _said(chosen), "rejected": _said(rejected)}


def _common(one: Any, other: Any) -> int:
    """How many messages are the same; of texts, how many characters up to the last turn's beginning."""
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if not isinstance(one, str):
        return shared
    turns = [found.end() for found in re.finditer(r"(?:Assistant|assistant|ASSISTANT)\s*:\s*", one[:shared])]
    return turns[-1] if turns else 0


def _said(words: Any) -> str:
    if isinstance(words, str):
        return words
    return "\n".join(str(message["content"]) for message in words)


def _arena(record: Mapping[str, Any]) -> Iterator[Json]:
    """Both forms: conversations with a winner's name, and prompt and responses with a flag a side."""
    if "conversation_a" in record:
        a, b = (_parsed(record[f"conversation_{side}"]) for side in "ab")
        prompt = "\n".join(one["content"] for one in a if one["role"] == "user")
        sides = [_said([one for one in talk if one["role"] == "assistant"]) for talk in (a, b)]
    else:
        prompt = _joined(record["prompt"])
        sides = [_joined(record[f"response_{side}"]) for side in "ab"]
    winner = str(record.get("winner") or _flagged(record))
    if winner not in {"model_a", "model_b"} and not winner.startswith("tie"):
        raise ValueError(f"winner: expected model_a, model_b or tie; found {winner!r}.")
    chosen, rejected = reversed(sides) if winner == "model_b" else sides
    if chosen != rejected:
        judge = record.get("judge") or record.get("judge_hash")
        found = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "user": judge}
        yield {**found, "label": 0.5} if winner.startswith("tie") else found


def _flagged(record: Mapping[str, Any]) -> str:
    for name in ("model_a", "model_b", "tie"):
        if int(record[f"winner_{name}"]):
            return name
    return "none"


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _joined(value: Any) -> str:
    """A text, or a list of turns, perhaps as JSON in a string."""
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    return value if isinstance(value, str) else "\n".join(str(turn) for turn in value if turn is not None)


def _argilla(record: Mapping[str, Any]) -> Iterator[Json]:
    """Argilla 2 groups answers by question, Argilla 1 by person."""
    fields, responses = record["fields"], record["responses"]
    if isinstance(responses, Mapping):
        answers = [(one.get("user_id"), one["value"]) for several in responses.values() for one in several]
    else:
        answers = [
            (one.get("user_id"), value["value"]) for one in responses for value in (one.get("values") or {}).values()
        ]
    prompt = next((fields[name] for name in ("prompt", "instruction", "question", "input") if name in fields), None)
    for user, value in answers:
        for chosen, rejected, label in _argilla_pairs(fields, value):
            yield {"prompt": prompt, "user": user, "chosen": chosen, "rejected": rejected, "label": label}


def _argilla_pairs(fields: Mapping[str, Any], value: Any) -> Iterator[tuple[str, str, float]]:
    texts = {_plain(name): text for name, text in fields.items()}
    if isinstance(value, list):
        ranked = [
            (one["rank"], texts[_plain(one["value"])]) if isinstance(one, Mapping) else (at, texts[_plain(one)])
            for at, one in enumerate(value)
        ]
        for (rank, text), (other_rank, other) in combinations(ranked, 2):
            first, second = (text, other) if rank <= other_rank else (other, text)
            yield first, second, 0.5 if rank == other_rank else 1.0
        return
    responses = {name: text for name, text in texts.items() if re.match(r"(response|answer|completion|output)", name)}
    if isinstance(value, str) and _plain(value) in responses:
        chosen = _plain(value)
        yield from ((responses[chosen], text, 1.0) for name, text in responses.items() if name != chosen)
    elif isinstance(value, str) and "tie" in value.lower():
        yield from ((text, other, 0.5) for text, other in combinations(responses.values(), 2))


def _plain(name: str) -> str:
    """response-1, response_1 and Response1 are one name."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _label_studio(record: Mapping[str, Any]) -> Iterator[Json]:
    data = record["data"]
    prompt = next((data[name] for name in ("prompt", "instruction", "question", "input") if name in data), None)
    for annotation in record["annotations"]:
        by = annotation.get("completed_by")
        user = by.get("email") or by.get("id") if isinstance(by, Mapping) else by
        for result in annotation.get("result", ()):
            for chosen, rejected in _label_studio_pairs(data, prompt, result):
                yield {"prompt": prompt, "user": user, "chosen": chosen, "rejected": rejected}


def _label_studio_pairs(data: Mapping[str, Any], prompt: Any, result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    value = result["value"]
    if result["type"] == "pairwise":
        named = [name for name in str(result.get("to_name", "")).split(",") if name in data]
        texts = [text for text in data.values() if isinstance(text, str) and text != prompt]
        left, right = (data[name] for name in named) if len(named) == 2 else texts[:2]
        return [(left, right) if value["selected"] == "left" else (right, left)]
    if result["type"] == "ranker":
        listed = {
            str(item["id"]): str(item.get("body") or item.get("title"))
            for items in data.values()
            if isinstance(items, list)
            for item in items
            if isinstance(item, Mapping) and "id" in item
        }
        (order,) = [ids for ids in value["ranker"].values() if ids][:1]
        return combinations((listed[str(one)] for one in order), 2)
    return ()


_READERS: Mapping[Format, Callable[[Mapping[str, Any]], Iterator[Json]]] = {
    Format.PAIRS: _pairs,
    Format.TRL: _trl,
    Format.ARENA: _arena,
    Format.ARGILLA: _argilla,
    Format.LABEL_STUDIO: _label_studio,
}
