"""A campaign's whole life over the API, with a list that is as lists are; and no person in any answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from structlog.testing import capture_logs

from notifier.store import Database
from tests.factories import FACTS, HEADER, person
from tests.notifier.api.conftest import Ask, World, count
from tests.notifier.api.test_access import DOCTOR

CANARY = (
    "Kanarienberg",
    "Serinette",
    "17/05/1931",
    "1931-05-17",
    "kanari.mail@example.net",
    "+33639980777",
    "639980777",
    "Canaris",
    "K-4711",
)
LINES = [
    "K-4711;Kanarienberg;Serinette;17/05/1931;kanari.mail@example.net;06 39 98 07 77;9 rue des Canaris;75003;Paris;fr;",
    "K-4711;Kanarienberg;Serinette;17/05/1931;;;;;;;",
    person(2, email="broken at example", phone=None),
    person(3, email=None, phone="06 39 98 00 03"),
    person(4, decede="oui"),
    ";;;;;;;;;;",
    "Total;;;;;;;;;;",
]
LIST = "\n".join([HEADER, *LINES, ""]).encode()


def send_list(client: TestClient, campaign: int, data: bytes = LIST, **more: Any) -> Any:
    return client.post(
        f"/api/v1/campaigns/{campaign}/lists", files={"file": ("liste.csv", data, "text/csv")}, **more
    )


def check_sum(counts: dict[str, int]) -> None:
    parts = ("excluded", "merged", "informed", "on_the_way", "unreached")
    assert counts["imported"] == sum(counts[part] for part in parts)


def made(response: Any) -> dict[str, Any]:
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_campaign_from_incident_to_cancellation(
    operations: TestClient, ask: Ask, new_key: Callable[[int | None], str]
) -> None:
    incident = made(operations.post("/api/v1/incidents", json={"reference": "i-1", "profile": "eu-gdpr-fr"}))
    signer = made(operations.post("/api/v1/doctors", json=DOCTOR))
    created = operations.post("/api/v1/campaigns", json={"incident": incident["id"], "doctor": signer["id"]})
    number = made(created)["id"]
    assert created.headers["location"] == f"/api/v1/campaigns/{number}"
    doctor = ask(new_key(signer["id"]))
    path = f"/api/v1/campaigns/{number}"

    imported = made(send_list(doctor, number))
    assert imported["rows"] == imported["accepted"] + imported["merged"] + imported["refused"]
    assert (imported["accepted"], imported["merged"], imported["refused"]) == (4, 1, imported["rows"] - 5)
    again = made(send_list(doctor, number))
    assert (imported.pop("is_new"), again.pop("is_new")) == (True, False)
    assert {"header": "email", "meaning": "email", "by": "name", "could_be": []} in imported["columns"]
    assert again.pop("columns") == imported.pop("columns")
    assert again == imported, "the same file again changes nothing"
    assert doctor.get(f"{path}/lists").json() == {"items": [imported], "next": None}
    problems = doctor.get(f"/api/v1/lists/{imported['id']}/problems").json()["items"]
    assert {"row": 4, "column": "email"}.items() <= problems[0].items()

    preview = doctor.get(f"{path}/preview").json()
    assert not preview["complete"]
    assert preview["missing"][0]["words"]["fr"]
    refused = doctor.post(f"{path}/approve", json={"hash": preview["hash"]})
    assert refused.status_code == 409
    assert refused.json()["type"].endswith(":incomplete-notice")
    assert {"part", "channel", "language"} == set(refused.json()["missing"][0])
    assert doctor.get(path).json()["state"] == "draft"

    assert operations.put(f"/api/v1/incidents/{incident['id']}/facts", json=FACTS).status_code == 200
    preview = doctor.get(f"{path}/preview", params={"name": "Alix Inventé", "language": "fr"}).json()
    assert preview["complete"]
    assert [shown["channel"] for shown in preview["texts"]] == ["email", "sms"]
    assert "Alix Inventé" in preview["texts"][0]["text"]
    assert preview["texts"][1]["parts"] > 0
    assert doctor.post(f"{path}/start").status_code == 409
    assert doctor.post(f"{path}/approve", json={"hash": "0" * 64}).status_code == 409
    approved = doctor.post(f"{path}/approve", json={"hash": preview["hash"]}).json()
    assert (approved["state"], approved["notice_hash"]) == ("approved", preview["hash"])
    assert approved["approved_by"].startswith("key:")

    started = doctor.post(f"{path}/start").json()
    assert (started["state"], started["deliveries"]) == ("sending", 2)
    status = doctor.get(path).json()
    check_sum(status["counts"])
    assert status["counts"]["imported"] == 5
    assert (status["counts"]["excluded"], status["counts"]["unreached"]) == (1, 1)
    assert status["deliveries"]["email"]["pending"] == status["deliveries"]["sms"]["pending"] == 1
    again = made(send_list(doctor, number, LIST + b"\n"))
    assert (again["accepted"], again["merged"]) == (0, 5), "a list after the start names the same people"

    assert (
        doctor.post(f"{path}/pause", json={"reason": "hotline not ready"}).json()["reason"] == "hotline not ready"
    )
    assert doctor.post(f"{path}/resume").json()["state"] == "sending"
    assert doctor.post(f"{path}/cancel", json={"reason": "by letter"}).json()["state"] == "cancelled"
    status = doctor.get(path).json()
    check_sum(status["counts"])
    assert status["deliveries"]["sms"]["cancelled"] == 1
    assert doctor.post(f"{path}/resume").status_code == 409
    assert send_list(doctor, number, LIST + b"\n\n").status_code == 409


def test_a_patient_and_a_delivery_tell_their_whole_story(
    doctor: TestClient, world: World, database: Database
) -> None:
    with database.staff() as session:
        delivery = session.scalar(text("SELECT id FROM delivery WHERE channel = 'sms'"))
        session.execute(
            text(
                "INSERT INTO attempt (delivery_id, doctor_id, fence, provider, notice_id, ended_at, outcome, code) "
                "SELECT id, doctor_id, 1, 'brevo-sms', 1, now(), 'accepted', 'accepted' FROM delivery WHERE id = :id"
            ),
            {"id": delivery},
        )
        session.execute(
            text(
                "INSERT INTO receipt (delivery_id, campaign_id, doctor_id, provider, event, code, event_at, "
                "body_sealed, dedup) SELECT id, campaign_id, doctor_id, 'brevo-sms', 'delivered', 'Delivered', now(), "
                "'\\x00', '\\x01' FROM delivery WHERE id = :id"
            ),
            {"id": delivery},
        )
    status = doctor.get(f"/api/v1/deliveries/{delivery}").json()
    assert [(one["provider"], one["outcome"], one["code"]) for one in status["attempts"]] == [
        ("brevo-sms", "accepted", "accepted")
    ]
    assert [(one["event"], one["code"], one["applied_at"]) for one in status["receipts"]] == [
        ("delivered", "Delivered", None)
    ]
    [patient] = status["patients"]
    person = doctor.get(f"/api/v1/patients/{patient}").json()
    assert (person["outcome"], person["row"], person["has_postal"]) == ("on_the_way", 4, True)
    assert [one["id"] for one in person["deliveries"]] == [delivery]


def test_counts_add_up_whatever_the_outcomes(doctor: TestClient, world: World, database: Database) -> None:
    with database.staff() as session:
        session.execute(
            text("UPDATE patient SET outcome = 'informed', merged = 2 WHERE campaign_id = :c AND row = 2"),
            {"c": world.mine},
        )
    counts = doctor.get(f"/api/v1/campaigns/{world.mine}").json()["counts"]
    check_sum(counts)
    assert counts == {"imported": 5, "excluded": 0, "merged": 2, "informed": 1, "on_the_way": 2, "unreached": 0}


def test_filters_narrow_and_unknown_ones_are_refused(operations: TestClient, world: World) -> None:
    def number(path: str) -> int:
        answer = operations.get(path)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert number("/api/v1/campaigns?state=sending") == 1
    assert number(f"/api/v1/campaigns?doctor={world.other_doctor}&incident=1") == 1
    assert number("/api/v1/campaigns?incident=2") == 0
    assert number("/api/v1/deliveries?channel=sms&state=pending") == 1
    assert number(f"/api/v1/deliveries?campaign={world.mine}&channel=email") == 2
    assert number("/api/v1/deliveries?state=failed") == 0
    assert number(f"/api/v1/campaigns/{world.mine}/patients?outcome=on_the_way") == 3
    assert number(f"/api/v1/campaigns/{world.mine}/patients?outcome=informed") == 0
    for path in ("campaigns?state=gone", "campaigns?stat=sending", "deliveries?chanel=sms"):
        assert operations.get(f"/api/v1/{path}").status_code == 422, path


def test_what_is_known_already_is_not_sent_again(doctor: TestClient, world: World) -> None:
    path = f"/api/v1/campaigns/{world.mine}"
    tag = doctor.get(path).headers["etag"]
    same = doctor.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    doctor.post(f"{path}/pause", json={"reason": "a test"})
    changed = doctor.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "paused")


def test_facts_are_written_on_the_state_their_writer_knows_or_not_at_all(
    operations: TestClient, database: Database
) -> None:
    made(operations.post("/api/v1/incidents", json={"reference": "i-1", "profile": "eu-gdpr-fr"}))
    path = "/api/v1/incidents/1"
    tag = operations.get(path).headers["etag"]
    before = count(database, "journal")
    for headers in (
        {"If-None-Match": "*"},
        {"If-None-Match": f"W/{tag}"},
        {"If-Match": '"other"'},
        {"If-Match": f"W/{tag}"},
        {"If-Match": ""},
    ):
        refused = operations.put(f"{path}/facts", json=FACTS, headers=headers)
        assert refused.status_code == 412, headers
        assert refused.headers["content-type"] == "application/problem+json"
    assert (operations.get(path).headers["etag"], count(database, "journal")) == (tag, before)

    written = operations.put(f"{path}/facts", json=FACTS, headers={"If-Match": f'"other", {tag}'})
    assert (written.status_code, written.json()["facts"]) == (200, FACTS)
    assert operations.get(path, headers={"If-None-Match": written.headers["etag"]}).status_code == 304
    assert operations.put(f"{path}/facts", json={}, headers={"If-Match": tag}).status_code == 412
    assert operations.put(f"{path}/facts", json={}, headers={"If-Match": "*"}).status_code == 200
    assert operations.put("/api/v1/incidents/9/facts", json={}, headers={"If-Match": "*"}).status_code == 404


def test_a_form_may_be_named_in_any_letters(operations: TestClient, world: World) -> None:
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="l.csv"\r\n\r\n{HEADER}\n{person(8)}\n'
    answer = operations.post(
        f"/api/v1/campaigns/{world.others}/lists",
        content=f"{body}\r\n--b--\r\n",
        headers={"Content-Type": "Multipart/Form-Data; Boundary=b"},
    )
    assert made(answer)["accepted"] == 1


def test_no_answer_holds_a_person(
    app: FastAPI,
    operations: TestClient,
    world: World,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with capture_logs() as logged:
        said = everything_said(app, operations, world, database)
    printed = str(logged) + caplog.text
    for value in CANARY:
        assert value not in said
        assert value not in printed
    assert "/api/v1/patients/{patient_id}" in printed, "the log names the route"


def everything_said(app: FastAPI, operations: TestClient, world: World, database: Database) -> str:
    """Every answer of every GET, and of requests that are refused because of a person in them."""
    made(send_list(operations, world.others))
    preview = operations.get(f"/api/v1/campaigns/{world.others}/preview").json()
    operations.post(f"/api/v1/campaigns/{world.others}/approve", json={"hash": preview["hash"]})
    assert operations.post(f"/api/v1/campaigns/{world.others}/start").json()["deliveries"] > 0
    answers = [operations.get(path) for path in every_get(app, database)]
    assert {answer.status_code for answer in answers} == {200}
    refusals = [
        operations.get("/api/v1/Kanarienberg"),
        operations.get("/api/v1/campaigns?cursor=kanari.mail@example.net"),
        operations.get("/api/v1/patients/Kanarienberg"),
        operations.put("/api/v1/holds/Kanarienberg", json={"reason": "x"}),
        operations.post("/api/v1/incidents", json={"reference": "r", "profile": "Kanarienberg"}),
        operations.post("/api/v1/doctors", json={"name": ["Kanarienberg"]}),
        operations.post("/webhooks/Kanarienberg/1.kanari.mail@example.net", content=b"+33639980777"),
        send_list(operations, world.others, b"Kanarienberg;Serinette\n+33639980777;1931\n"),
    ]
    assert all(answer.status_code in (404, 409, 422) for answer in refusals)
    return "\n".join(answer.text + str(answer.headers) for answer in [*answers, *refusals])


def every_get(app: FastAPI, database: Database) -> list[str]:
    """The address of every single thing and listing there is."""
    with database.staff() as session:

        def ids(table: str) -> list[int]:
            return list(session.scalars(text(f"SELECT id FROM {table} ORDER BY id")))

        numbers = {
            "incident_id": ids("incident"),
            "doctor_id": ids("doctor"),
            "campaign_id": ids("campaign"),
            "list_id": ids("list_file"),
            "patient_id": ids("patient"),
            "delivery_id": ids("delivery"),
            "callback_id": ids("callback"),
        }
        tests = session.execute(text("SELECT campaign_id, id FROM test_send")).all()
    paths = []
    for path, operations in app.openapi()["paths"].items():
        # Letters and calls are the doctor's own lists of people.
        if "get" in operations and not path.endswith(("/letters", "/calls")):
            names = [name for name in numbers if "{" + name + "}" in path]
            if "{test_id}" in path:
                paths += [path.format(campaign_id=campaign, test_id=test) for campaign, test in tests]
            else:
                paths += [path.format(**{names[0]: one}) for one in numbers[names[0]]] if names else [path]
    return paths
