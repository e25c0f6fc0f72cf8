"""The README's Python, as printed, against a service that has what it names."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli import demo_data
from app.client import Client
from tests.support.api import ADMIN_KEY, serving
from tests.support.worker import working

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[str]:
    """A tenth of the demo's households, at rank 1: enough to answer."""
    definition, items, preferences = demo_data.contracts()
    some = [one for one in preferences if one["user"] <= "household-030"]
    with serving(database_url) as url, working(database_url), Client(url, key=ADMIN_KEY) as client:
        client.put_environment(demo_data.CONTRACTS, {**definition, "rank": 1})
        client.put_items(demo_data.CONTRACTS, items)
        client.record(demo_data.CONTRACTS, some)
        ended = client.wait_for_refit(client.retrain(demo_data.CONTRACTS)["id"])
        assert ended["state"] == "succeeded"
        yield url
        client.delete_environment(demo_data.CONTRACTS)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_runs(service: str, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        env={**os.environ, "PSHARELORA_URL": service, "PSHARELORA_KEY": ADMIN_KEY, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
