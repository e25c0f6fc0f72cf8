"""`import`, `export` and `retrain`, against a running service."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.client import Client
from tests.support.api import ADMIN_KEY, Json, serving
from tests.support.commands import run_command
from tests.support.worker import working

DEFINITION = {"kind": "catalog", "item_dim": 2, "refit": {"every_seconds": 3600, "min_new_preferences": 1_000_000}}


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[str]:
    with serving(database_url) as url, working(database_url):
        yield url


@pytest.fixture
def environment(service: str, environment_name: str) -> str:
    with Client(service, key=ADMIN_KEY) as client:
        client.put_environment(environment_name, DEFINITION)
        client.put_items(environment_name, [{"id": f"i{n}", "features": [n, 1 - n]} for n in range(4)])
    return environment_name


def preference(number: int, chosen: str = "i1") -> dict[str, Any]:
    return {"id": f"p{number}", "user": f"u{number % 3}", "chosen": {"item": chosen}, "rejected": {"item": "i0"}}


def lines(*preferences: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in preferences)


def test_importing_again_counts_nothing_twice_packed_or_not(service: str, environment: str, tmp_path: Path) -> None:
    written = lines(*(preference(number) for number in range(2500)))
    (tmp_path / "plain.ndjson").write_bytes(written)
    (tmp_path / "packed.ndjson.gz").write_bytes(gzip.compress(written))
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    first = run_command(tmp_path, "import", environment, "plain.ndjson", **settings)
    assert (first.returncode, first.stdout) == (0, "accepted 2500, duplicates 0, rejected 0\n"), first.stderr
    assert "2,500 comparisons. There is no model yet." in " ".join(first.stderr.split())
    assert f"psharelora retrain {environment} fits now" in " ".join(first.stderr.split())
    again = run_command(tmp_path, "import", environment, "packed.ndjson.gz", "--json", **settings)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"accepted": 0, "duplicates": 2500, "rejected": 0, "errors": []}


def test_bad_lines_are_named_by_number_and_the_others_kept(service: str, environment: str, tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    file.write_bytes(lines(preference(0)) + b"{broken\n" + lines(preference(2, "nothing"), preference(3)))
    told = run_command(tmp_path, "import", environment, str(file), "--url", service, "--key", ADMIN_KEY)
    assert told.returncode == 1
    first, *errors = told.stdout.splitlines()
    assert first == "accepted 2, duplicates 0, rejected 2"
    assert [error.strip().partition(":")[0] for error in errors] == ["line 2", "line 3"]
    assert "nothing" in errors[1]


def told_of(service: str, environment: str, folder: Path, *arguments: str) -> Json:
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    done = run_command(folder, "import", environment, *arguments, "--json", **settings)
    assert done.returncode in {0, 1}, done.stderr
    told: Json = json.loads(done.stdout)
    return told


def exported(service: str, environment: str, user: str) -> list[Json]:
    with Client(service, key=ADMIN_KEY) as client:
        return [json.loads(line) for line in client.export_user(environment, user).splitlines()]


def test_a_table_of_items_is_imported_and_again(service: str, environment: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "user_id,chosen,rejected,margin,label,split,occurred_at\n"
        "ada,i1,i2,2.5,0.75,0,2026-05-01T09:30:00Z\n"
        "ada,i2,i3,,,1,\n"
        ",i2,i3,,,1,\n"
        "bob,i2,i2,,,1,\n"
        "bob,i1,i2,much,,1,\n"
        "bob,nothing,i2,,,1,\n"
    )
    first = told_of(service, environment, tmp_path, "table.csv", "--id-prefix", "table")
    assert (first["accepted"], first["duplicates"], first["rejected"]) == (2, 0, 4)
    assert [(error["line"], error["detail"]) for error in first["errors"]] == [
        (3, "user_id is empty."),
        (4, "/rejected: expected another option than the chosen one; found the same."),
        (5, "margin: expected a number; found 'much'."),
        (6, f"There is no item 'nothing' in environment '{environment}'."),
    ]
    said = exported(service, environment, "ada")
    assert said[0] == {
        "user": "ada",
        "chosen": {"item": "i1"},
        "rejected": {"item": "i2"},
        "label": 0.75,
        "weight": 2.5,
        "occurred_at": "2026-05-01T09:30:00Z",
        "id": "table-1",
    }
    again = told_of(service, environment, tmp_path, "table.csv", "--id-prefix", "table")
    assert (again["accepted"], again["duplicates"]) == (0, 2)


def test_a_table_without_ids_counts_once_however_often_it_comes(service: str, environment: str, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("user,chosen,rejected\nada,i1,i2\nbob,i2,i1\n")
    first, again = (told_of(service, environment, tmp_path, "plain.csv") for _ in range(2))
    assert (first["accepted"], first["duplicates"]) == (2, 0)
    assert (again["accepted"], again["duplicates"]) == (0, 2)


def test_a_misspelt_column_is_told_once_and_nothing_is_made(
    service: str, environment_name: str, tmp_path: Path
) -> None:
    (tmp_path / "misspelt.csv").write_text("user,choosen,rejected\nada,Yes.,No.\n")
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    done = run_command(tmp_path, "import", environment_name, "misspelt.csv", "--create", **settings)
    assert done.returncode == 2
    assert "expected a column chosen; found user, choosen, rejected. Is it 'choosen'?" in done.stderr
    with Client(service, key=ADMIN_KEY) as client:
        assert environment_name not in {one["name"] for one in client.environments()["environments"]}


def test_an_unknown_environment_is_answered_with_what_makes_it(
    service: str, environment_name: str, tmp_path: Path
) -> None:
    (tmp_path / "plain.csv").write_text("user,chosen,rejected\nada,Yes.,No.\n")
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    done = run_command(tmp_path, "import", environment_name, "plain.csv", **settings)
    assert done.returncode == 1
    assert "With --create it is made" in done.stderr


def test_texts_and_chats_are_imported_with_their_prompt(service: str, environment_name: str, tmp_path: Path) -> None:
    with Client(service, key=ADMIN_KEY) as client:
        client.put_environment(environment_name, {"kind": "catalog", "encoder": "builtin", "context_dim": 256})
    question = [{"role": "user", "content": "Is water wet?"}]
    chats = [
        {
            "user_id": "ada",
            "chosen": [*question, {"role": "assistant", "content": "Yes."}],
            "rejected": [*question, {"role": "assistant", "content": "It depends."}],
        },
        {"user_id": "bob", "chosen": question, "rejected": [{"role": "user", "content": "No."}]},
    ]
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "chats.parquet")
    plain = [{"user": "cy", "prompt": "Is water wet?", "chosen": "Yes.", "rejected": "It depends."}]
    (tmp_path / "plain.ndjson").write_bytes(lines(*plain))
    assert told_of(service, environment_name, tmp_path, "chats.parquet")["accepted"] == 2
    assert told_of(service, environment_name, tmp_path, "plain.ndjson")["accepted"] == 1
    for user in ("ada", "cy"):
        (said,) = exported(service, environment_name, user)
        assert (said["context"], said["chosen"]) == ({"text": "Is water wet?"}, {"text": "Yes."})
        assert said["rejected"] == {"text": "It depends."}
    (said,) = exported(service, environment_name, "bob")
    assert "context" not in said


def test_all_that_is_stored_of_a_user_is_printed(service: str, environment: str, tmp_path: Path) -> None:
    with Client(service, key=ADMIN_KEY) as client:
        client.record(environment, [preference(0), preference(3), preference(1)])
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    exported = run_command(tmp_path, "export", environment, "u0", **settings)
    assert exported.returncode == 0, exported.stderr
    assert [json.loads(line)["id"] for line in exported.stdout.splitlines() if line] == ["p0", "p3"]


def test_retraining_waits_for_the_end_and_says_how_it_was(service: str, environment: str, tmp_path: Path) -> None:
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    empty = run_command(tmp_path, "retrain", environment, **settings)
    assert empty.returncode == 1
    assert "failed (Environment" in empty.stdout
    with Client(service, key=ADMIN_KEY) as client:
        client.record(environment, [preference(number) for number in range(40)])
    asked = run_command(tmp_path, "retrain", environment, "--no-wait", "--json", **settings)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["state"] in {"queued", "running"}
    ended = run_command(tmp_path, "retrain", environment, "--json", **settings)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["state"] == "succeeded"
    with Client(service, key=ADMIN_KEY) as client:
        assert client.rank(environment, "u0", top_n=1)["feedback_seen"] == 14


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "nowhere", "absent.ndjson"], "error: there is no file absent.ndjson"),
        (["export", "nowhere", "u0"], "error: 404 not-found: There is no environment 'nowhere'."),
        (["retrain", "nowhere"], "error: 404 not-found: There is no environment 'nowhere'."),
    ],
)
def test_what_is_refused_is_a_sentence(service: str, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    refused = run_command(tmp_path, *arguments, PSHARELORA_URL=service, PSHARELORA_KEY=ADMIN_KEY)
    assert refused.returncode in {1, 2}
    assert refused.stderr.startswith(sentence)


def test_a_service_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    refused = run_command(tmp_path, "retrain", "anything", "--url", "http://127.0.0.1:1")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: no answer from http://127.0.0.1:1")
