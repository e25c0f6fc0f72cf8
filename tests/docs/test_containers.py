"""What can be said of the containers without running them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli import app as command_line
from app.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
OURS = ("migrate", "api", "worker")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return services


def test_our_services_run_our_commands(services: dict[str, Any]) -> None:
    commands = {
        command.name or getattr(command.callback, "__name__", "") for command in command_line.registered_commands
    }
    for name in OURS:
        assert services[name]["command"][0] in commands
    assert 'ENTRYPOINT ["psharelora"]' in DOCKERFILE


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    settings = {f"PSHARELORA_{name.upper()}" for name in Settings.model_fields}
    set_here = {variable for name in OURS for variable in services[name]["environment"]}
    set_there = set(re.findall(r"(PSHARELORA_\w+)=", DOCKERFILE))
    assert set_here | set_there <= settings
    assert "PSHARELORA_DATABASE_URL" in set_here


def test_a_service_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            match wait["condition"]:
                case "service_healthy":
                    assert "healthcheck" in services[other], (name, other)
                case "service_completed_successfully":
                    assert services[other]["restart"] == "no", (name, other)
                case other_condition:
                    raise AssertionError(other_condition)
    assert services["api"]["depends_on"].keys() == services["worker"]["depends_on"].keys() == {"migrate"}


def test_everything_that_stays_up_has_a_health_check(services: dict[str, Any]) -> None:
    assert [name for name in services if "healthcheck" not in services[name]] == ["migrate"]


def test_the_worker_has_time_to_end_its_pass(services: dict[str, Any]) -> None:
    from app.worker.runner import GRACE_SECONDS

    assert float(services["worker"]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS


def test_no_secret_is_in_the_files_and_none_is_forgotten() -> None:
    text = COMPOSE.read_text()
    for secret in ("POSTGRES_PASSWORD", "PSHARELORA_ADMIN_KEY"):
        assert re.search(rf"\$\{{{secret}:\?[^}}]+\}}", text), f"{secret} is not demanded"
    assert "PASSWORD" not in DOCKERFILE
    assert "KEY" not in DOCKERFILE


def test_the_image_does_not_run_as_root_and_cannot_write_to_itself(services: dict[str, Any]) -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] not in {"root", "0"}
    for name in OURS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in sent, source


def test_the_runtime_lock_is_the_development_lock_without_the_tools() -> None:
    runtime, development = (_locked(ROOT / name) for name in ("docker/requirements.lock", "requirements.lock"))
    assert runtime.items() <= development.items()
    assert "pytest" in development
    assert "pytest" not in runtime


@pytest.mark.parametrize("name", ["docker/requirements.lock", "requirements.lock"])
def test_locks_name_no_registry(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()


def _locked(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE))
