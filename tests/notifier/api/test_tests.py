"""A doctor's test send over the API: asked for, looked at, held to its limits."""

from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier import testsends
from notifier.store import Database
from tests.notifier.api.conftest import World, count

TO = {"to": "me@example.org"}


def test_a_test_is_taken_and_its_own_address_says_how_it_ended(
    doctor: TestClient, world: World, database: Database
) -> None:
    taken = doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json=TO)
    assert taken.status_code == 202
    where = taken.headers["location"]
    assert where == f"/api/v1/campaigns/{world.mine}/tests/{taken.json()['id']}"
    first = doctor.get(where)
    assert first.json() == taken.json()
    assert (first.json()["state"], first.json()["channel"], first.json()["code"]) == ("queued", "email", None)
    assert first.json()["hash"] == doctor.get(f"/api/v1/campaigns/{world.mine}/preview").json()["hash"]
    with database.staff() as session:
        session.execute(text("UPDATE test_send SET state = 'refused', code = 'on_hold:everything'"))
    assert doctor.get(where, headers={"If-None-Match": first.headers["etag"]}).json()["state"] == "refused"


def test_where_it_went_is_in_no_answer(doctor: TestClient, world: World) -> None:
    taken = doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json={"to": "canary@example.org"})
    assert "canary" not in taken.text + doctor.get(taken.headers["location"]).text
    refused = doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json={"to": "canary@"})
    assert refused.status_code == 422
    assert "canary" not in refused.text


def test_the_same_request_again_sends_no_second_test(doctor: TestClient, world: World, database: Database) -> None:
    key = {"Idempotency-Key": "once"}
    answers = [doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json=TO, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert count(database, "test_send") == 1


def test_more_than_the_limit_is_a_conflict(doctor: TestClient, world: World, database: Database) -> None:
    url = f"/api/v1/campaigns/{world.mine}/tests"
    codes = [doctor.post(url, json=TO).status_code for _ in range(testsends.MOST_AN_HOUR + 1)]
    assert codes == [202] * testsends.MOST_AN_HOUR + [409]


def test_an_sms_in_the_language_and_variant_asked_for(doctor: TestClient, world: World) -> None:
    asked = {"to": "06 39 98 00 01", "channel": "sms", "language": "fr", "variant": "standard"}
    taken = doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json=asked)
    assert {name: taken.json()[name] for name in ("channel", "language", "variant")} == {
        name: asked[name] for name in ("channel", "language", "variant")
    }
    assert (
        doctor.post(f"/api/v1/campaigns/{world.mine}/tests", json=asked | {"variant": "comment"}).status_code
        == 422
    )
