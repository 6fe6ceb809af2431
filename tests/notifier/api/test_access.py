"""Every route asked by everybody: without a key, by the doctor, by another doctor, by operations."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from notifier import feed
from notifier.api.auth import revoke_key
from notifier.models import ApiKey, ListFile, Patient
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import FACTS, HEADER, NOW, ask_test, person
from tests.notifier.api.conftest import Ask, World, count, first_delivery

DOCTOR = {
    "reference": "10000000099",
    "name": "Dr Exemple",
    "practice": "Cabinet",
    "address": "1 rue de l'Exemple",
    "phone": "01 99 00 00 01",
    "email": "c@example.org",
}


#: … or it changes nothing here: nobody of them is unreached
_NO_ACTS = ("/look", "/report", "/corrections", "/suggestions", "}/test", "/told", "/take-back")


@dataclass(frozen=True)
class Route:
    """A request about what is doctor 1's, and the status each caller gets (no key: always 401)."""

    method: str
    path: str
    doctor: int
    other: int
    operations: int
    send: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str:
        return self.path.partition("?")[0]

    @property
    def only_looks(self) -> bool:
        """A file is sent with it, and it changes nothing."""
        return self.path.endswith(_NO_ACTS)


LIST = {"files": {"file": ("l.csv", io.BytesIO(f"{HEADER}\n{person(9)}\n".encode()).getvalue())}}
ACCEPT = LIST | {"data": {"rows": "2"}}
TOLD = {"json": {"patients": [1], "how": "letter", "day": datetime.now(UTC).date().isoformat()}}
WHY = {"json": {"reason": "a test"}}
NONE = {"json": {"deliveries": [987_654], "reason": "a test"}}
#: in an order in which one may follow the other in one world
ROUTES = [
    Route("GET", "/api/v1/incidents", 200, 200, 200),
    Route("POST", "/api/v1/incidents", 403, 403, 201, {"json": {"reference": "new", "profile": "eu-gdpr-fr"}}),
    Route("GET", "/api/v1/incidents/{incident_id}", 200, 200, 200),
    Route("PUT", "/api/v1/incidents/{incident_id}/facts", 403, 403, 200, {"json": FACTS}),
    Route("GET", "/api/v1/doctors", 200, 200, 200),
    Route("POST", "/api/v1/doctors", 403, 403, 201, {"json": DOCTOR}),
    Route("GET", "/api/v1/doctors/{doctor_id}", 200, 404, 200),
    Route("GET", "/api/v1/campaigns", 200, 200, 200),
    Route("POST", "/api/v1/campaigns", 403, 403, 201, {"json": {"incident": 2, "doctor": 1}}),
    Route("GET", "/api/v1/campaigns/{campaign_id}", 200, 404, 200),
    Route("GET", "/api/v1/campaigns/{campaign_id}/preview", 200, 404, 200),
    Route("POST", "/api/v1/campaigns/{campaign_id}/tests", 202, 404, 202, {"json": {"to": "me@example.org"}}),
    Route("GET", "/api/v1/campaigns/{campaign_id}/tests/{test_id}", 200, 404, 200),
    # doctor 1's campaign is sending: who may act hears 409 where the state does not allow it
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists/look", 200, 404, 200, LIST),
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists/report", 200, 404, 200, LIST),
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists/corrections", 200, 404, 200, LIST),
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists/suggestions", 200, 404, 200, LIST),
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists", 201, 404, 201, LIST),
    # its one row has no suggestion, and nobody in it is in doubt
    Route("POST", "/api/v1/campaigns/{campaign_id}/lists/suggestions/accept", 422, 404, 422, ACCEPT),
    Route("GET", "/api/v1/campaigns/{campaign_id}/doubts", 200, 404, 200),
    Route("PUT", "/api/v1/doubts/{doubt_id}", 404, 404, 404, {"json": {"same": True}}),
    Route("GET", "/api/v1/list-codes", 200, 200, 200),
    Route("GET", "/api/v1/campaigns/{campaign_id}/lists", 200, 404, 200),
    Route("GET", "/api/v1/lists/{list_id}/problems", 200, 404, 200),
    Route("POST", "/api/v1/campaigns/{campaign_id}/approve", 409, 404, 409, {"json": {"hash": "0" * 64}}),
    Route("POST", "/api/v1/campaigns/{campaign_id}/start", 409, 404, 409),
    Route("POST", "/api/v1/campaigns/{campaign_id}/resume", 409, 404, 409),
    Route("POST", "/api/v1/campaigns/{campaign_id}/pause", 200, 404, 200, WHY),
    Route("GET", "/api/v1/campaigns/{campaign_id}/patients", 200, 404, 200),
    Route("GET", "/api/v1/patients/{patient_id}", 200, 404, 200),
    Route("GET", "/api/v1/deliveries", 200, 200, 200),
    Route("GET", "/api/v1/deliveries/{delivery_id}", 200, 404, 200),
    Route("GET", "/api/v1/deliveries/quarantine", 403, 403, 200),
    Route("POST", "/api/v1/deliveries/replay", 403, 403, 404, NONE),
    Route("POST", "/api/v1/deliveries/quarantine/release", 403, 403, 404, NONE),
    Route("POST", "/api/v1/deliveries/quarantine/give-up", 403, 403, 404, NONE),
    Route("GET", "/api/v1/changes", 200, 200, 200),
    Route("GET", "/api/v1/changes?campaign={campaign_id}", 200, 404, 200),
    Route("GET", "/api/v1/campaigns/{campaign_id}/export", 200, 404, 200),
    Route("GET", "/api/v1/campaigns/{campaign_id}/letters", 200, 404, 200),
    Route("GET", "/api/v1/campaigns/{campaign_id}/calls", 200, 404, 200),
    Route("POST", "/api/v1/campaigns/{campaign_id}/told", 200, 404, 200, TOLD),
    Route("POST", "/api/v1/campaigns/{campaign_id}/told/take-back", 200, 404, 200, {"json": {"patients": [1]}}),
    Route("POST", "/api/v1/campaigns/{campaign_id}/proof", 200, 404, 200),
    Route("GET", "/api/v1/callbacks", 200, 200, 200),
    Route("GET", "/api/v1/callbacks/{callback_id}", 200, 404, 200),
    Route("POST", "/api/v1/callbacks/{callback_id}/test", 200, 404, 200),
    Route("POST", "/api/v1/callbacks/{callback_id}/replay", 200, 404, 200, {"json": {}}),
    Route("POST", "/api/v1/callbacks/{callback_id}/resume", 200, 404, 200),
    Route("DELETE", "/api/v1/callbacks/{callback_id}", 204, 404, 204),
    Route("POST", "/api/v1/callbacks", 201, 403, 201, {"json": {"url": "https://a.example.org/", "doctor": 1}}),
    Route("POST", "/api/v1/campaigns/{campaign_id}/cancel", 200, 404, 200, WHY),
    Route("GET", "/api/v1/holds", 403, 403, 200),
    Route("DELETE", "/api/v1/holds/{scope}", 403, 403, 404),
    Route("PUT", "/api/v1/holds/{scope}", 403, 403, 200, WHY),
    Route("GET", "/api/v1/keys", 403, 403, 200),
    Route("POST", "/api/v1/keys", 403, 403, 201, {"json": {"name": "a program"}}),
    Route("DELETE", "/api/v1/keys/{key_id}", 403, 403, 204),
]
NO_KEY_NEEDED = {"/healthz", "/readyz", "/metrics", "/webhooks/{provider}", "/webhooks/{provider}/{reference}"}


