"""Receipts: who made the address up gets nothing; a genuine one is stored before it is answered."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier import receipts
from notifier.api import create_app
from notifier.sealing import MasterKey
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.api.conftest import World, count, first_delivery

DELIVERED = {"msg_status": "delivered", "ts_epoch": 1764061200000, "messageId": 4711, "to": "33639980777"}


@pytest.fixture
def provider(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def address(database: Database, world: World, master: MasterKey) -> str:
    reference = receipts.webhook_reference(master, "brevo-sms", first_delivery(database, world.mine))
    return f"/webhooks/brevo-sms/{reference}"


def test_a_genuine_receipt_is_stored_sealed_and_not_yet_applied(
    provider: TestClient, address: str, database: Database
) -> None:
    answer = provider.post(address, json=DELIVERED)
    assert (answer.status_code, answer.content) == (204, b"")
    with database.staff() as session:
        [row] = session.execute(text("SELECT event, code, event_at, body_sealed, applied_at FROM receipt")).all()
        state = session.scalar(text("SELECT state FROM delivery WHERE channel = 'sms'"))
    assert (row.event, row.code, row.applied_at, state) == ("delivered", "delivered", None, "pending")
    assert row.event_at == datetime.fromtimestamp(1764061200, UTC)
    assert b"33639980777" not in bytes(row.body_sealed)


def test_the_same_receipt_twice_is_one(provider: TestClient, address: str, database: Database) -> None:
    assert [provider.post(address, json=DELIVERED).status_code for _ in range(2)] == [204, 204]
    assert count(database, "receipt") == 1


FORGED = [
    ("/webhooks/brevo-sms/1.aaaaaaaaaaaaaaaa", 404),
    ("/webhooks/brevo-sms/1", 404),
    ("/webhooks/brevo-sms/x.y", 404),
    ("/webhooks/brevo-sms/" + "9" * 50, 404),
    ("/webhooks/brevo-sms/" + "9" * 61, 422),
    ("/webhooks/somebody/{reference}", 404),
    ("/webhooks/brevo-sms/2.{signature}", 404),
]


def test_a_forged_address_is_refused_and_nothing_is_stored(
    provider: TestClient, address: str, database: Database
) -> None:
    reference = address.rpartition("/")[2]
    number, _, signature = reference.partition(".")
    assert number != "2"
    for path, status in FORGED:
        answer = provider.post(path.format(reference=reference, signature=signature), json=DELIVERED)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"
    assert count(database, "receipt") == 0


def test_a_signature_of_another_deployment_is_forged(
    provider: TestClient, address: str, database: Database
) -> None:
    other = receipts.webhook_reference(MasterKey(bytes(32)), "brevo-sms", first_delivery(database, 1))
    assert provider.post(f"/webhooks/brevo-sms/{other}", json=DELIVERED).status_code == 404
    assert count(database, "receipt") == 0


def test_a_genuine_address_of_no_delivery_is_refused(provider: TestClient, master: MasterKey) -> None:
    unknown = receipts.webhook_reference(master, "brevo-sms", 999_999)
    assert provider.post(f"/webhooks/brevo-sms/{unknown}", json=DELIVERED).status_code == 404


def test_what_is_no_receipt_is_refused(provider: TestClient, address: str, database: Database) -> None:
    for body in (b"", b"{", b"[]", b'{"msg_status": "delivered"}', b"null", b'{"ts": 1}'):
        assert provider.post(address, content=body).status_code == 422, body
    assert count(database, "receipt") == 0


def test_a_receipt_that_is_too_large_is_refused(provider: TestClient, address: str, database: Database) -> None:
    assert provider.post(address, content=b" " * (receipts.MAX_BODY_BYTES + 1)).status_code == 413
    assert count(database, "receipt") == 0


def test_a_receipt_for_people_who_were_erased_is_refused(
    provider: TestClient, address: str, database: Database
) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE campaign SET data_key = NULL"))
    assert provider.post(address, json=DELIVERED).status_code == 404
    assert count(database, "receipt") == 0


def test_while_the_database_is_away_the_provider_is_told_to_come_again(address: str) -> None:
    away = create_app(make_settings("postgresql://nobody@127.0.0.1:1/none"))
    answer = TestClient(away, raise_server_exceptions=False).post(address, json=DELIVERED)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
