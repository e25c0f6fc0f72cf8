"""From a file of one's own to the first personalised answer, by commands: `import --create`, `rank`, and the others."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from app.cli.remote import _create
from app.client import Client
from tests.support.api import ADMIN_KEY, serving
from tests.support.commands import run_command
from tests.support.replies import KIND, ON_REQUEST, SHORT, embeddings, said_of_replies
from tests.support.worker import working


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[str]:
    with serving(database_url) as url, working(database_url):
        yield url


def test_one_import_and_one_rank_are_enough(service: str, tmp_path: Path) -> None:
    name = f"replies-{uuid4().hex}"
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "chosen", "rejected"])
        writer.writerows([one["user"], one["chosen"]["text"], one["rejected"]["text"]] for one in said_of_replies())
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    with embeddings() as url, Client(service, key=ADMIN_KEY) as client:
        # Defined beforehand only for an encoder that is quicker to fit than the built-in one.
        encoder = {"url": url, "model": "three-features"}
        client.put_environment(name, {"kind": "catalog", "encoder": encoder, "rank": 1, "refit": ON_REQUEST})
        early = run_command(tmp_path, "rank", name, "u0", SHORT[0], **settings)
        assert early.returncode == 4
        assert early.stderr.startswith("error: 503 model-not-ready")

        imported = run_command(tmp_path, "import", name, "pairs.csv", "--create", "--json", **settings)
        assert imported.returncode == 0, imported.stderr
        counts = json.loads(imported.stdout)
        assert (counts["accepted"], counts["rejected"], counts["refit"]["state"]) == (288, 0, "succeeded")
        again = run_command(tmp_path, "import", name, "pairs.csv", "--create", **settings)
        assert again.stdout == "accepted 0, duplicates 288, rejected 0\n"

        ranked = run_command(tmp_path, "rank", name, "u0", KIND[0], SHORT[0], "--json", **settings)
        assert [one["index"] for one in json.loads(ranked.stdout)["options"]] == [1, 0], ranked.stderr
        table = run_command(tmp_path, "rank", name, "u1", KIND[0], SHORT[0], **settings)
        assert table.stdout.index("sorry") < table.stdout.index("Yes.")
        assert "24 answers of u1" in table.stdout
        explained = run_command(tmp_path, "explain", name, "u0", "--text", SHORT[0], **settings)
        assert explained.stdout.startswith('u0\'s reward of "Yes." is'), explained.stderr
        models = run_command(tmp_path, "models", name, "--json", **settings)
        assert [one["status"] for one in json.loads(models.stdout)] == ["published"]
        taken = run_command(tmp_path, "export", name, "u0", "--adapter", "lora", **settings)
        assert taken.returncode == 0, taken.stderr
        assert (tmp_path / "lora" / "adapter_model.safetensors").stat().st_size > 0


def test_an_environment_for_texts_is_defined_on_the_fly(service: str, environment_name: str) -> None:
    with Client(service, key=ADMIN_KEY) as client:
        _create(client, environment_name, contexts=True)
        definition = client.environment(environment_name)["definition"]
        assert (definition["encoder"], definition["context_dim"]) == ("builtin", 256)
        _create(client, environment_name, contexts=False)
        assert client.environment(environment_name)["definition"] == definition


def test_a_service_that_is_not_there_has_its_own_exit_code(tmp_path: Path) -> None:
    told = run_command(tmp_path, "environments", "--url", "http://127.0.0.1:1")
    assert told.returncode == 3
    assert "psharelora doctor" in told.stderr


def test_a_row_that_does_not_fit_is_misuse(service: str, environment_name: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("chosen,rejected\nYes.,No.\n")
    settings = {"PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY}
    with Client(service, key=ADMIN_KEY) as client:
        _create(client, environment_name, contexts=False)
    told = run_command(tmp_path, "import", environment_name, "pairs.csv", "--format", "pairs", **settings)
    assert told.returncode == 2
    assert "error: pairs.csv, row 1, as pairs: there is no column 'user'" in told.stderr
