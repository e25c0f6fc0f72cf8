"""The command as a user calls it: a real process, in a folder of its own, with no settings but those that are given."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 180.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_command(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(arguments),
        cwd=folder,
        env=command_environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )


@contextmanager
def running_command(folder: Path, *arguments: str, **settings: str) -> Iterator["Running"]:
    """Killed at the end if it has not ended by itself."""
    said = folder / f"{arguments[0]}.err"
    with said.open("wb") as err, (folder / f"{arguments[0]}.out").open("wb") as out:
        child = subprocess.Popen(
            command_line(arguments), cwd=folder, env=command_environment(settings), stdout=out, stderr=err
        )
        try:
            yield Running(child, said)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


class Running:
    def __init__(self, child: subprocess.Popen[bytes], said: Path) -> None:
        self.child = child
        self._said = said

    @property
    def said(self) -> str:
        """What it has said on standard error so far."""
        return self._said.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            assert self.child.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.child.wait(60)


@contextmanager
def running_demo(folder: Path) -> Iterator[str]:
    """The demo's address, once it has shown everything and keeps serving; its key is in `.psharelora` of the folder."""
    port = free_port()
    with running_command(folder, "demo", "--port", str(port)) as demo:
        demo.wait_until(lambda: "serving until Ctrl-C" in demo.said)
        yield f"http://127.0.0.1:{port}"
        assert demo.end(signal.SIGINT) == 0, demo.said


def command_line(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def command_environment(settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PSHARELORA_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **settings}
