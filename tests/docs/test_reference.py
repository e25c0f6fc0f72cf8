"""docs/reference.md says every setting, command, error and metric; `--update-golden` writes it anew."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic_core import PydanticUndefined

from app.api import facts
from app.api.problems import PROBLEMS
from app.cli import app as command_line
from app.cli.output import EXIT_CODES
from app.observability import HttpMetrics, WorkerMetrics
from app.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Written by `pytest tests/docs/test_reference.py --update-golden` from the code itself. The HTTP calls are described by
the service: `/docs` for people, `/openapi.json` for machines.
"""


def test_the_reference_is_what_the_code_says(request: pytest.FixtureRequest) -> None:
    said = "\n".join([HEAD, *_settings(), *_commands(), *_problems(), *_metrics()])
    if request.config.getoption("--update-golden"):
        REFERENCE.write_text(said)
    assert REFERENCE.read_text() == said


def test_every_part_of_the_project_that_a_document_names_exists() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = re.compile(
        r"`((?:app|tests|docs|migrations|benchmarks|docker)/[\w./-]*|docker-compose\.yml|Makefile|[A-Z]+\.md)`"
    )
    missing = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in documents
        for path in named.findall(document.read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_every_promise_of_security_has_its_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "SECURITY.md").read_text()))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) >= 30
    assert sorted(named - set(re.findall(r"def (test_\w+)", written))) == []


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    packages = [path.parent.name for path in (ROOT / "app").glob("*/__init__.py")]
    assert [name for name in packages if f"`app/{name}`" not in text] == []


def _settings() -> list[str]:
    lines = ["## Settings", "", "Environment variables, or lines of a file `.env`.", ""]
    lines += ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in {None, PydanticUndefined} else f"`{field.default}`"
        assert field.description, f"the setting {name} is not described"
        lines.append(f"| `PSHARELORA_{name.upper()}` | {default} | {' '.join(field.description.split())} |")
    lines += ["", "The commands that speak to a running service also read `PSHARELORA_URL` and `PSHARELORA_KEY`.", ""]
    return lines


def _commands() -> list[str]:
    lines = ["## Commands", "", "Tab completion: `psharelora --install-completion`. Every command ends with:", ""]
    lines += [f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items()] + [""]
    for name, command in _leaves(typer.main.get_command(command_line), "psharelora"):
        assert command.help, f"the command {name} is not described"
        lines += [f"### `{name}`", "", _unwrapped(command.help), ""]
        for parameter in command.params:
            told = getattr(parameter, "help", None)
            assert told, f"{name}: {parameter.name} is not described"
            options = " ".join((*parameter.opts, *parameter.secondary_opts))
            shown = options if options.startswith("-") else (parameter.metavar or options.upper())
            if options != "--help":
                lines.append(f"- `{shown}`: {told}")
        lines.append("")
    return lines


def _leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    """The commands of a group, each with its whole name; typer brings a click of its own, so no class is asked for."""
    commands = getattr(command, "commands", None)
    if commands is None:
        return [(name, command)]
    return [leaf for part in sorted(commands) for leaf in _leaves(commands[part], f"{name} {part}")]


def _problems() -> list[str]:
    lines = [
        "## Errors",
        "",
        "Problem documents (RFC 9457). `code` is stable; `detail` says what is wrong and where; `pointer` is a JSON",
        "pointer into the body, where one can be named; the log has the request under `request_id`.",
        "",
        "| code | status | title | what |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{kind.code}` | {kind.status} | {kind.title} | {kind.description} |" for kind in PROBLEMS.values()]
    return [*lines, ""]


def _metrics() -> list[str]:
    told_by = {
        "At `/metrics` of the API, for Prometheus: of all API processes of the host.": HttpMetrics().described(),
        "With an API key of the scope `read` also, of the environments that it can see:": facts.described(),
        "At `/metrics` of a worker, on `PSHARELORA_WORKER_METRICS_PORT`:": WorkerMetrics().described(),
    }
    lines = ["## Metrics", ""]
    for where, families in told_by.items():
        lines += [where, "", "| metric | type | what |", "| --- | --- | --- |"]
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
        lines.append("")
    return lines


def _unwrapped(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
