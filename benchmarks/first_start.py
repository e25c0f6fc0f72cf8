"""How long the first start of an installation takes, with nothing compiled yet, and a start after that.

    python benchmarks/first_start.py

`psharelora demo --exit` in a folder of its own with an empty NUMBA_CACHE_DIR, then again in a fresh folder with what
the first one compiled. Seconds from the command to each line that it says; the processor's seconds are of all its
processes together. The ranking is that of a person whose answers a refit has learnt from.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.commands import command_environment, command_line, free_port

STEPS = {
    "starting the API": "the database runs",
    "preferences of electricity": "the API answers",
    "starting the worker": "everything is recorded",
    "would choose": "the first personal ranking",
}


def main() -> None:
    # Whoever is told to end leaves no process behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="psharelora-first-") as name:
        folder = Path(name)
        # Whom PostgreSQL runs as must be able to reach it.
        folder.chmod(0o755)
        settings = {"NUMBA_CACHE_DIR": str(folder / "compiled"), "PYTHONUNBUFFERED": "1"}
        print(json.dumps({run: started(folder / run, settings) for run in ("first", "second")}, indent=1))


def started(folder: Path, settings: dict[str, str]) -> dict[str, float]:
    folder.mkdir()
    begun, used = time.monotonic(), processor_seconds()
    said: list[str] = []
    found: dict[str, float] = {}
    demo = subprocess.Popen(
        command_line(("demo", "--exit", "--port", str(free_port()))),
        cwd=folder,
        env=command_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            said.append(line)
            for words, what in STEPS.items():
                if words in line and what not in found:
                    found[what] = round(time.monotonic() - begun, 1)
    except KeyboardInterrupt:
        demo.terminate()
        demo.wait()
        raise
    if demo.wait():
        raise SystemExit("".join(said))
    return {**found, "processor": round(processor_seconds() - used, 1)}


def processor_seconds() -> float:
    """Of children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
