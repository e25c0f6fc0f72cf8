"""Thousands of requests that the contract allows, and that it does not, to a running service.

    python benchmarks/fuzz.py [--cases 10000] [--seed 1] [--page docs/fuzzing.md]

Starts the demo (PostgreSQL, API, worker, three environments with models) and lets Schemathesis try every operation of
the OpenAPI document with all its checks: valid and invalid data, and sequences of calls that use what earlier ones
answered. Once for each environment. That a request is valid as far as a schema can
say, but not in its meaning (an item that is not there, a user without feedback), is answered by 404, 409 or 422, which
therefore count as answers to valid data.

Prints what was asked and answered, and what failed with the call that repeats it. Status 1 where anything failed, or
where fewer cases ran than were asked for.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.commands import command_environment, command_line, free_port

ROOT = Path(__file__).parents[1]
KEY = "fuzzing-key-0123456789-abcdef"
ENVIRONMENTS = ("electricity", "coaching-simulated", "replies-simulated")
DELETION = "delete_v1_environments__environment__delete"
CONFIG = """\
request-timeout = 60.0
[checks]
max_response_time = 60.0
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 304, 401, 403, 404, 409, 415, 422, 429, 503]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
PAGE = """\
# Any request

Written by `python benchmarks/fuzz.py --page docs/fuzzing.md` (seed {seed}), or `make fuzz`: Schemathesis with all its
checks against the running demo (PostgreSQL, API, worker), once in each of its environments. Valid data, invalid data,
and sequences of calls that use what earlier ones answered: {cases:,} cases. Environments are not deleted here;
`tests/api/test_conformance.py` does that, case by case.

- *Failures*: answers that a check of Schemathesis refused. Among the checks are: no status, header, type or body that
  the OpenAPI document does not name; nothing invalid is accepted; nothing valid is refused but for its meaning (404,
  409, 422); no call without a key; `Allow` names all methods; what was deleted is gone, what was made is there.
  Two kinds of requests are not counted as accepted though invalid: paths into which this script put the environment
  in the place of an invalid one, and imports, whose bad lines are answered by their numbers with a 200.
- *503*: only `model-not-ready` and `encoder-unavailable`, where there is no model or no such embeddings service. Any
  other is a failure. *Other*: any other 5xx, or no answer within 60 seconds.

Failures in this run: {told}.

What it has found, mended with tests: `Allow` of a 405 named the methods of one route of the address only; an import
without a body was answered 200, while the document said that a body is required (an empty file is nothing to import,
and no mistake: the document says so now); the events of a refit were documented as a text, which readers take for
what one event is.

{table}
"""

RIGHTLY_UNAVAILABLE = {"model-not-ready", "encoder-unavailable"}
START_SECONDS = 600.0
SHOWN = 10


@dataclass
class Tally:
    """Of one operation, or of all."""

    cases: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    failures: int = 0


