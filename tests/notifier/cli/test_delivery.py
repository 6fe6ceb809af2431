from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import text

from notifier.models import Attempt, Delivery, Receipt
from notifier.store import Database
from tests.notifier.cli.conftest import Cli

CANARY = "canary.person@example.org"


def live_through(database: Database) -> int:
    """The life of one delivery: refused for now, accepted by a server that repeats the address, delivered."""
    with database.staff() as session:
        delivery = session.query(Delivery).order_by(Delivery.id).first()
        assert delivery is not None
        hour = [datetime(2026, 11, 25, hour, tzinfo=UTC) for hour in range(9, 14)]
        common = {"delivery_id": delivery.id, "doctor_id": delivery.doctor_id, "provider": "smtp"}
        session.add_all(
            [
                Attempt(
                    **common, fence=1, notice_id=1, started_at=hour[0], ended_at=hour[1], outcome="refused",
                    code="smtp_451_4.7.1", raw_sealed=b"sealed",
                ),
                Attempt(
                    **common, fence=2, notice_id=1, started_at=hour[2], ended_at=hour[3], outcome="accepted",
                    code="accepted", provider_message_id=f"2.1.5 <{CANARY}> queued",
                ),
                Receipt(
                    **common, campaign_id=delivery.campaign_id, event="delivered", code="delivered",
                    event_at=hour[4], provider_message_id="1511882900176220", body_sealed=b"sealed",
                    dedup=b"1", applied_at=hour[4], effect="delivered",
                ),
            ]
        )  # fmt: skip
        session.flush()
        session.execute(
            text(
                "UPDATE delivery SET state = 'delivered', due_at = NULL, tries = 2, created_at = :at WHERE id = :id"
            ),
            {"id": delivery.id, "at": datetime(2026, 11, 25, 8, tzinfo=UTC)},
        )
        return delivery.id


def test_deliveries_are_listed_by_state_and_channel(cli: Cli, sending: int, database: Database) -> None:
    number = live_through(database)
    document = cli.json("delivery", "list", sending)
    assert set(document) == {"deliveries", "next"}
    assert set(document["deliveries"][0]) == {
        "id", "channel", "language", "variant", "state", "reason", "tries", "possibly_twice", "due_at",
    }  # fmt: skip
    delivered = cli.json("delivery", "list", sending, "--state", "delivered", "--channel", "email")
    assert [row["id"] for row in delivered["deliveries"]] == [number]
    assert cli.json("delivery", "list", sending, "--channel", "sms")["deliveries"] == []
    first = cli.json("delivery", "list", sending, "--limit", 1)
    assert len(cli.json("delivery", "list", sending, "--after", first["next"])["deliveries"]) == 1
    assert "--channel email --after" in cli.run("delivery", "list", sending, "--channel", "email", "--limit", 1)
    assert cli.error("delivery", "list", 99) == "There is no campaign 99."


def test_a_delivery_shows_its_whole_life_in_order(cli: Cli, sending: int, database: Database) -> None:
    document = cli.json("delivery", "show", live_through(database))
    assert [(step["what"], step["code"]) for step in document["history"]] == [
        ("created", None),
        ("try 1: handed to smtp", None),
        ("try 1: refused", "smtp_451_4.7.1"),
        ("try 2: handed to smtp", None),
        ("try 2: accepted", "accepted"),
        ("receipt of smtp: delivered, changes it to delivered", "delivered"),
    ]
    assert [one["row"] for one in document["patients"]] == [2]
    assert [one["fence"] for one in document["attempts"]] == [1, 2]
    assert document["receipts"][0]["provider_message_id"] == "1511882900176220"


def test_what_is_due_stands_last(cli: Cli, sending: int) -> None:
    (first, _) = cli.json("delivery", "list", sending)["deliveries"]
    assert cli.json("delivery", "show", first["id"])["history"][-1]["what"] == "due (pending)"
    assert "due (pending)" in cli.run("delivery", "show", first["id"])


