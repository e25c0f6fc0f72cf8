"""`psharelora doctor` on installations that are well, and on some that are not."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.cli.doctor import Health, _clock, _models, _worker
from app.store import EnvironmentAge, Installation
from tests.support.api import serving
from tests.support.commands import free_port, run_command
from tests.support.worker import working

NOW = datetime(2026, 5, 1, tzinfo=UTC)


Examined = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examined:
    """What the command says in an empty folder with these settings: its exit code, and its checks by name."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("PSHARELORA_") and name != "PSHARELORA_TEST_DIRECTORY":
            monkeypatch.delenv(name)

    def examine(**settings: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = CliRunner().invoke(command_line, ["doctor", "--json"], env=settings)
        return done.exit_code, {check["name"]: check for check in json.loads(done.stdout)}

    return examine


def installation(**changes: Any) -> Installation:
    given: dict[str, Any] = {
        "server_version": 180_000,
        "now": datetime.now(UTC),
        "heartbeat": None,
        "waiting_jobs": 0,
        "environments": (),
    }
    return Installation(**{**given, **changes})


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[str]:
    with serving(database_url) as url, working(database_url):
        yield url


def test_a_good_installation_is_good(service: str, database_url: str, tmp_path: Path, examined: Examined) -> None:
    settings = {"PSHARELORA_DATABASE_URL": database_url, "PSHARELORA_PORT": service.rpartition(":")[2]}
    made = run_command(tmp_path, "keys", "create", "me", "--scope", "admin", "--save", **settings)
    assert made.returncode == 0, made.stderr
    looked = run_command(tmp_path, "doctor", "--json", **settings)
    status, checks = looked.returncode, {check["name"]: check for check in json.loads(looked.stdout)}
    wrong = {name: check for name, check in checks.items() if check["health"] == "wrong"}
    assert (status, wrong) == (0, {})
    for name in ("python", "packages", "data directory", "database", "schema", "clock", "worker", "port", "key"):
        assert checks[name]["health"] == "good", checks[name]
    assert checks["database"]["found"].startswith("PostgreSQL 18")
    file = tmp_path / ".psharelora" / "client.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = run_command(tmp_path, "environments", "--json", "--url", service)
    assert listed.returncode == 0, listed.stderr


def test_what_is_missing_is_named_with_what_to_do(examined: Examined) -> None:
    status, checks = examined(PSHARELORA_PORT=str(free_port()))
    assert status == 0
    warnings = {name: check["mend"] for name, check in checks.items() if check["health"] == "warning"}
    assert warnings == {
        "database": "psharelora serve, or psharelora demo",
        "port": "psharelora serve",
        "key": "psharelora keys create me --scope admin --save",
    }
    table = CliRunner().invoke(command_line, ["doctor"], env={"PSHARELORA_PORT": str(free_port())})
    assert "0 wrong, 3 to look at" in table.stdout


def test_a_database_that_is_away_and_a_port_that_is_taken_are_wrong(tmp_path: Path, examined: Examined) -> None:
    (tmp_path / ".psharelora").mkdir()
    (tmp_path / ".psharelora" / "client.key").write_text("secret")
    (tmp_path / ".psharelora" / "client.key").chmod(0o644)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, checks = examined(
            PSHARELORA_PORT=str(other.getsockname()[1]),
            PSHARELORA_DATABASE_URL="postgresql://nobody:s3cret@127.0.0.1:1/none",
        )
    assert status == 1
    assert checks["database"]["health"] == "wrong"
    assert "s3cret" not in json.dumps(checks["database"])
    assert checks["port"]["health"] == "wrong"
    assert checks["key"]["mend"].startswith("chmod 600 ")


def test_a_database_that_was_never_migrated_is_wrong(server_url: str, examined: Examined) -> None:
    _, checks = examined(PSHARELORA_DATABASE_URL=server_url, PSHARELORA_PORT=str(free_port()))
    assert (checks["schema"]["health"], checks["schema"]["mend"]) == ("wrong", "psharelora migrate")


def test_a_setting_that_is_wrong_is_named(examined: Examined) -> None:
    status, checks = examined(PSHARELORA_PORT="eighty")
    assert status == 1
    assert checks["PSHARELORA_PORT"]["health"] == "wrong"


def test_clocks_apart_are_wrong() -> None:
    assert _clock(installation()).health is Health.GOOD
    assert _clock(installation(now=datetime.now(UTC) + timedelta(hours=2))).health is Health.WRONG


def test_a_silent_worker_is_noticed() -> None:
    assert _worker(installation(waiting_jobs=2)).found == "none is running, 2 refits wait"
    silent = _worker(installation(now=NOW, heartbeat=NOW - timedelta(minutes=5)))
    assert (silent.health, silent.found) == (Health.WARNING, "not heard of for 5 minutes")
    assert _worker(installation(now=NOW, heartbeat=NOW - timedelta(seconds=3))).health is Health.GOOD


@pytest.mark.parametrize(
    ("age", "health", "found"),
    [
        (EnvironmentAge("a", 50, 0, NOW - timedelta(days=30), None), Health.GOOD, "30 days old, 0 preferences since"),
        (
            EnvironmentAge("a", 50, 9, NOW - timedelta(days=30), None),
            Health.WARNING,
            "30 days old, 9 preferences since",
        ),
        (EnvironmentAge("a", 50, 9, NOW - timedelta(hours=3), None), Health.GOOD, "3 hours old, 9 preferences since"),
        (EnvironmentAge("a", 50, 9, None, None), Health.WARNING, "none yet, 50 preferences"),
        (EnvironmentAge("a", 50, 9, None, "no users"), Health.WARNING, "the newest refit failed: no users"),
    ],
)
def test_models_are_judged_by_what_they_have_not_learnt(age: EnvironmentAge, health: Health, found: str) -> None:
    (check,) = _models(installation(now=NOW, environments=(age,)))
    assert (check.health, check.found) == (health, found)
