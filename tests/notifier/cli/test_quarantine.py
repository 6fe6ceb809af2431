from __future__ import annotations

import pytest
from sqlalchemy import text

from notifier.store import Database
from tests.notifier.cli.conftest import Cli


@pytest.fixture
def set_aside(database: Database, sending: int) -> list[int]:
    """The campaign's two deliveries, as a worker that crashed three times leaves them once they are settled."""
    with database.staff() as session:
        session.execute(
            text(
                "UPDATE delivery SET state = 'quarantined', crashes = 3, reason = 'worker_crashed', due_at = NULL"
            )
        )
        session.execute(
            text(
                "UPDATE patient SET outcome = 'unreached', outcome_reason = 'quarantined' "
                "WHERE id IN (SELECT patient_id FROM delivery_patient)"
            )
        )
        return list(session.scalars(text("SELECT id FROM delivery ORDER BY id")))


def test_what_is_set_aside_is_listed_with_its_reason(cli: Cli, sending: int, set_aside: list[int]) -> None:
    document = cli.json("quarantine", "list")
    assert [row["id"] for row in document["quarantined"]] == set_aside
    assert set(document["quarantined"][0]) == {
        "id", "campaign_id", "channel", "language", "reason", "crashes", "tries", "possibly_twice",
    }  # fmt: skip
    first = cli.json("quarantine", "list", "--limit", 1)
    rest = cli.json("quarantine", "list", "--after", first["next"])
    assert [row["id"] for row in first["quarantined"] + rest["quarantined"]] == set_aside
    assert cli.json("quarantine", "list", "--campaign", sending + 1)["quarantined"] == []
    assert "worker_crashed" in cli.run("quarantine", "list")
    assert "2 deliveries are set aside for a person: notifier quarantine list." in cli.run("queue", "status")


def test_what_is_released_waits_again_without_its_crashes(cli: Cli, sending: int, set_aside: list[int]) -> None:
    first, second = set_aside
    assert cli.json("quarantine", "release", first, "--reason", "mended", "--yes")["deliveries"] == [first]
    shown = cli.json("delivery", "show", first)
    assert (shown["state"], shown["crashes"], shown["patients"][0]["outcome"]) == ("pending", 0, "on_the_way")
    assert [row["id"] for row in cli.json("quarantine", "list")["quarantined"]] == [second]
    assert cli.run("quarantine", "release", first, "--reason", "again", "--yes").startswith(
        "0 released.\n1 left alone"
    )


def test_what_is_given_up_has_failed(cli: Cli, sending: int, set_aside: list[int]) -> None:
    choice = ("quarantine", "give-up", "--campaign", sending, "--reason", "no use")
    assert cli.run(*choice, "--dry-run") == "2 would be given up.\n"
    assert cli.json(*choice, "--yes")["count"] == 2
    shown = cli.json("delivery", "show", set_aside[0])
    assert (shown["state"], shown["reason"]) == ("failed", "given_up")
    actions = [entry["action"] for entry in cli.json("journal", "list")["entries"]]
    assert "quarantine.give_up" in actions
