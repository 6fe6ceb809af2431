"""Alive, able to work, and numbers without people."""

from __future__ import annotations

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.api import health
from notifier.store import Database
from tests.notifier.api.conftest import World


@pytest.fixture
def anybody(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def numbers(client: TestClient) -> dict[tuple[str, str], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_it_is_ready_with_a_database_that_fits(anybody: TestClient) -> None:
    assert anybody.get("/healthz").json() == {"status": "ok"}
    assert anybody.get("/readyz").json() == {"status": "ready"}


def test_it_is_not_ready_with_an_old_database_and_says_why(anybody: TestClient, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'old'")
    answer = anybody.get("/readyz")
    assert answer.status_code == 503
    assert "notifier migrate" in answer.json()["detail"]


def test_the_numbers_are_those_of_the_database(anybody: TestClient, world: World, database: Database) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() - interval '90 s' WHERE channel = 'sms'"))
        session.execute(
            text(
                "INSERT INTO due (campaign_id, channel, kind, at, ids, fences, owner) SELECT campaign_id, channel, "
                "'lease', now() - interval '1 s', ARRAY[id], ARRAY[0], 'w' FROM delivery WHERE channel = 'email' LIMIT 1"
            )
        )
        session.execute(
            text(
                "INSERT INTO breaker (scope, state, level, failures, reason) VALUES ('receiver:orange', 'open', 0, 1, 'x')"
            )
        )
        session.execute(
            text(
                "UPDATE delivery SET state = 'sending' WHERE id = (SELECT min(id) FROM delivery WHERE channel = 'email')"
            )
        )
        session.execute(
            text(
                "UPDATE delivery SET state = 'unknown' WHERE id = (SELECT max(id) FROM delivery WHERE channel = 'email')"
            )
        )
        session.execute(
            text(
                "INSERT INTO heartbeat (process, at) VALUES ('feeder', now() - interval '30 s'), "
                "('worker:a:1', now() - interval '1 day'), ('worker:b:2', now())"
            )
        )
    seen = numbers(anybody)
    assert seen["notifier_deliveries_due", "sms"] == 1
    assert seen["notifier_deliveries_due", "email"] == 0
    assert 90 <= seen["notifier_deliveries_oldest_due_seconds", "sms"] < 900
    assert seen["notifier_leases_expired", ""] == 1
    assert seen["notifier_deliveries_unknown", "email"] == 1
    assert seen["notifier_deliveries", "email/sending"] == 1
    assert seen["notifier_deliveries", "sms/pending"] == 1
    assert seen["notifier_breaker_open", "receiver:orange/open"] == 1
    assert seen["notifier_deliveries_quarantined", "sms"] == 0
    assert seen["notifier_campaigns", "sending"] == 1
    assert seen["notifier_campaigns", "draft"] == 1
    assert 30 <= seen["notifier_heartbeat_age_seconds", "feeder"] < 900
    assert seen["notifier_heartbeat_age_seconds", "worker"] < 900, "the youngest of all workers"
    assert seen["notifier_receipts_unapplied", ""] == 0


def test_a_paused_campaign_has_nothing_due(anybody: TestClient, operations: TestClient, world: World) -> None:
    operations.post(f"/api/v1/campaigns/{world.mine}/pause", json={"reason": "a test"})
    assert numbers(anybody)["notifier_deliveries_due", "email"] == 0


def test_several_scrapers_cost_one_reading(
    anybody: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = []

    def counted(session: Session) -> object:
        readings.append(session)
        return original(session)

    original = health.measure
    monkeypatch.setattr(health, "measure", counted)
    monkeypatch.setattr(health, "_FRESH_S", 3600)
    assert len({anybody.get("/metrics").content for _ in range(3)}) == 1
    assert len(readings) == 1
