"""The demo as a user starts it, in a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180.0


@contextmanager
def running_demo(folder: Path) -> Iterator[str]:
    """Its address, once it has shown everything and keeps serving; its key is in `.psharelora` of the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PSHARELORA_")}
    said = folder / "demo.err"
    with said.open("wb") as err, (folder / "demo.out").open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "demo", "--port", str(port)],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=out,
            stderr=err,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while "serving until Ctrl-C" not in said.read_text():
                assert demo.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == 0, said.read_text()
