"""Whatever goes wrong, the answer is a problem (RFC 9457) that says how to mend it and nothing more."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError

from notifier import acts, errors
from notifier.api import create_app, problems
from notifier.api.headers import MAX_JSON_BYTES, SECURITY
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.api.conftest import World, count
from tests.notifier.api.test_access import DOCTOR

BIG = 2**63
HALF_A_LETTER = rb'{"reference": "a", "profile": "eu-gdpr-fr", "facts": {"processor": "\ud800"}}'
FACTLESS = {"reference": "a", "profile": "eu-gdpr-fr"}


def check_problem(answer: Any, status: int, what: str = "") -> dict[str, Any]:
    assert answer.status_code == status, f"{what}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == status
    assert said["type"].startswith("urn:patient-notifier:problem:")
    assert said["title"]
    for name, value in SECURITY.items():
        assert answer.headers[name] == value
    return said


WRONG: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/nothing", {}, 404),
    ("GET", "/api/v1/campaigns/", {}, 404),
    ("GET", "/docs", {}, 404),
    ("GET", "/api/v1/campaigns/999", {}, 404),
    ("GET", "/api/v1/patients/999", {}, 404),
    ("GET", "/api/v1/lists/999/problems", {}, 404),
    ("GET", "/api/v1/campaigns/999/preview", {}, 404),
    ("GET", "/api/v1/campaigns/999/patients", {}, 404),
    ("GET", f"/api/v1/campaigns/{BIG}", {}, 422),
    ("GET", "/api/v1/campaigns/0", {}, 422),
    ("GET", "/api/v1/campaigns/one", {}, 422),
    ("GET", "/api/v1/deliveries/one", {}, 404),
    ("GET", f"/api/v1/deliveries/{'9' * 5000}", {}, 422),
    ("DELETE", "/api/v1/campaigns", {}, 405),
    ("GET", "/api/v1/deliveries/replay", {}, 405),
    ("POST", "/api/v1/deliveries/replay", {"json": {"reason": "x", "campaign": 1, "dry_run": 0}}, 422),
    ("POST", "/api/v1/callbacks", {"json": {"url": "https://example.org/", "doctor": 999}}, 404),
    ("POST", "/api/v1/incidents", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
    (
        "POST",
        "/api/v1/incidents",
        {"content": b"\xff{}", "headers": {"Content-Type": "application/json"}},
        400,
    ),
    ("POST", "/api/v1/incidents", {"content": b"a=b"}, 415),
    ("POST", "/api/v1/incidents", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ("POST", "/api/v1/incidents", {"headers": {"Content-Type": "application/json"}}, 422),
    ("PUT", "/api/v1/incidents/1/facts", {"content": b"{}"}, 415),
    ("PUT", "/api/v1/holds/everything", {"content": b'{"reason": "x"}'}, 415),
    ("POST", "/api/v1/campaigns", {"json": {"incident": True, "doctor": 1}}, 422),
    ("POST", "/api/v1/campaigns", {"json": {"incident": "1", "doctor": 1}}, 422),
    ("POST", "/api/v1/campaigns", {"json": {"incident": 1.5, "doctor": 1}}, 422),
    ("POST", "/api/v1/keys", {"json": {"name": "x", "doctor": "1"}}, 422),
    ("GET", f"/api/v1/campaigns/{2**53}", {}, 422),
    (
        "POST",
        "/api/v1/incidents",
        {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}},
        400,
    ),
    ("POST", "/api/v1/incidents", {"json": FACTLESS | {"facts": {"what_happened": {"fr": "a\x00"}}}}, 422),
    (
        "POST",
        "/api/v1/incidents",
        {"content": HALF_A_LETTER, "headers": {"Content-Type": "application/json"}},
        422,
    ),
    ("POST", "/api/v1/incidents", {"json": {"reference": "a", "profile": "p", "unknown": 1}}, 422),
    ("POST", "/api/v1/incidents", {"json": {"reference": "", "profile": "eu-gdpr-fr"}}, 422),
    ("POST", "/api/v1/incidents", {"json": {"reference": "a\x00", "profile": "eu-gdpr-fr"}}, 422),
    ("POST", "/api/v1/incidents", {"json": {"reference": "a", "profile": "../x"}}, 422),
    (
        "POST",
        "/api/v1/incidents",
        {"json": {"reference": "a", "profile": "eu-gdpr-fr", "facts": {"x": 1}}},
        422,
    ),
    ("POST", "/api/v1/incidents", {"json": {"reference": "a" * MAX_JSON_BYTES, "profile": "p"}}, 413),
    ("POST", "/api/v1/campaigns", {"json": {"incident": 999, "doctor": 1}}, 404),
    ("POST", "/api/v1/campaigns", {"json": {"incident": BIG, "doctor": 1}}, 422),
    ("PUT", "/api/v1/holds/everybody", {"json": {"reason": "x"}}, 422),
    ("PUT", "/api/v1/holds/everything", {"json": {"reason": " "}}, 422),
    ("PUT", "/api/v1/holds/everything", {"json": {"reason": "\u2003\n"}}, 422),
    ("POST", "/api/v1/keys", {"json": {"name": "gnp\u202e.exe"}}, 422),
    ("POST", "/api/v1/keys", {"json": {"name": "two\nlines"}}, 422),
    ("POST", "/api/v1/keys", {"json": {"name": "tag\U000e0041"}}, 422),
    ("PUT", "/api/v1/holds/everything", {"json": {"reason": "x", "until": "2026-12-01T00:00:00"}}, 422),
    ("POST", "/api/v1/campaigns/999/lists", {"files": {"file": b"email\n"}}, 404),
]


def test_a_wrong_request_gets_a_problem_and_changes_nothing(operations: TestClient, database: Database) -> None:
    before = count(database, "journal")
    for method, path, send, status in WRONG:
        check_problem(operations.request(method, path, **send), status, f"{method} {path} {str(send)[:80]}")
    assert count(database, "journal") == before


def test_allowed_are_the_methods_of_this_path_and_no_others(operations: TestClient) -> None:
    for path, allowed in {"deliveries/replay": "POST", "keys": "GET, HEAD, POST", "keys/1": "DELETE"}.items():
        assert operations.patch(f"/api/v1/{path}").headers["allow"] == allowed


def test_a_request_that_is_not_understood_names_each_field(operations: TestClient) -> None:
    said = check_problem(operations.post("/api/v1/doctors", json=DOCTOR | {"name": "", "phon": "x"}), 422)
    assert {error["field"] for error in said["errors"]} == {"body.name", "body.phon"}


UNSEEN = ["a\u202eb", "a\u200bb", "a\u2028b", "a\u2029b", "a\x85b", "a\x1bb", "a\tb", "\u2066", "\u200b", " \xa0 "]


@pytest.mark.parametrize("text", UNSEEN, ids=ascii)
def test_a_line_with_characters_nobody_sees_is_refused(operations: TestClient, text: str) -> None:
    for path, body in (
        ("incidents", {"reference": text, "profile": "eu-gdpr-fr"}),
        ("doctors", DOCTOR | {"reference": text}),
        ("keys", {"name": text}),
    ):
        said = check_problem(operations.post(f"/api/v1/{path}", json=body), 422, path)
        assert [error["field"] for error in said["errors"]] == [
            "body.name" if path == "keys" else "body.reference"
        ]


def test_allow_names_every_method_of_a_path(operations: TestClient) -> None:
    for path, methods in (
        ("/api/v1/holds", "GET, HEAD"),
        ("/api/v1/holds/everything", "DELETE, PUT"),
        ("/api/v1/incidents", "GET, HEAD, POST"),
        ("/api/v1/campaigns/1/lists", "GET, HEAD, POST"),
        ("/api/v1/keys/1", "DELETE"),
        ("/openapi.json", "GET, HEAD"),
    ):
        answer = operations.patch(path)
        check_problem(answer, 405, path)
        assert answer.headers["allow"] == methods, path


def test_head_answers_like_get_without_a_body(operations: TestClient, world: World) -> None:
    for path in ("/healthz", "/openapi.json", "/api/v1/campaigns", f"/api/v1/campaigns/{world.mine}", "/nothing"):
        get, head = operations.get(path), operations.head(path)
        assert (head.status_code, head.content, head.headers) == (get.status_code, b"", get.headers), path
    assert operations.head(f"/api/v1/campaigns/{world.mine}/pause").status_code == 405


NO_LISTS: list[tuple[Any, dict[str, str], int]] = [
    ({"file": b""}, {}, 422),
    ({"file": b"%PDF-1.7\n\x00\x01"}, {}, 422),
    ({"file": b"nom;prenom\nA;B\n"}, {}, 422),
    ({"list": b"email\na@example.org\n"}, {}, 422),
    ([("file", b"email\n"), ("file", b"email\n")], {}, 422),
    (None, {"Content-Type": "text/csv"}, 415),
    (None, {"Content-Type": "multipart/mixed; boundary=x"}, 415),
    (None, {"Content-Type": "multipart/form-data"}, 422),
    (None, {"Content-Type": "multipart/form-data; boundary=x"}, 422),
]


def test_a_file_that_is_no_list_is_refused_whole(operations: TestClient, world: World, database: Database) -> None:
    before = [count(database, table) for table in ("list_file", "patient", "journal")]
    for files, headers, status in NO_LISTS:
        send = {"files": files} if files else {"content": b"email\na@example.org\n"}
        answer = operations.post(f"/api/v1/campaigns/{world.others}/lists", headers=headers, **send)
        check_problem(answer, status, f"{files} {headers}")
    assert [count(database, table) for table in ("list_file", "patient", "journal")] == before


def test_a_list_just_above_the_limit_is_refused(database_url: str, operations: TestClient, world: World) -> None:
    small = create_app(make_settings(database_url, max_list_bytes=100))
    client = TestClient(small, headers=operations.headers)
    path = f"/api/v1/campaigns/{world.others}/lists"
    said = check_problem(client.post(path, files={"file": b"email\n" + b"a" * 95}), 413)
    assert "100 bytes" in said["detail"]
    check_problem(client.post(path, files={"file": b"a" * 200_000}), 413)
    small.state.context.database.dispose()


def test_twins_are_a_conflict(operations: TestClient, world: World) -> None:
    twin = {"reference": "incident-1", "profile": "eu-gdpr-fr"}
    check_problem(operations.post("/api/v1/incidents", json=twin), 409)
    again = {"incident": 1, "doctor": world.doctor}
    check_problem(operations.post("/api/v1/campaigns", json=again), 409)


OURS = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.NotifierError)
]


@pytest.mark.parametrize("error", OURS)
def test_every_error_of_ours_has_an_answer(error: type[errors.NotifierError]) -> None:
    answer = problems.of_error(error("Words for people."))
    hidden = error in (errors.NotifierError, errors.SettingsError, errors.SealingError)
    assert (answer.status_code == 500) == hidden
    assert (b"Words for people." in answer.body) != hidden


def test_where_the_database_stands_is_not_told() -> None:
    error = errors.ServiceError("PostgreSQL does not answer: connection to 10.1.2.3 refused")
    error.__cause__ = OperationalError("SELECT 1", {}, Exception("10.1.2.3"))
    answer = problems.of_error(error)
    assert (answer.status_code, b"10.1.2.3" in answer.body) == (503, False)


class Refusal(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("DETAIL: Key (email)=(jean@example.org) already exists.")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("kind", "sqlstate", "status"),
    [
        (IntegrityError, "23505", 409),
        (IntegrityError, "23514", 500),
        (DataError, "22021", 422),
        (OperationalError, "40P01", 503),
        (OperationalError, "57P01", 503),
        (ProgrammingError, "42501", 500),
    ],
)
def test_the_databases_words_are_not_repeated(kind: type[Any], sqlstate: str, status: int) -> None:
    answer = problems.of_database_error(kind("SELECT secret", {"email": "jean@example.org"}, Refusal(sqlstate)))
    assert answer.status_code == status
    assert (b"jean" in answer.body, b"SELECT" in answer.body) == (False, False)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_the_unexpected_is_told_without_details(
    operations: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **values: Any) -> None:
        raise RuntimeError("jean@example.org")

    monkeypatch.setattr(acts, "create_incident", broken)
    answer = operations.post("/api/v1/incidents", json={"reference": "a", "profile": "eu-gdpr-fr"})
    said = check_problem(answer, 500)
    assert "detail" not in said
    assert "jean" not in answer.text + caplog.text


def test_a_database_that_is_away_is_said_with_when_to_come_back(app: FastAPI, database_url: str) -> None:
    away = create_app(make_settings("postgresql://nobody@127.0.0.1:1/none"))
    client = TestClient(away, headers={"Authorization": "Bearer pn_x"}, raise_server_exceptions=False)
    for method, path in (("GET", "/api/v1/campaigns"), ("GET", "/readyz"), ("GET", "/metrics")):
        answer = client.request(method, path)
        said = check_problem(answer, 503)
        assert answer.headers["retry-after"]
        assert "127.0.0.1" not in said["detail"]
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_reference_nobody_has_seen_before_may_hold_any_letters(
    operations: TestClient, current: Settings
) -> None:
    reference = f"Été — {uuid.uuid4()}"
    made = operations.post("/api/v1/incidents", json={"reference": reference, "profile": "eu-gdpr-fr"})
    assert made.json()["reference"] == reference
