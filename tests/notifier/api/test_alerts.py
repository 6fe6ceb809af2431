"""Alert rules and dashboard speak of numbers there are, and every alert says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from notifier.settings import ROOT
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.api.conftest import World

RULES = ROOT / "config" / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((ROOT / "config" / "grafana").glob("*.json"))
ALERTS = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [
    target["expr"]
    for path in DASHBOARDS
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
    for target in panel["targets"]
]


@pytest.fixture
def told(database_url: str, redis_url: str, world: World, database: Database) -> dict[str, set[str]]:
    """Every gauge of /metrics with the labels it has, when all that can be told is there."""
    from notifier.api import create_app

    with database.staff() as session:
        for statement in (
            "INSERT INTO heartbeat (process) VALUES ('feeder'), ('sweeper'), ('worker:email:h:1:a')",
            "INSERT INTO heartbeat (process, keys) VALUES ('control:h:2:b', '00000000 11111111')",
            "INSERT INTO hold (scope, reason, by) VALUES ('provider:smtp', 'smtp_535', 'engine')",
            "INSERT INTO breaker (scope, state, level, failures, reason) VALUES ('receiver:orange', 'open', 0, 1, 'x')",
            "INSERT INTO pace VALUES (now(), 'h:1:a', 'smtp', 'orange', 'accepted', 'x', 6),"
            " (now(), 'h:1:a', 'smtp', 'orange', 'refused', 'smtp_550', 3)",
        ):
            session.execute(text(statement))
    app: FastAPI = create_app(make_settings(database_url, redis_url))
    answer = TestClient(app).get("/metrics")
    app.state.context.database.dispose()
    assert answer.status_code == 200
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    } | {"values": {f"{s.name} {'/'.join(v for _, v in sorted(s.labels.items()))} {s.value:g}"
                    for f in text_string_to_metric_families(answer.text) for s in f.samples}}  # fmt: skip


def test_alerts_and_dashboard_speak_of_numbers_there_are(told: dict[str, set[str]]):
    assert EXPRESSIONS
    for expression in EXPRESSIONS:
        names = set(re.findall(r"notifier_\w+", expression))
        assert names, expression
        assert names <= set(told), expression
        for name, matchers in re.findall(r"(notifier_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=", matchers.replace("!=", "="))) <= told[name], expression


def test_every_number_but_few_is_on_the_dashboard_or_in_an_alert(told: dict[str, set[str]]):
    shown = set(re.findall(r"notifier_\w+", " ".join(EXPRESSIONS)))
    assert set(told) - shown - {"values"} == set()


def test_speed_errors_and_cost_are_those_of_the_last_hand_overs(told: dict[str, set[str]]):
    assert {
        "notifier_rate_per_second smtp 0.1",
        "notifier_handovers_15m refused/smtp/orange 3",
        "notifier_errors_15m smtp_550/smtp 3",
        "notifier_handovers_per_recipient smtp 1.5",
        "notifier_hold engine/provider:smtp 1",
        "notifier_workers_alive email 1",
        "notifier_processes_without_key  1",
        "notifier_redis_up  1",
        "notifier_queue_delayed email 0",
    } <= told["values"]


def test_a_redis_that_is_away_is_a_number_too(world: World, database_url: str):
    from notifier.api import create_app

    app = create_app(make_settings(database_url, "redis://127.0.0.1:1/7"))
    answer = TestClient(app).get("/metrics")
    app.state.context.database.dispose()
    assert answer.status_code == 200
    assert "notifier_redis_up 0.0" in answer.text
    assert "notifier_queue_" not in answer.text


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_says_what_it_means_and_what_to_do(rule: dict):
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert f"## {rule['alert']}\n" in page
    section = page.split(f"## {rule['alert']}\n")[1].split("\n## ")[0]
    assert f"`{rule['expr']}`" in section, "the page quotes the rule"
    assert "\n- " in section, "what to do"
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["for"]
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 20
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_the_page_has_no_alert_that_is_not_a_rule():
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


def test_prometheus_itself_takes_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (it comes with Prometheus)")
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