def test_a_servers_words_that_name_the_person_are_not_shown(cli: Cli, sending: int, database: Database) -> None:
    number = live_through(database)
    assert cli.json("delivery", "show", number)["attempts"][1]["provider_message_id"] is None
    cli.run("delivery", "show", number)
    assert CANARY not in "".join(cli.said)
    assert cli.error("delivery", "show", 99_999) == "There is no delivery 99999."


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ("<202611250900.12345678901@smtp-relay.example.net>", True),  # Brevo's, of an email
        ("1511882900176220", True),
        ("4XyZ12abc", True),
        (f"<{CANARY}>", False),
        (CANARY, False),
        ("+33639980001", False),
        ("Canary Person", False),
    ],
)
def test_a_providers_own_number_is_shown_and_nothing_that_could_be_a_person(
    cli: Cli, sending: int, database: Database, kept: str, shown: bool
) -> None:
    number = live_through(database)
    with database.staff() as session:
        for table in ("attempt", "receipt"):
            session.execute(text(f"UPDATE {table} SET provider_message_id = :kept"), {"kept": kept})
    document = cli.json("delivery", "show", number)
    for one in (document["attempts"][-1], document["receipts"][-1]):
        assert one["provider_message_id"] == (kept if shown else None)


def test_the_number_a_table_prints_is_one_that_show_takes(cli: Cli, campaign: int, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT setval(pg_get_serial_sequence('delivery', 'id'), 12042)")
    seen = cli.json("campaign", "preview", campaign)["hash"]
    cli.run("campaign", "approve", campaign, "--hash", seen, "--yes")
    cli.run("campaign", "start", campaign)
    listed = cli.run("delivery", "list", campaign)
    assert "12043" in listed
    assert "12,043" not in listed
    assert "12043" in cli.run("delivery", "show", "12043")


def test_who_holds_a_delivery_and_what_stops_it_is_shown(cli: Cli, sending: int, database: Database) -> None:
    with database.staff() as session:
        held, waiting = session.scalars(text("SELECT id FROM delivery ORDER BY id")).all()
        session.execute(text("UPDATE delivery SET state = 'sending', fence = 4 WHERE id = :id"), {"id": held})
        session.execute(
            text(
                "INSERT INTO due (campaign_id, channel, kind, at, ids, fences, owner) SELECT campaign_id, channel, 'lease', "
                "now() + interval '1 minute', ARRAY[id], ARRAY[3], 'host:1:ab' FROM delivery WHERE id = :id"
            ),
            {"id": held},
        )
    document = cli.json("delivery", "show", held)
    assert document["history"][-1]["what"] == "in the hands of host:1:ab until then"
    assert "lease" in [hint["kind"] for hint in document["hints"]]
    assert document["stopped_by"] == []
    cli.run("queue", "stop", "--scope", "provider:brevo-sms", "--reason", "no matter here")
    cli.run("queue", "stop", "--scope", "provider:smtp", "--reason", "a doubt")
    cli.run("campaign", "pause", sending, "--reason", "a wrong date")
    document = cli.json("delivery", "show", waiting)
    assert document["stopped_by"] == ["campaign paused", "provider:smtp: a doubt"]
    assert [hint["kind"] for hint in document["hints"]] == ["send"]


def test_a_lease_that_no_longer_speaks_of_it_is_not_called_a_hand(
    cli: Cli, sending: int, database: Database
) -> None:
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO due (campaign_id, channel, kind, at, ids, fences, owner) SELECT campaign_id, channel, 'lease', "
                "now(), ARRAY[id], ARRAY[7], 'host:1:ab' FROM delivery"
            )
        )
    (first, _) = cli.json("delivery", "list", sending)["deliveries"]
    assert [step["what"] for step in cli.json("delivery", "show", first["id"])["history"]] == [
        "created",
        "due (pending)",
    ]


# --- sending again ---------------------------------------------------------------------------------------


def fail_all(database: Database, code: str = "smtp_550_5.1.1") -> list[int]:
    """Every delivery failed, every person given up, the campaign over."""
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = 'failed', reason = :code, due_at = NULL, tries = 1"), {"code": code}
        )
        session.execute(
            text(
                "UPDATE patient SET outcome = 'unreached', outcome_reason = 'all_failed' "
                "WHERE id IN (SELECT patient_id FROM delivery_patient)"
            )
        )
        session.execute(
            text("UPDATE campaign SET state = 'completed', completed_at = now() WHERE state = 'sending'")
        )
        return list(session.scalars(text("SELECT id FROM delivery ORDER BY id")))


