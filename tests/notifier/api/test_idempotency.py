"""`Idempotency-Key`: one act, however often and however concurrently it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from notifier import acts
from notifier.store import Database
from tests.factories import HEADER, person
from tests.notifier.api.conftest import Ask, World, count
from tests.notifier.api.test_life import send_list

KEY = {"Idempotency-Key": "0d6f9c1e"}
NEW = {"reference": "i-9", "profile": "eu-gdpr-fr"}


def test_the_same_request_again_gets_the_first_answer(operations: TestClient, database: Database) -> None:
    first = operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    again = operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert first.headers["location"] == again.headers["location"]
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert count(database, "incident") == 1


def test_the_same_key_for_another_request_is_refused(operations: TestClient, world: World) -> None:
    operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    other_body = operations.post("/api/v1/incidents", json=NEW | {"reference": "i-10"}, headers=KEY)
    other_path = operations.post(f"/api/v1/campaigns/{world.mine}/resume", headers=KEY)
    assert [other_body.status_code, other_path.status_code] == [422, 422]
    assert "Idempotency-Key" in other_body.json()["detail"]


def test_keys_of_two_callers_do_not_meet(operations: TestClient, ask: Ask, new_key: Callable[..., str]) -> None:
    operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    other = ask(new_key(None)).post("/api/v1/incidents", json=NEW | {"reference": "i-10"}, headers=KEY)
    assert other.status_code == 201


def test_a_doctors_acts_are_done_once_too(doctor: TestClient, world: World, database: Database) -> None:
    before = count(database, "journal")
    path = f"/api/v1/campaigns/{world.mine}/pause"
    first = doctor.post(path, json={"reason": "wait"}, headers=KEY)
    again = doctor.post(path, json={"reason": "wait"}, headers=KEY)
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert count(database, "journal") == before + 1
    assert doctor.post(path, json={"reason": "wait"}).status_code == 409, "without a key it is a second pause"


def test_a_key_opens_nothing_of_another_doctor(other_doctor: TestClient, world: World, database: Database) -> None:
    before = [count(database, table) for table in ("journal", "idempotent_request")]
    for action, body in (("pause", {"reason": "x"}), ("cancel", {"reason": "x"}), ("start", None)):
        answer = other_doctor.post(f"/api/v1/campaigns/{world.mine}/{action}", json=body, headers=KEY)
        assert answer.status_code == 404, action
    assert [count(database, table) for table in ("journal", "idempotent_request")] == before


def test_a_list_is_told_apart_by_its_bytes(operations: TestClient, world: World, database: Database) -> None:
    data = f"{HEADER}\n{person(7)}\n".encode()
    first = send_list(operations, world.others, data, headers=KEY)
    again = send_list(operations, world.others, data, headers=KEY)  # with another boundary
    other = send_list(operations, world.others, data + person(8).encode(), headers=KEY)
    assert (first.status_code, again.content, other.status_code) == (201, first.content, 422)
    assert again.headers["idempotent-replayed"] == "true"
    assert count(database, "list_file") == 3


def test_duplicates_at_the_same_time_act_once(app: FastAPI, operations: TestClient, database: Database) -> None:
    started = threading.Barrier(8)

    def send(_: int) -> Any:
        client = TestClient(app, headers=operations.headers, raise_server_exceptions=False)
        started.wait(30)
        return client.post("/api/v1/incidents", json=NEW, headers=KEY)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    acted = [answer for answer in answers if answer.status_code == 201]
    assert len([answer for answer in acted if "idempotent-replayed" not in answer.headers]) == 1
    assert len({answer.content for answer in acted}) == 1
    assert count(database, "incident") == 1


def test_while_the_first_is_at_work_the_second_is_told_so(
    app: FastAPI, operations: TestClient, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slowly(session: Session, *args: Any, **values: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return original(session, *args, **values)

    original = acts.create_incident
    monkeypatch.setattr(acts, "create_incident", slowly)
    with ThreadPoolExecutor(1) as pool:
        client = TestClient(app, headers=operations.headers)
        first = pool.submit(client.post, "/api/v1/incidents", json=NEW, headers=KEY)
        try:
            assert inside.wait(30)
            second = operations.post("/api/v1/incidents", json=NEW, headers=KEY)
        finally:
            go_on.set()
        assert (second.status_code, first.result().status_code) == (409, 201)
        assert second.json()["type"] == "urn:patient-notifier:problem:at-work"
        assert second.headers["retry-after"] == "1"
    assert operations.post("/api/v1/incidents", json=NEW, headers=KEY).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("error", [RuntimeError("boom"), OperationalError("SELECT 1", {}, Exception("gone"))])
def test_a_failed_request_leaves_nothing_and_may_be_sent_again(
    error: Exception, operations: TestClient, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    def failing(session: Session, *args: Any, **values: Any) -> Any:
        original(session, *args, **values)
        raise error

    original = acts.create_incident
    with monkeypatch.context() as patched:
        patched.setattr(acts, "create_incident", failing)
        assert operations.post("/api/v1/incidents", json=NEW, headers=KEY).status_code in (500, 503)
    assert (count(database, "incident"), count(database, "idempotent_request")) == (0, 0)
    again = operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    assert (again.status_code, "idempotent-replayed" in again.headers) == (201, False)


def test_a_refused_request_may_be_sent_again_once_it_is_allowed(
    operations: TestClient, world: World, database: Database
) -> None:
    path = f"/api/v1/campaigns/{world.others}"
    assert operations.post(f"{path}/start", headers=KEY).status_code == 409
    preview = operations.get(f"{path}/preview").json()
    operations.post(f"{path}/approve", json={"hash": preview["hash"]})
    assert operations.post(f"{path}/start", headers=KEY).json()["deliveries"] == 1


def test_a_key_that_cannot_be_one_is_refused(operations: TestClient) -> None:
    for key in (b"", b"a" * 256, b"a b", b"caf\xe9"):
        answer = operations.post("/api/v1/incidents", json=NEW, headers={"Idempotency-Key": key})
        assert answer.status_code == 422, key


def test_the_act_and_its_answer_are_one_transaction(operations: TestClient, database: Database) -> None:
    operations.post("/api/v1/incidents", json=NEW, headers=KEY)
    with database.staff() as session:
        same = session.scalar(
            text(
                "SELECT count(DISTINCT t) FROM (SELECT xmin::text AS t FROM incident "
                "UNION ALL SELECT xmin::text FROM idempotent_request) both_rows"
            )
        )
    assert same == 1
