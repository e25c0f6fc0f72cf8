"""The dashboard and the alerts ask for metrics that there are, in Prometheus' own language, and are mounted."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.api import facts
from app.observability import HttpMetrics, WorkerMetrics

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = DOCKER / "prometheus" / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "dashboards" / "psharelora.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
RANGE = re.compile(r"\$__rate_interval")


def series() -> dict[str, set[str]]:
    """The names that may be asked for, and their labels."""
    named: dict[str, set[str]] = {}
    for family in (*HttpMetrics().described(), *WorkerMetrics().described(), *facts.described()):
        labels = set(getattr(family, "_labelnames", ()))
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        named |= {family.name + ending: labels | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    return named


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    variables = [one["query"] for one in DASHBOARD["templating"]["list"]]
    return [*asked, *variables, *(rule["expr"] for rule in RULES)]


def test_every_metric_that_is_asked_for_exists_with_its_labels() -> None:
    known = series()
    assert known["psharelora_requests_total"] == {"route", "method", "status"}
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', '""', expression)
        named = re.findall(r"\bpsharelora_\w+", bare)
        assert named or "up{" in bare, expression
        assert [name for name in named if name not in known] == [], expression
        used = {label for inside in re.findall(r"{([^}]*)}", bare) for label in re.findall(r"(\w+)\s*=", inside)}
        used |= {word for inside in re.findall(r"\bby \(([^)]*)\)", bare) for word in re.findall(r"\w+", inside)}
        labels = set().union(*(known[name] for name in named)) if named else {"job"}
        assert used <= labels, expression


def test_every_metric_is_on_the_dashboard() -> None:
    told = " ".join(expressions())
    families = (*HttpMetrics().described(), *WorkerMetrics().described(), *facts.described())
    assert [family.name for family in families if family.name not in told] == []


def test_alerts_say_how_bad_it_is_and_what_it_means() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith((".", "why.")), rule["alert"]
    names = [rule["alert"] for rule in RULES]
    operations = (DOCKER.parent / "docs" / "OPERATIONS.md").read_text()
    assert re.findall(r"^\| `([A-Z]\w+)` \|", operations, re.MULTILINE) == names


def test_prometheus_takes_the_rules_and_the_questions(tmp_path: Path) -> None:
    """By promtool, where Prometheus is installed; parentheses are counted in any case."""
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        assert [bare.count(sign) for sign in "({["] == [bare.count(sign) for sign in ")}]"], expression
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: on Debian, apt install prometheus")
    asked = [RANGE.sub("5m", one) for one in expressions() if not one.startswith("label_values")]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    questions = tmp_path / "questions.yml"
    questions.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", ALERTS, questions], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_mounts_them_where_they_are_looked_for() -> None:
    compose = yaml.safe_load((DOCKER.parent / "docker-compose.yml").read_text())["services"]
    mounted = {
        target: source
        for name in ("prometheus", "grafana")
        for source, target, *_ in (one.split(":") for one in compose[name]["volumes"])
    }
    for source in mounted.values():
        assert not source.startswith("./") or (DOCKER.parent / source).exists(), source
    configured = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    assert set(configured["rule_files"]) <= mounted.keys()
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/psharelora.yml").read_text())["providers"][0]
    assert mounted[provider["options"]["path"]] == "./docker/grafana/dashboards"
    worker = next(one for one in configured["scrape_configs"] if one["job_name"] == "psharelora-worker")
    port = compose["worker"]["environment"]["PSHARELORA_WORKER_METRICS_PORT"]
    assert str(worker["dns_sd_configs"][0]["port"]) == port
    assert all(compose[name]["profiles"] == ["monitoring"] for name in ("prometheus", "grafana"))
