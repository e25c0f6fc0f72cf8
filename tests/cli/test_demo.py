"""The demo, started as its users start it."""

import signal
from pathlib import Path

import httpx
import pytest

from app.client import Client
from tests.support.commands import free_port, run_command, running_command


@pytest.mark.slow
def test_the_demo_shows_what_it_promises_and_can_be_run_again(tmp_path: Path) -> None:
    first, second = (run_command(tmp_path, "demo", "--exit", "--port", str(free_port())) for _ in range(2))
    for shown in (first, second):
        assert shown.returncode == 0, shown.stderr
        for promised in (
            "What household-001 would choose of 35 electricity contracts, beside the population",
            "Three more answers of household-001",
            "the same for everybody",
            "P-ShareLoRA",
            "simulated-runner-00 (simulated), who is tired at step 2 of 6",
            "at 90% confidence: worth at least",
            "export PSHARELORA_KEY=$(cat .psharelora/demo.key)",
        ):
            assert promised in shown.stdout
    assert "after 39 answers in all" in first.stdout
    assert (tmp_path / ".psharelora" / "demo.key").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_demo_that_is_told_to_end_leaves_nothing_running(tmp_path: Path) -> None:
    port = free_port()
    with running_command(tmp_path, "demo", "--port", str(port)) as demo:
        demo.wait_until(lambda: "serving until Ctrl-C" in demo.said)
        key = (tmp_path / ".psharelora" / "demo.key").read_text().strip()
        with Client(f"http://127.0.0.1:{port}", key=key) as client:
            counted = {one["name"]: one["n_preferences"] for one in client.environments()["environments"]}
        assert demo.end(signal.SIGTERM) == 0, demo.said
    assert counted == {"electricity": 12924 + 3, "coaching-simulated": 1440, "replies-simulated": 1920}
    assert not (tmp_path / ".psharelora" / "postgres" / "postmaster.pid").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
