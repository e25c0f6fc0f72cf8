"""The README is run as printed against the running demo; `--update-golden` writes its answers anew.

Numbers that a fit estimates are not compared: they may differ in their last digits from machine to machine. Everything
else of an answer is.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import running_demo

README = Path(__file__).parents[2] / "README.md"
STEP = re.compile(r"```sh\n(?P<commands>.*?)```\n(?:\n```json\n(?P<answer>.*?)```\n)?", re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
WIDTH = 116

VOLATILE = {"created_at", "request_id", "id", "model_version", "sampled", "reason"}
"""What differs from run to run; `reason` of a refit or a plan says how it came about."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("readme")
    with running_demo(folder) as address:
        yield address, folder


@pytest.mark.slow
def test_every_curl_answers_as_printed(demo: tuple[str, Path], request: pytest.FixtureRequest) -> None:
    address, folder = demo
    text = README.read_text()
    exports, told = "", text
    for step in STEP.finditer(text):
        commands, printed = step["commands"], step["answer"]
        if printed is None:
            exports += commands
            continue
        answer = json.loads(_run(exports + commands, address, folder))
        if request.config.getoption("--update-golden"):
            told = told.replace(step[0], f"```sh\n{commands}```\n\n```json\n{_pretty(answer)}\n```\n")
        else:
            assert _comparable(answer) == _comparable(json.loads(printed)), commands
    if told != text:
        README.write_text(told)


def test_there_are_at_least_ten_calls_with_answers() -> None:
    answered = [step for step in STEP.finditer(README.read_text()) if step["answer"]]
    assert len(answered) >= 10
    assert all("curl" in step["commands"] for step in answered)


def _run(script: str, address: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script.replace(ADDRESS, address)],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _comparable(value: Any) -> Any:
    match value:
        case dict():
            return {name: "..." if name in VOLATILE else _comparable(entry) for name, entry in value.items()}
        case list():
            return [_comparable(entry) for entry in value]
        case float():
            return "a number"
        case _:
            return value


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with as much on a line as fits."""
    line = json.dumps(_rounded(value))
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {_pretty(entry, inner)}" for name, entry in value.items()]
        opening, closing = "{", "}"
    else:
        entries = [_pretty(entry, inner) for entry in value]
        opening, closing = "[", "]"
    lines: list[str] = []
    for entry in entries:
        fits = lines and "\n" not in lines[-1] + entry and len(inner) + len(lines[-1]) + len(entry) + 3 <= WIDTH
        if fits and not entry.startswith("{"):
            lines[-1] += ", " + entry
        else:
            lines.append(entry)
    return opening + "\n" + ",\n".join(inner + entry for entry in lines) + f"\n{indent}{closing}"


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {name: _rounded(entry) for name, entry in value.items()}
        case list():
            return [_rounded(entry) for entry in value]
        case float():
            return float(f"{value:.4g}") if abs(value) < 1e-4 else round(value, 4)
        case _:
            return value
