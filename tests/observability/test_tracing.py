import subprocess
import sys

PROGRAM = """
import json
from app.observability import configure_tracing, end_tracing, is_tracing, span, traceparent
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

with span("nothing") as opened:
    assert opened is None and traceparent() is None and not is_tracing()
kept = InMemorySpanExporter()
configure_tracing("api", exporter=kept)
with span("POST /retrain", kind="server", parent="00-11111111111111111111111111111111-2222222222222222-01"):
    with span("db request_refit"):
        pass
    sent = traceparent()
with span("refit", {"psharelora.refit": "r"}, kind="consumer", parent=sent):
    pass
provider_flushed = end_tracing()
print(json.dumps([
    [one.name, one.kind.name, format(one.context.trace_id, "x"), format(one.parent.span_id, "x"),
     format(one.context.span_id, "x"), one.resource.attributes["service.name"]]
    for one in kept.get_finished_spans()
]))
"""


def test_a_trace_goes_from_the_caller_through_the_request_to_the_refit() -> None:
    import json

    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    database, request, refit = json.loads(done.stdout)
    assert {one[2] for one in (database, request, refit)} == {"1" * 32}
    assert (request[:2], request[3]) == (["POST /retrain", "SERVER"], "2" * 16)
    assert (database[:2], database[3]) == (["db request_refit", "INTERNAL"], request[4])
    assert (refit[:2], refit[3]) == (["refit", "CONSUMER"], request[4])
    assert refit[5] == "psharelora-api"


def test_without_opentelemetry_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from app.observability import configure_tracing\nconfigure_tracing('api')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'psharelora[tracing]'" in done.stderr.splitlines()[-1]