def test_a_replay_says_what_it_would_do_asks_and_does_it(cli: Cli, sending: int, database: Database) -> None:
    numbers = fail_all(database)
    choice = ("delivery", "replay", "--campaign", sending, "--reason", "the relay was wrong")
    assert cli.run(*choice, "--dry-run") == "2 would be sent again.\n"
    cli.run(*choice, code=1, stdin="n\n")
    assert "2 would be sent again." in cli.stderr
    assert "Nothing was changed." in cli.stderr
    assert "nobody is asked" in cli.json(*choice, code=1)["error"]
    document = cli.json(*choice, "--yes")
    assert document == {"dry_run": False, "deliveries": numbers, "count": 2, "left": {}}
    assert {row["state"] for row in cli.json("delivery", "list", sending)["deliveries"]} == {"pending"}
    assert cli.json("campaign", "show", sending)["state"] == "sending"
    (entry,) = [one for one in cli.json("journal", "list")["entries"] if one["action"] == "delivery.replay"]
    assert (entry["subject"], entry["detail"]["reason"]) == (f"campaign:{sending}", "the relay was wrong")
    assert cli.json(*choice, "--yes")["count"] == 0


def test_a_replay_says_why_it_leaves_some_alone(cli: Cli, sending: int, database: Database) -> None:
    first, second = fail_all(database, "uncertain_twice")
    said = cli.run("delivery", "replay", first, second, "--reason", "a try", "--yes")
    assert said == "0 sent again.\n2 left alone: it may have arrived: only if you say that it may go out twice.\n"
    document = cli.json("delivery", "replay", first, "--possibly-twice", "--reason", "all was lost", "--yes")
    assert document["deliveries"] == [first]
    assert cli.json("delivery", "show", first)["possibly_twice"] is True


def test_codes_choose_among_a_campaigns_failed_deliveries(cli: Cli, sending: int, database: Database) -> None:
    first, _ = fail_all(database)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET reason = 'smtp_554' WHERE id = :id"), {"id": first})
    choice = ("delivery", "replay", "--campaign", sending, "--reason", "mended", "--yes")
    assert cli.json(*choice, "--code", "smtp_554")["deliveries"] == [first]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Say which: their numbers, or --campaign."),
        (["1", "--campaign", "1"], "Say which"),
        (["1", "--code", "x"], "--code goes with --campaign"),
        (["999"], "There is no delivery 999."),
        (["--campaign", "999"], "There is no campaign 999."),
        (["--campaign", "1", "--state", "delivered"], "Only failed deliveries"),
        (["--campaign", "1", "--state", "unknown"], "may go out twice"),
        (["1", "--reason", " "], "A reason is needed"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(cli: Cli, sending: int, arguments: list[str], expected: str) -> None:
    command = ("delivery", "replay", "--reason", "a try", *arguments, "--yes")
    assert expected in cli.error(*command)
    refused = cli.json(*command, code=1)
    assert list(refused) == ["error"]
    assert expected in refused["error"]


def test_a_replay_without_a_reason_or_of_an_odd_state_is_wrong_usage(cli: Cli) -> None:
    cli.run("delivery", "replay", 1, code=2)
    cli.run("delivery", "replay", "--campaign", 1, "--state", "lost", "--reason", "a try", code=2)
    cli.run("delivery", "show", "one", code=2)


def test_who_was_told_is_sent_nothing_again_unless_one_says_so(cli: Cli, sending: int, database: Database) -> None:
    numbers = fail_all(database)
    with database.staff() as session:
        session.execute(text("UPDATE patient SET outcome = 'informed', outcome_reason = NULL"))
    choice = ("delivery", "replay", "--campaign", sending, "--reason", "mended", "--yes")
    assert cli.json(*choice)["left"] == {"told": 2}
    assert cli.run(*choice).startswith("0 sent again.\n2 left alone: everybody it is for was told")
    assert cli.json(*choice, "--even-told")["deliveries"] == numbers


def test_a_number_too_large_for_any_delivery_is_wrong_usage(cli: Cli) -> None:
    cli.run("delivery", "show", 2**63, code=2)
    cli.run("delivery", "replay", 2**63, "--reason", "a try", "--yes", code=2)
    cli.run("quarantine", "release", "--campaign", 2**63, "--reason", "a try", "--yes", code=2)


def test_nothing_about_a_person_is_shown(cli: Cli, sending: int, database: Database) -> None:
    cli.said.clear()
    numbers = fail_all(database)
    cli.run("delivery", "list", sending)
    for number in numbers:
        cli.run("delivery", "show", number)
        cli.json("delivery", "show", number)
    cli.run("delivery", "replay", "--campaign", sending, "--reason", "a try", "--dry-run")
    cli.json("delivery", "replay", "--campaign", sending, "--reason", "a try", "--yes")
    for known in ("@", "Nom1", "Prenom", "39980", "39 98", "Lilas", "1975", "P0000"):
        assert known not in "".join(cli.said), known
