import json
import subprocess
import sys

PROGRAM = """
import logging, sys, structlog
from app.observability import configure_logging
configure_logging("info", sys.argv[1])
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(request_id="r1"):
    log.debug("too quiet")
    log.info("refit_begun", environment="e")
    logging.getLogger("some.library").warning("a library's %s", "words")
try:
    secret = "do-not-log-me"
    raise ValueError(secret)
except ValueError:
    log.exception("failed")
"""


def logged(form: str) -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_json_logs_are_one_object_a_line_with_bound_fields() -> None:
    first, second, third = map(json.loads, logged("json").splitlines())
    for event in (first, second, third):
        assert event.pop("timestamp").endswith("Z")
    assert first == {"event": "refit_begun", "level": "info", "environment": "e", "request_id": "r1"}
    assert second == {"event": "a library's words", "level": "warning", "request_id": "r1"}
    assert third["event"] == "failed"
    assert third["exception"].endswith("ValueError")
    assert "do-not-log-me" not in third["exception"]


def test_console_logs_are_for_people_and_show_no_local_values() -> None:
    text = logged("console")
    assert "refit_begun" in text
    assert "request_id=r1" in text
    assert "too quiet" not in text
    # Where it was raised is told; neither what it said nor the values of its frame are.
    assert "ValueError" in text
    assert "do-not-log-me" not in text
