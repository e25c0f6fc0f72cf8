"""`psharelora keys`, against a migrated database."""

import json
from pathlib import Path

import pytest

from app.client import ApiError, Client
from tests.support.api import serving
from tests.support.commands import run_command


def test_a_key_is_shown_once_works_within_its_scope_and_can_be_revoked(database_url: str, tmp_path: Path) -> None:
    settings = {"PSHARELORA_DATABASE_URL": database_url}
    made = run_command(tmp_path, "keys", "create", "shop", "--scope", "read", "--json", **settings)
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    assert key["name"] == "shop"

    with serving(database_url) as url, Client(url, key=key["key"]) as client:
        assert "environments" in client.environments()
        with pytest.raises(ApiError, match="needs the scope admin"):
            client.keys()

        listed = run_command(tmp_path, "keys", "list", "--json", **settings)
        row = next(row for row in json.loads(listed.stdout) if row["id"] == key["id"])
        assert row == {"id": key["id"], "name": "shop", "scopes": "read", "environments": "all", "state": "active"}
        assert key["key"] not in listed.stdout

        revoked = run_command(tmp_path, "keys", "revoke", key["id"], **settings)
        assert (revoked.returncode, revoked.stdout) == (0, f"revoked {key['id']}\n")
        with pytest.raises(ApiError, match="401 unauthenticated"):
            client.environments()


def test_a_key_without_a_scope_is_refused(tmp_path: Path) -> None:
    refused = run_command(tmp_path, "keys", "create", "shop")
    assert refused.returncode == 2
    assert "--scope" in refused.stderr


def test_revoking_an_unknown_key_is_a_sentence(database_url: str, tmp_path: Path) -> None:
    refused = run_command(tmp_path, "keys", "revoke", "nobodys", PSHARELORA_DATABASE_URL=database_url)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: There is no API key 'nobodys'.")


def test_a_key_is_replaced_and_the_audit_log_knows(database_url: str, tmp_path: Path) -> None:
    settings = {"PSHARELORA_DATABASE_URL": database_url}
    made = run_command(tmp_path, "keys", "create", "s", "--scope", "read", "--expires-days", "1", "--json", **settings)
    key_id = json.loads(made.stdout)["id"]
    rotated = run_command(tmp_path, "keys", "rotate", key_id, "--grace-hours", "1", "--json", **settings)
    assert rotated.returncode == 0, rotated.stderr
    again = run_command(tmp_path, "keys", "rotate", key_id, **settings)
    assert again.returncode == 1
    assert "has a successor already" in again.stderr
    told = json.loads(run_command(tmp_path, "audit", "--limit", "5", "--json", **settings).stdout)
    assert [(one["key_id"], one["action"], one["target"]) for one in told[:2]] == [
        ("command-line", "keys.rotate", key_id),
        ("command-line", "keys.create", key_id),
    ]
