"""`serve`, `worker` and `migrate` as processes: how they begin, what they refuse, how they end."""

import socket
from pathlib import Path

import httpx
import pytest

from tests.support.commands import free_port, run_command, running_command
from tests.support.faults.installation import wait_until
from tests.support.processes import kill_family

SECRET = "s3cretpassw0rd"
ADMIN_KEY = "an-administrators-key-for-tests"


def test_the_processes_share_the_embedded_server_keep_it_up_and_the_last_one_stops_it(tmp_path: Path) -> None:
    port = free_port()
    pid_file = tmp_path / ".psharelora" / "postgres" / "postmaster.pid"
    with (
        running_command(tmp_path, "serve", "--port", str(port), PSHARELORA_ADMIN_KEY=ADMIN_KEY) as serve,
        running_command(tmp_path, "worker", PSHARELORA_LOG_FORMAT="json") as worker,
    ):
        serve.wait_until(lambda: _answers(port))
        worker.wait_until(lambda: "worker_started" in worker.said)
        assert '"event": "worker_started"' in worker.said
        before = pid_file.read_text()
        kill_family(int(before.split("\n", 1)[0]))
        # Either of them starts it again; nobody else does.
        serve.wait_until(lambda: pid_file.exists() and pid_file.read_text() != before and _answers(port))
        assert serve.end() == 0, serve.said
        assert pid_file.exists()
        assert worker.end() == 0, worker.said
    assert not pid_file.exists()
    assert ADMIN_KEY not in serve.said


def test_several_api_processes_answer_on_one_port_and_end_with_their_parent(tmp_path: Path) -> None:
    port = free_port()
    with running_command(tmp_path, "serve", "--port", str(port), "--workers", "2") as serve:
        serve.wait_until(lambda: serve.said.count("Application startup complete") == 2 and _answers(port))
        serve.child.kill()
        serve.child.wait()
        # Else they would keep the port from the one that is started in its place.
        wait_until(lambda: not _answers(port))
        wait_until(lambda: not (tmp_path / ".psharelora" / "postgres" / "postmaster.pid").exists())


def test_a_taken_port_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in ("serve", "demo"):
            refused = run_command(tmp_path, command, "--port", port)
            assert refused.returncode == 1
            assert refused.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use.")
            assert "--port or PSHARELORA_PORT" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (["serve"], {"PSHARELORA_PORT": "abc"}, "PSHARELORA_PORT: Input should be a valid integer"),
        (["serve", "--port", "99999"], {}, "PSHARELORA_PORT: Input should be less than or equal to 65535"),
        (["worker"], {"PSHARELORA_LOG_LEVEL": "loud"}, "PSHARELORA_LOG_LEVEL: Input should be 'debug'"),
        (["serve", "--host", "0.0.0.0"], {"PSHARELORA_AUTH": "off"}, "so it is refused on 0.0.0.0"),
        (["serve"], {"PSHARELORA_ADMIN_KEY": "s3cret"}, "PSHARELORA_ADMIN_KEY has 6 characters"),
        (["migrate"], {"PSHARELORA_DATABASE_URL": f"mysql://u:{SECRET}@h/d"}, "PSHARELORA_DATABASE_URL: an address"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], sentence: str
) -> None:
    refused = run_command(tmp_path, *arguments, **settings)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "s3cret" not in refused.stderr


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["migrate"], ["keys", "list"]])
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"postgresql://u:{SECRET}@127.0.0.1:1/d", "The database could not be migrated: connection failed"),
        (f"postgresql://u:a:{SECRET}@h:x/d", "The database's address cannot be read"),
    ],
)
def test_a_database_that_cannot_be_reached_is_a_sentence(
    tmp_path: Path, command: list[str], url: str, sentence: str
) -> None:
    refused = run_command(tmp_path, *command, PSHARELORA_DATABASE_URL=url, PSHARELORA_PORT=str(free_port()))
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"error: {sentence}")
    assert "Traceback" not in refused.stderr
    assert SECRET not in refused.stderr


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        done = run_command(tmp_path, "migrate")
        assert (done.returncode, done.stdout) == (0, "the schema is up to date\n"), done.stderr


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
