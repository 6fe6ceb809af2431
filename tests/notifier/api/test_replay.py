"""What operations do with deliveries that failed or were set aside."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier.store import Database
from tests.notifier.api.conftest import World


def put(database: Database, state: str, reason: str) -> list[int]:
    """All deliveries in this state, settled long ago; their numbers."""
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = :state, reason = :reason, crashes = 3, due_at = NULL"),
            {"state": state, "reason": reason},
        )
        session.execute(text("UPDATE patient SET outcome = 'unreached' WHERE outcome = 'on_the_way'"))
        return list(session.scalars(text("SELECT id FROM delivery ORDER BY id")))


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


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"deliveries": [1], "campaign": 1}, 422),
        ({"deliveries": []}, 422),
        ({"deliveries": [987_654]}, 404),
        ({"campaign": 987_654}, 404),
        ({"campaign": 1, "state": "accepted"}, 422),
        ({"campaign": 1, "reason": " "}, 422),
    ],
)
def test_a_replay_that_cannot_be_is_refused(
    operations: TestClient, world: World, body: dict[str, Any], status: int
) -> None:
    assert operations.post("/api/v1/deliveries/replay", json={"reason": "x"} | body).status_code == status