@dataclass(frozen=True)
class Failure:
    check: str
    message: str
    call: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=40, help="at most, of each operation, phase and environment")
    parser.add_argument("--page", type=Path, help="write what was found to this file too")
    parser.add_argument("--keep", type=Path, help="a folder for the raw reports; what is there is not run again")
    parser.add_argument("--url", help="of a service that runs already, with the demo's data and the key of this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="psharelora-fuzz-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        kept = options.keep or folder
        kept.mkdir(exist_ok=True)
        reports = [kept / f"{environment}.ndjson" for environment in ENVIRONMENTS]
        missing = [one for one, report in zip(ENVIRONMENTS, reports, strict=True) if not report.exists()]
        if missing:
            with service(folder, options.url) as url, ThreadPoolExecutor(2) as pool:
                run = partial(schemathesis, folder, url, seed=options.seed, examples=options.examples)
                for report in pool.map(run, missing):
                    shutil.move(report, kept / report.name)
        tallies, failures = counted(reports)
    table = written(tallies, failures, options.seed)
    print(table)
    for failure in failures[:SHOWN]:
        print(f"\n{failure.check}: {failure.message}\n  {failure.call}")
    if options.page:
        options.page.write_text(table)
    total = sum(tally.cases for tally in tallies.values())
    sys.exit(0 if not failures and total >= options.cases else 1)


@contextmanager
def service(folder: Path, url: str | None) -> Iterator[str]:
    """The address of a service whose environments have models."""
    if url:
        yield url
        return
    port = free_port()
    environment = command_environment({"PSHARELORA_ADMIN_KEY": KEY, "PSHARELORA_DATA_DIR": str(folder / "data")})
    with (folder / "demo.log").open("wb") as log:
        child = subprocess.Popen(command_line(["demo", "--port", str(port)]), env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for_models(url, child)
            yield url
        finally:
            child.terminate()
            child.wait(60)


def wait_for_models(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client:
        while True:
            assert child.poll() is None, "the demo ended by itself"
            assert time.monotonic() < deadline, "the demo has no models"
            try:
                found = client.get("/v1/environments").json()["environments"]
            except httpx.TransportError:
                found = []
            if len(found) >= len(ENVIRONMENTS) and all(one["model_version"] for one in found):
                return
            time.sleep(1)


def schemathesis(folder: Path, url: str, environment: str, *, seed: int, examples: int) -> Path:
    """The report of one run, a JSON object a line."""
    config = folder / f"{environment}.toml"
    config.write_text(f'{CONFIG}[parameters]\n"path.environment" = "{environment}"\n')
    report = folder / f"{environment}.ndjson"
    print(f"==> {environment}", file=sys.stderr)
    run = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("--config-file", str(config), "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
        *("--checks", "all", "--mode", "all", "--max-examples", str(examples), "--seed", str(seed), "--no-shrink"),
        *("--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"),
        *("--report", "ndjson", "--report-ndjson-path", str(report)),
        *("--exclude-operation-id", DELETION),
    ]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "benchmarks.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    print("\n".join(done.stdout.splitlines()[-12:]), file=sys.stderr)
    assert done.returncode in (0, 1), done.stdout
    return report


def counted(reports: Iterable[Path]) -> tuple[dict[str, Tally], list[Failure]]:
    tallies: dict[str, Tally] = {}
    failures: list[Failure] = []
    for report in reports:
        with report.open() as events:
            for line in events:
                event = json.loads(line)
                if "NonFatalError" in event:
                    value = event["NonFatalError"]["value"]
                    failures.append(Failure(value["type"], value["message"], event["NonFatalError"].get("label", "")))
                recorder = event.get("ScenarioFinished", {}).get("recorder", {})
                for case, interaction in recorder.get("interactions", {}).items():
                    count(tallies, failures, interaction, recorder["cases"].get(case), recorder["checks"].get(case, []))
    return tallies, failures


def count(
    tallies: dict[str, Tally],
    failures: list[Failure],
    interaction: Mapping[str, Any],
    case: Mapping[str, Any] | None,
    checks: Iterable[Mapping[str, Any]],
) -> None:
    response = interaction["response"]
    status = response["status_code"] if response else 0
    asked = f"{case['value']['method']} {case['value']['path']}" if case else "of the checks' own"
    tally = tallies.setdefault("methods that there are not" if status == 405 else asked, Tally())
    tally.cases += 1
    tally.answers[status] += 1
    if status == 503 and said(response).get("code") not in RIGHTLY_UNAVAILABLE:
        tally.failures += 1
        failures.append(Failure("unavailable", str(said(response)), repeated(interaction)))
    for check in checks:
        if check["status"] == "failure":
            failure = check["failure_info"]["failure"]
            found = Failure(check["name"], f"{failure['title']}: {failure['message']}", repeated(interaction))
            if not is_valid_after_all(found, status):
                tally.failures += 1
                failures.append(found)


def is_valid_after_all(failure: Failure, status: int) -> bool:
    """Whether what Schemathesis takes for an invalid request is a valid one as it was sent.

    The environment that it spoilt in the path is the one that we put there instead; and whatever it puts in place of
    an import's lines is written as a line, which is answered by its number.
    """
    if failure.check != "negative_data_rejection" or status != 200:
        return False
    return "parameter `environment` in path" in failure.message or "/preferences/import'" in failure.call


def said(response: Mapping[str, Any]) -> dict[str, Any]:
    """The body, where it is an object."""
    content = response.get("content") or {}
    with suppress(ValueError):
        body = json.loads(base64.b64decode(content.get("$base64", "")))
        return body if isinstance(body, dict) else {}
    return {}


def repeated(interaction: Mapping[str, Any]) -> str:
    request = interaction["request"]
    body = request.get("body")
    data = f" --data-binary {json.dumps(base64.b64decode(body['$base64']).decode(errors='replace'))}" if body else ""
    status = interaction["response"]["status_code"] if interaction["response"] else "no answer"
    return f"curl -X {request['method']} '{request['uri']}'{data[:2000]}  # {status}"


def written(tallies: Mapping[str, Tally], failures: Iterable[Failure], seed: int) -> str:
    total = Tally()
    rows = []
    for name, tally in sorted(tallies.items(), key=lambda pair: pair[0].split(" ")[::-1]):
        total.cases += tally.cases
        total.answers += tally.answers
        total.failures += tally.failures
        rows.append(row(f"`{name}`", tally))
    head = "| operation | cases | 2xx | 304 | 4xx | 503 | other | failures |\n" + "| --- |" + " ---: |" * 7
    refused = Counter(f"`{failure.check}`, {failure.message.partition(':')[0]}" for failure in failures)
    told = "; ".join(f"{n} of {what}" for what, n in refused.items()) or "none"
    return PAGE.format(seed=seed, cases=total.cases, told=told, table="\n".join([head, row("**all**", total), *rows]))


def row(name: str, tally: Tally) -> str:
    def among(low: int, high: int) -> int:
        return sum(n for status, n in tally.answers.items() if low <= status < high)

    odd = tally.cases - among(200, 300) - tally.answers[304] - among(400, 500) - tally.answers[503]
    cells = (tally.cases, among(200, 300), tally.answers[304], among(400, 500), tally.answers[503], odd, tally.failures)
    return f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |"


if __name__ == "__main__":
    main()