@pytest.fixture
def numbers(world: World, database: Database, current: Settings, operations: TestClient) -> dict[str, Any]:
    operations.post("/api/v1/incidents", json={"reference": "incident-2", "profile": "eu-gdpr-fr"})
    with database.staff() as session:
        return {
            "incident_id": 1,
            "doctor_id": world.doctor,
            "campaign_id": world.mine,
            "list_id": session.query(ListFile.id).filter_by(campaign_id=world.mine).scalar(),
            "patient_id": session.query(Patient.id).filter_by(campaign_id=world.mine).first()[0],
            "delivery_id": first_delivery(database, world.mine),
            "test_id": ask_test(database, current, world.mine),
            # an address that nobody may call
            "callback_id": a_callback(session, current, world.doctor),
            "scope": "channel:sms",
            "doubt_id": 987_654,
            "key_id": session.query(ApiKey.id).order_by(ApiKey.id).first()[0],
        }


def a_callback(session: Session, current: Settings, doctor: int) -> int:
    made = feed.create(
        session, current.master, "https://127.0.0.1:1/", doctor, actor="cli:test", allow_private=False
    )
    return made.callback.id


def asked(client: TestClient, route: Route, numbers: dict[str, Any]) -> Any:
    return client.request(route.method, route.path.format(**numbers), **route.send)


def test_nobody_gets_what_is_not_theirs(
    ask: Ask, other_doctor: TestClient, numbers: dict[str, Any], database: Database
) -> None:
    before = count(database, "journal")
    nobody, forger = ask(None), ask("pn_" + "a" * 52)
    for route in ROUTES:
        refused = asked(nobody, route, numbers)
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer"), route
        assert asked(forger, route, numbers).status_code == 401, route
        assert asked(other_doctor, route, numbers).status_code == route.other, route
    assert count(database, "journal") == before, "a refusal changes nothing"


def test_readers_get_what_is_theirs(doctor: TestClient, operations: TestClient, numbers: dict[str, Any]) -> None:
    for route in ROUTES:
        if route.method == "GET":
            assert asked(doctor, route, numbers).status_code == route.doctor, route
            assert asked(operations, route, numbers).status_code == route.operations, route


ACTS = [route for route in ROUTES if route.method != "GET"]


def test_a_doctor_acts_on_their_own_campaign_only(
    doctor: TestClient, numbers: dict[str, Any], database: Database
) -> None:
    for route in ACTS:
        before = count(database, "journal")
        assert asked(doctor, route, numbers).status_code == route.doctor, route
        assert count(database, "journal") == before + (route.doctor < 300 and not route.only_looks), route


