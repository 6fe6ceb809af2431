"""What operations do with deliveries that failed or were set aside."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier.store import Database
from tests.notifier.api.conftest import World, count


def put(database: Database, state: str, reason: str) -> list[int]:
    """All deliveries in this state, settled long ago; their numbers."""
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = :state, reason = :reason, crashes = 3, due_at = NULL"),
            {"state": state, "reason": reason},
        )
        session.execute(text("UPDATE patient SET outcome = 'unreached' WHERE outcome = 'on_the_way'"))
        return list(session.scalars(text("SELECT id FROM delivery ORDER BY id")))


def states(database: Database) -> set[str]:
    with database.staff() as session:
        return set(session.scalars(text("SELECT DISTINCT state FROM delivery")))


def ask(client: TestClient, act: str, **body: Any) -> Any:
    answer = client.post(f"/api/v1/deliveries/{act}", json={"reason": "mended"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_failed_deliveries_are_sent_again(operations: TestClient, world: World, database: Database) -> None:
    numbers = put(database, "failed", "smtp_550_5.1.1")
    would = ask(operations, "replay", campaign=world.mine, dry_run=True)
    assert would == {"dry_run": True, "count": 3, "deliveries": numbers, "left": {}}
    assert operations.get(f"/api/v1/deliveries/{numbers[0]}").json()["state"] == "failed"
    assert ask(operations, "replay", deliveries=numbers[:1])["deliveries"] == numbers[:1]
    assert operations.get(f"/api/v1/deliveries/{numbers[0]}").json()["state"] == "pending"
    assert ask(operations, "replay", deliveries=numbers[:2])["left"] == {"other_state": 1}


def test_what_may_have_arrived_needs_a_word(operations: TestClient, world: World, database: Database) -> None:
    put(database, "failed", "no_receipt")
    assert ask(operations, "replay", campaign=world.mine)["left"] == {"may_have_arrived": 3}
    assert ask(operations, "replay", campaign=world.mine, code="smtp_554")["left"] == {}
    assert ask(operations, "replay", campaign=world.mine, possibly_twice=True)["count"] == 3


def test_what_was_set_aside_is_listed_released_and_given_up(
    operations: TestClient, world: World, database: Database
) -> None:
    numbers = put(database, "quarantined", "worker_crashed")
    first = operations.get("/api/v1/deliveries/quarantine?limit=2").json()
    rest = operations.get("/api/v1/deliveries/quarantine", params={"cursor": first["next"]}).json()
    assert [row["id"] for row in first["items"] + rest["items"]] == numbers
    assert ask(operations, "quarantine/release", deliveries=numbers[:1])["count"] == 1
    assert ask(operations, "quarantine/give-up", campaign=world.mine)["deliveries"] == numbers[1:]
    assert operations.get("/api/v1/deliveries/quarantine").json()["items"] == []
    assert operations.get(f"/api/v1/deliveries/{numbers[1]}").json()["reason"] == "given_up"


@pytest.mark.parametrize("act", ["replay", "quarantine/release", "quarantine/give-up"])
@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({}, 422, "either deliveries or a campaign is needed"),
        ({"deliveries": [1], "campaign": 1}, 422, "either deliveries or a campaign is needed"),
        ({"deliveries": []}, 422, "deliveries"),
        ({"deliveries": list(range(1, 1002))}, 422, "deliveries"),
        ({"deliveries": [987_654]}, 404, "There is no delivery 987654."),
        ({"deliveries": [1, 987_654]}, 404, "There is no delivery 987654."),
        ({"campaign": 987_654}, 404, "There is no campaign 987654."),
        ({"campaign": 1, "reason": " "}, 422, "reason"),
        ({"campaign": 1, "reason": None}, 422, "reason"),
        ({"campaign": 1, "all": True}, 422, "all"),
    ],
)
def test_an_act_that_cannot_be_is_refused_and_changes_nothing(
    operations: TestClient,
    world: World,
    database: Database,
    act: str,
    body: dict[str, Any],
    status: int,
    expected: str,
) -> None:
    put(database, "quarantined", "worker_crashed")
    before = count(database, "journal")
    refused = operations.post(f"/api/v1/deliveries/{act}", json={"reason": "mended"} | body)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert expected in refused.text
    assert (count(database, "journal"), states(database)) == (before, {"quarantined"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"state": "accepted"}, "Only failed deliveries"),
        ({"state": "unknown"}, "may go out twice"),
        ({"state": "lost"}, "state"),
        ({"code": ""}, "code"),
    ],
)
def test_what_cannot_be_sent_again_is_refused(
    operations: TestClient, world: World, body: dict[str, Any], expected: str
) -> None:
    asked = {"reason": "mended", "campaign": world.mine} | body
    refused = operations.post("/api/v1/deliveries/replay", json=asked)
    assert refused.status_code == 422
    assert expected in refused.text


def test_a_code_goes_with_a_campaign(operations: TestClient, world: World, database: Database) -> None:
    """A code that would be passed over in silence sends more again than was meant."""
    numbers = put(database, "failed", "smtp_550_5.1.1")
    asked = {"reason": "mended", "deliveries": numbers, "code": "smtp_554"}
    refused = operations.post("/api/v1/deliveries/replay", json=asked)
    assert refused.status_code == 422
    assert "code" in refused.text
    assert states(database) == {"failed"}


def test_an_act_that_is_repeated_with_its_key_is_done_once(
    operations: TestClient, world: World, database: Database
) -> None:
    numbers = put(database, "failed", "smtp_550_5.1.1")
    key = {"Idempotency-Key": "replay-1"}
    asked = {"reason": "mended", "deliveries": numbers}
    first = operations.post("/api/v1/deliveries/replay", json=asked, headers=key)
    put(database, "failed", "smtp_550_5.1.1")
    again = operations.post("/api/v1/deliveries/replay", json=asked, headers=key)
    assert (first.json(), again.headers["idempotent-replayed"]) == (again.json(), "true")
    assert states(database) == {"failed"}


def test_who_was_told_is_sent_nothing_again_unless_one_says_so(
    operations: TestClient, world: World, database: Database
) -> None:
    for act, state in (("replay", "failed"), ("quarantine/release", "quarantined")):
        numbers = put(database, state, "given_up")
        with database.staff() as session:
            session.execute(text("UPDATE patient SET outcome = 'informed' WHERE outcome <> 'excluded'"))
        assert ask(operations, act, campaign=world.mine)["left"] == {"told": 3}
        assert ask(operations, act, campaign=world.mine, even_told=True)["deliveries"] == numbers


def test_nothing_about_a_person_is_told(operations: TestClient, world: World, database: Database) -> None:
    said = []
    numbers = put(database, "quarantined", "worker_crashed")
    said.append(operations.get("/api/v1/deliveries/quarantine").text)
    said.append(str(ask(operations, "quarantine/release", deliveries=numbers[:1])))
    said.append(str(ask(operations, "quarantine/give-up", campaign=world.mine)))
    said.append(str(ask(operations, "replay", campaign=world.mine, dry_run=True)))
    said += [operations.get(f"/api/v1/deliveries/{number}").text for number in numbers]
    for known in ("@", "Nom1", "Prenom", "39980", "39 98", "Lilas", "1975", "P0000"):
        assert known not in "".join(said), known
