"""Data sets as other tools write them: small files in their published forms."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.cli.formats import Format, guessed_format, preferences_in
from app.cli.tables import UnreadableError

SAID = {"user": "ada", "chosen": {"text": "Yes."}, "rejected": {"text": "No."}}
CHAT = [{"role": "user", "content": "Rain?"}]
YES, NO = ([{"role": "assistant", "content": text}] for text in ("Yes.", "No."))


def written(folder: Path, rows: Any, name: str = "data.jsonl") -> Path:
    file = folder / name
    if name.endswith(".json"):
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file: Path, **options: Any) -> tuple[Format, list[dict[str, Any]]]:
    form = guessed_format(file)
    return form, list(preferences_in(file, form, **options))


@pytest.mark.parametrize(
    "name", ["pairs.csv", "pairs.tsv", "pairs.csv.gz", "pairs.jsonl", "pairs.json", "pairs.parquet"]
)
def test_pairs_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    row = {"user": "ada", "chosen": "Yes.", "rejected": "No.", "label": 0.9, "id": "one", "weight": 2.0}
    file = tmp_path / name
    match name.removesuffix(".gz").rpartition(".")[2]:
        case "parquet":
            pq.write_table(pa.Table.from_pylist([row]), file)
        case "json" | "jsonl":
            written(tmp_path, [row], name)
        case kind:
            with gzip.open(file, "wt", newline="") if name.endswith(".gz") else file.open("w", newline="") as text:
                writer = csv.DictWriter(text, list(row), delimiter="\t" if kind == "tsv" else ",")
                writer.writeheader()
                writer.writerow(row)
    assert read(file) == (Format.PAIRS, [{**SAID, "label": 0.9, "id": "one", "weight": 2.0}])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CHAT, "chosen": YES, "rejected": NO},
        {"chosen": CHAT + YES, "rejected": CHAT + NO},
    ],
    ids=["explicit", "implicit"],
)
def test_trl_columns_of_messages(tmp_path: Path, row: dict[str, Any]) -> None:
    file = written(tmp_path, [{**row, "annotator": "ada"}])
    form, found = read(file, user_column="annotator", contexts=True)
    assert (form, found) == (Format.TRL, [{**SAID, "context": {"text": "Rain?"}}])


def test_trl_columns_of_texts_share_their_prompt(tmp_path: Path) -> None:
    start = "\n\nHuman: Rain?\n\nAssistant: "
    file = written(tmp_path, [{"chosen": f"{start}Yes.", "rejected": f"{start}No."}])
    assert list(preferences_in(file, Format.TRL, user="ada")) == [SAID]
    explicit = written(tmp_path, [{"prompt": "Rain?", "chosen": "Yes.", "rejected": "No."}])
    assert list(preferences_in(explicit, Format.TRL, user="ada")) == [SAID]


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        ("model_a", [SAID]),
        ("model_b", [{**SAID, "chosen": SAID["rejected"], "rejected": SAID["chosen"]}]),
        ("tie (bothbad)", [{**SAID, "label": 0.5}]),
    ],
)
def test_arena_battles_of_both_forms(tmp_path: Path, winner: str, expected: list[dict[str, Any]]) -> None:
    talks = {"conversation_a": CHAT + YES, "conversation_b": CHAT + NO, "judge": "ada", "winner": winner}
    assert read(written(tmp_path, [talks], "battles.json")) == (Format.ARENA, expected)
    flags = {f"winner_{name}": int(winner.startswith(name)) for name in ("model_a", "model_b", "tie")}
    texts = {"prompt": '["Rain?"]', "response_a": '["Yes."]', "response_b": '["No."]', **flags}
    assert read(written(tmp_path, [texts], "arena.jsonl"), user="ada") == (Format.ARENA, expected)


FIELDS = {"prompt": "Rain?", "response-1": "No.", "response-2": "Yes."}


@pytest.mark.parametrize(
    "responses",
    [
        {"ranking": [{"value": ["response-2", "response-1"], "user_id": "ada"}]},
        {"preference": [{"value": "response-2", "user_id": "ada"}]},
        [
            {
                "user_id": "ada",
                "values": {"rank": {"value": [{"rank": 2, "value": "response-1"}, {"rank": 1, "value": "response-2"}]}},
            }
        ],
        [{"user_id": "ada", "values": {"best": {"value": "response-2"}}}],
    ],
)
def test_argilla_rankings_and_choices(tmp_path: Path, responses: Any) -> None:
    file = written(tmp_path, [{"id": "r1", "fields": FIELDS, "responses": responses}], "argilla.json")
    form, (found,) = read(file)
    assert form is Format.ARGILLA
    assert {name: found[name] for name in SAID} == SAID
    assert found["label"] == 1.0


def test_argilla_ties_are_ties(tmp_path: Path) -> None:
    ranks = [{"rank": 1, "value": name} for name in ("response-1", "response-2")]
    record = {"fields": FIELDS, "responses": [{"user_id": "ada", "values": {"rank": {"value": ranks}}}]}
    ((found),) = read(written(tmp_path, [record], "argilla.json"))[1]
    assert found["label"] == 0.5


def test_label_studio_pairs_and_rankings(tmp_path: Path) -> None:
    data = {"prompt": "Rain?", "answer1": "No.", "answer2": "Yes."}
    pair = {"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": "right"}}
    by = {"id": 7, "email": "ada"}
    task = {"data": data, "annotations": [{"completed_by": by, "result": [pair]}]}
    form, found = read(written(tmp_path, [task], "label-studio.json"))
    assert (form, found) == (Format.LABEL_STUDIO, [SAID])
    unnamed = {**task, "annotations": [{"completed_by": 7, "result": [{**pair, "to_name": "answer1"}]}]}
    assert read(written(tmp_path, [unnamed], "label-studio.json"))[1] == [{**SAID, "user": "7"}]
    items = [{"id": name, "title": "", "body": text} for name, text in (("a", "No."), ("b", "Yes."), ("c", "Maybe."))]
    order = {"type": "ranker", "value": {"ranker": {"_": ["b", "c", "a"]}}}
    ranked = {"data": {"items": items}, "annotations": [{"completed_by": by, "result": [order]}]}
    pairs = [(one["chosen"]["text"], one["rejected"]["text"]) for one in read(written(tmp_path, [ranked], "r.json"))[1]]
    assert pairs == [("Yes.", "Maybe."), ("Yes.", "No."), ("Maybe.", "No.")]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"chosen": "Yes.", "rejected": "No."}, "data.jsonl, row 1, as pairs: there is no column 'user'"),
        ({"user": "ada", "chosen": "Yes."}, "data.jsonl, row 1, as pairs: there is no 'rejected'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, row: dict[str, str], sentence: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        list(preferences_in(written(tmp_path, [row]), Format.PAIRS))
    assert str(refused.value).startswith(sentence)


def test_an_unknown_winner_is_named(tmp_path: Path) -> None:
    talks = {"conversation_a": CHAT + YES, "conversation_b": CHAT + NO, "judge": "ada", "winner": "both"}
    with pytest.raises(UnreadableError, match="expected model_a, model_b or tie; found 'both'"):
        read(written(tmp_path, [talks]))