def test_operations_act_on_everything(operations: TestClient, numbers: dict[str, Any], database: Database) -> None:
    for route in ACTS:
        before = count(database, "journal")
        assert asked(operations, route, numbers).status_code == route.operations, route
        assert count(database, "journal") == before + (route.operations < 300 and not route.only_looks), route


def test_the_table_above_has_every_route(app: FastAPI) -> None:
    paths = {
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
        if path not in NO_KEY_NEEDED
    }
    assert {(route.method, route.template) for route in ROUTES} == paths


def test_listings_hold_only_the_doctors_own(
    doctor: TestClient, other_doctor: TestClient, operations: TestClient, world: World
) -> None:
    def ids(client: TestClient, path: str) -> list[int]:
        return [item["id"] for item in client.get(path).json()["items"]]

    assert ids(doctor, "/api/v1/campaigns") == [world.mine]
    assert ids(other_doctor, "/api/v1/campaigns") == [world.others]
    assert ids(operations, "/api/v1/campaigns") == [world.mine, world.others]
    assert ids(doctor, "/api/v1/doctors") == [world.doctor]
    assert len(ids(doctor, "/api/v1/deliveries")) == 3
    assert ids(other_doctor, "/api/v1/deliveries") == []
    assert ids(other_doctor, f"/api/v1/deliveries?campaign={world.mine}") == []


def test_an_incident_without_a_campaign_of_theirs_does_not_concern_a_doctor(
    doctor: TestClient, operations: TestClient
) -> None:
    operations.post("/api/v1/incidents", json={"reference": "other", "profile": "eu-gdpr-fr"})
    assert [item["reference"] for item in doctor.get("/api/v1/incidents").json()["items"]] == ["incident-1"]
    assert doctor.get("/api/v1/incidents/2").status_code == 404
    assert operations.get("/api/v1/incidents/2").status_code == 200


def test_a_revoked_key_is_refused_at_once(operations: TestClient, ask: Ask) -> None:
    made = operations.post("/api/v1/keys", json={"name": "short-lived"}).json()
    client = ask(made["secret"])
    assert client.get("/api/v1/campaigns").status_code == 200
    assert operations.delete(f"/api/v1/keys/{made['id']}").status_code == 204
    assert client.get("/api/v1/campaigns").status_code == 401
    assert operations.delete(f"/api/v1/keys/{made['id']}").status_code == 204, "revoking again is harmless"
    assert operations.delete("/api/v1/keys/999").status_code == 404


def test_revoking_keeps_the_first_time(operations: TestClient, database: Database) -> None:
    made = operations.post("/api/v1/keys", json={"name": "x"}).json()
    for now in (NOW, NOW.replace(year=2030)):
        with database.staff() as session:
            key = revoke_key(session, made["id"], actor="cli:test", now=now)
        assert key.revoked_at == NOW


def test_a_keys_secret_is_told_once_and_stored_nowhere(
    operations: TestClient, database: Database, database_url: str
) -> None:
    first = operations.post("/api/v1/keys", json={"name": "p"}, headers={"Idempotency-Key": "k"}).json()
    again = operations.post("/api/v1/keys", json={"name": "p"}, headers={"Idempotency-Key": "k"})
    assert (again.json()["secret"], again.json()["id"]) == (None, first["id"])
    assert first["secret"].startswith(first["prefix"])
    assert len(first["secret"]) == 55
    assert first["secret"] not in operations.get("/api/v1/keys").text
    with database.staff() as session:
        key = session.get_one(ApiKey, first["id"])
        assert first["secret"].encode() not in key.hash
        bodies = session.connection().exec_driver_sql("SELECT body FROM idempotent_request").scalars().all()
    assert bodies
    assert all(first["secret"].encode() not in bytes(body) for body in bodies)


def test_a_doctors_key_must_name_a_doctor_there_is(operations: TestClient, world: World) -> None:
    assert operations.post("/api/v1/keys", json={"name": "x", "doctor": 999}).status_code == 404
    made = operations.post("/api/v1/keys", json={"name": "x", "doctor": world.doctor})
    assert made.json()["doctor"] == world.doctor


def test_who_acted_stands_in_the_journal(doctor: TestClient, world: World, database: Database) -> None:
    doctor.post(f"/api/v1/campaigns/{world.mine}/pause", json={"reason": "waiting for the hotline"})
    with database.staff() as session:
        actor, action = (
            session.connection()
            .exec_driver_sql("SELECT actor, action FROM journal ORDER BY id DESC LIMIT 1")
            .one()
        )
        key = session.query(ApiKey).filter_by(doctor_id=world.doctor).one()
    assert (actor, action) == (f"key:{key.id}", "campaign.pause")


def test_a_wrong_scheme_is_no_key(app: FastAPI) -> None:
    client = TestClient(app, headers={"Authorization": "Basic cG46cG4="})
    assert client.get("/api/v1/campaigns").status_code == 401
