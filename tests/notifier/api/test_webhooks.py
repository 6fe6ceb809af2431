"""Receipts: who made an address or a token up gets nothing; a genuine one is stored before it is answered."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import orjson
import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier import receipts
from notifier.api import create_app
from notifier.sealing import MasterKey
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.api.conftest import World, count, first_delivery

DELIVERED = {"msg_status": "delivered", "ts_epoch": 1764061200000, "messageId": 4711, "to": "33639980777"}

TOKEN = "a-made-up-token-of-the-account"


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url, brevo_email={"webhook_token": TOKEN})


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
    """Brevo throws away what was answered otherwise."""
    away = create_app(make_settings("postgresql://nobody@127.0.0.1:1/none", brevo_email={"webhook_token": TOKEN}))
    client = TestClient(away, raise_server_exceptions=False)
    for path, body in ((address, DELIVERED), (REPORT, about("1.aaaaaaaaaaaaaaaa"))):
        answer = client.post(path, json=body, headers=PROOF)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert answer.headers["content-type"] == "application/problem+json"


# --- reports about a whole account

REPORT = "/webhooks/brevo-email"
PROOF = {"Authorization": f"Bearer {TOKEN}"}


def about(reference: str, word: str = "delivered") -> dict[str, object]:
    return {"event": word, "email": "jean@example.org", "ts_epoch": 1764061200000, "X-Mailin-custom": reference}


@pytest.fixture
def emails(database: Database, world: World, master: MasterKey) -> list[str]:
    """The references of the emails of doctor 1's campaign."""
    with database.staff() as session:
        rows = session.execute(
            text(
                "SELECT d.id, c.id AS campaign_id, c.data_key FROM delivery d JOIN campaign c ON c.id = d.campaign_id "
                "WHERE channel = 'email' ORDER BY d.id"
            )
        ).all()
    return [receipts.reference(master.open_data_key(row.data_key, row.campaign_id), row.id) for row in rows]


@pytest.mark.parametrize(
    "proof", [PROOF, {"Authorization": "Basic " + base64.b64encode(f"brevo:{TOKEN}".encode()).decode()}]
)
def test_a_proved_report_is_stored_event_by_event(
    provider: TestClient, emails: list[str], database: Database, proof: dict[str, str]
) -> None:
    answer = provider.post(REPORT, json=[about(one) for one in emails], headers=proof)
    assert (answer.status_code, answer.content, len(emails)) == (204, b"", 2)
    with database.staff() as session:
        rows = session.execute(text("SELECT provider, event, body_sealed FROM receipt")).all()
    assert [(row.provider, row.event) for row in rows] == [("brevo-email", "delivered")] * 2
    assert not any(b"jean" in bytes(row.body_sealed) for row in rows)
    assert provider.post(REPORT, json=about(emails[0]), headers=PROOF).status_code == 204
    assert count(database, "receipt") == 2, "the same event again is none"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer another-made-up-token", f"Token {TOKEN}"])
def test_a_report_without_the_token_is_refused_before_it_is_read(
    provider: TestClient, emails: list[str], database: Database, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = provider.post(REPORT, json=about(emails[0]), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    unread = b" " * (receipts.MAX_REPORT_BYTES + 1)
    assert provider.post(REPORT, content=unread, headers=headers).status_code == 401
    assert provider.post(REPORT, content=unread, headers=PROOF).status_code == 413
    assert count(database, "receipt") == 0


def test_where_no_token_is_set_nobody_reports(database_url: str) -> None:
    client = TestClient(create_app(make_settings(database_url)), raise_server_exceptions=False)
    for authorization in ("Bearer ", "Bearer None", f"Bearer {TOKEN}", "Basic Og=="):
        assert client.post(REPORT, json={}, headers={"Authorization": authorization}).status_code == 401


def test_other_mail_of_the_account_is_let_be_and_counted(
    provider: TestClient, emails: list[str], database: Database
) -> None:
    named_by_brevo = {"event": "hard_bounce", "message-id": "<1.1@relay.example.org>", "ts": 1764061200}
    with structlog.testing.capture_logs() as lines:
        events = [named_by_brevo, about("1.aaaaaaaaaaaaaaaa"), about(emails[0])]
        assert provider.post(REPORT, json=events, headers=PROOF).status_code == 204
    assert count(database, "receipt") == 1
    [line] = [line for line in lines if line["event"] == "report_events_left"]
    assert line == {
        "event": "report_events_left",
        "log_level": "warning",
        "provider": "brevo-email",
        "not_ours": 1,
        "unnamed": 1,
    }
    with structlog.testing.capture_logs() as lines:
        provider.post(REPORT, json=about("1.aaaaaaaaaaaaaaaa"), headers=PROOF)
    assert {line["log_level"] for line in lines if line["event"] == "report_events_left"} == {"info"}


def test_what_is_no_report_is_refused(provider: TestClient, emails: list[str], database: Database) -> None:
    many = [about(emails[0])] * (receipts.MAX_REPORT_EVENTS + 1)
    for body in (b"", b"{", b"[]", b'{"event": "delivered"}', b"null", orjson.dumps(many)):
        assert provider.post(REPORT, content=body, headers=PROOF).status_code == 422, body[:20]
    assert count(database, "receipt") == 0


def test_a_report_may_be_longer_than_a_receipt(provider: TestClient, emails: list[str]) -> None:
    body = orjson.dumps([about(emails[0])] * receipts.MAX_REPORT_EVENTS)
    assert len(body) > receipts.MAX_BODY_BYTES
    assert provider.post(REPORT, content=body, headers=PROOF).status_code == 204


def test_each_provider_reports_in_its_own_way_only(
    provider: TestClient, address: str, emails: list[str], master: MasterKey
) -> None:
    webhook = receipts.webhook_reference(master, "brevo-email", int(emails[0].partition(".")[0]))
    for path in ("/webhooks/brevo-sms", "/webhooks/smtp", f"{REPORT}/{webhook}", f"{REPORT}/{emails[0]}"):
        assert provider.post(path, json=about(emails[0]), headers=PROOF).status_code == 404, path


def test_an_api_key_is_no_proof(operations: TestClient, emails: list[str], database: Database) -> None:
    assert operations.post(REPORT, json=about(emails[0])).status_code == 401
    assert count(database, "receipt") == 0
