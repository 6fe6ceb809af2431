from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import text

from notifier.cli.campaign import Wait, _Lines, next_step
from notifier.states import Campaign as State
from notifier.states import Channel, Delivery
from notifier.store import Database
from tests.factories import HEADER, person
from tests.notifier.cli.conftest import Cli

REPORT = {
    "id", "incident", "doctor", "doctor_name", "state", "reason", "started_at", "completed_at", "plan",
    "notice_hash", "approved_at", "approved_by", "created_at", "patients", "unreached", "deliveries",
    "possibly_twice", "lists", "next",
}  # fmt: skip
SIX = {"imported", "excluded", "merged", "informed", "on_the_way", "unreached"}


def adds_up(patients: dict[str, int]) -> bool:
    return patients["imported"] == sum(patients[name] for name in SIX - {"imported"})


def settle_everybody(database: Database) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE patient SET outcome = 'informed' WHERE outcome = 'on_the_way'"))
        session.execute(text("UPDATE campaign SET state = 'completed'"))


def test_a_campaigns_whole_life_by_commands(cli: Cli, files: Path) -> None:
    opened = cli.json("incident", "create", files / "incident.json")
    assert set(opened) == {"id", "reference", "profile", "created_at", "facts"}
    assert cli.json("doctor", "import", files / "doctors.json")["unchanged"] == 0

    draft = cli.json("campaign", "create", "breach-1", "D0001")
    assert set(draft) == REPORT
    assert (draft["state"], draft["patients"]["imported"]) == ("draft", 0)
    number = draft["id"]
    assert draft["next"] == f"Import the doctor's list: notifier patients import {number} FILE"

    imported = cli.json("patients", "import", number, files / "list.csv")
    assert {name: imported[name] for name in ("new", "rows", "accepted", "merged", "refused")} == {
        "new": True, "rows": 3, "accepted": 3, "merged": 0, "refused": 0,
    }  # fmt: skip

    preview = cli.json("campaign", "preview", number, "--name", "Alix Essai")
    assert preview["missing"] == []
    assert {text["channel"] for text in preview["previews"]} == {"email", "sms"}
    assert any("Alix Essai" in text["text"] for text in preview["previews"])

    approved = cli.json("campaign", "approve", number, "--hash", preview["hash"], "--yes")
    assert (approved["state"], approved["notice_hash"]) == ("approved", preview["hash"])
    assert approved["approved_by"].startswith("cli:")

    started = cli.json("campaign", "start", number)
    assert set(started) == REPORT | {"deliveries_made"}
    assert (started["state"], started["deliveries_made"]) == ("sending", 2)
    assert started["deliveries"]["email"]["pending"] == 2
    assert started["unreached"] == {"no_contact": 1}
    assert set(started["patients"]) == SIX
    assert adds_up(started["patients"])

    paused = cli.json("campaign", "pause", number, "--reason", "a doubt")
    assert (paused["state"], paused["reason"]) == ("paused", "a doubt")
    assert cli.json("campaign", "resume", number)["state"] == "sending"
    ended = cli.json("campaign", "cancel", number, "--reason", "the list is wrong", "--yes")
    assert ended["state"] == "cancelled"
    assert ended["deliveries"]["email"]["cancelled"] == 2
    assert adds_up(ended["patients"])

    acts = [entry["action"] for entry in cli.json("journal", "list", "--subject", f"campaign:{number}")["entries"]]
    assert acts == [
        "campaign.cancel", "campaign.resume", "campaign.pause", "campaign.start", "campaign.approve",
        "campaign.ready", "campaign.import", "campaign.create",
    ]  # fmt: skip


def test_a_person_sees_the_numbers_and_the_next_step(cli: Cli, sending: int) -> None:
    shown = cli.run("campaign", "show", sending)
    for words in (
        "on the way",
        "unreached",
        "no contact: 1",
        "email: pending: 2",
        "Rows of the lists: 3 = 3 imported + 0 refused",
        "Next: Nothing: it is sending.",
    ):
        assert words in shown.replace("no_contact", "no contact")
    listed = cli.run("campaign", "list", "--state", "sending", "--incident", "breach-1")
    assert "D0001" in listed
    assert cli.json("campaign", "list", "--state", "draft") == {"campaigns": []}


def test_the_preview_shows_every_text_that_will_be_sent(cli: Cli, campaign: int, files: Path) -> None:
    english = files / "english.csv"
    english.write_text("\n".join([HEADER, person(9, langue="en"), ""]), encoding="utf-8")
    cli.run("patients", "import", campaign, english, "--yes")
    shown = cli.run("campaign", "preview", campaign)
    for heading in ("email, fr, standard", "sms, fr, standard", "email, en, standard", "sms, en, standard"):
        assert heading in shown
    assert f"Hash of this text: {cli.json('campaign', 'preview', campaign)['hash']}" in shown
    only = cli.json("campaign", "preview", campaign, "--language", "en")["previews"]
    assert {text["language"] for text in only} == {"en"}
    assert "needs a notice in de" in cli.error("campaign", "preview", campaign, "--language", "de")


def test_a_change_after_approval_shows_in_the_preview(cli: Cli, sending: int, files: Path) -> None:
    before = cli.json("campaign", "preview", sending)
    assert before["hash"] == before["approved_hash"]
    assert "This text is approved" in cli.run("campaign", "preview", sending)
    facts = json.loads((files / "incident.json").read_text(encoding="utf-8"))["facts"]
    facts["breach_on"] = "2026-09-15"
    cli.run("incident", "facts", "breach-1", "-", stdin=json.dumps(facts))
    after = cli.json("campaign", "preview", sending)
    assert after["approved_hash"] == before["hash"] != after["hash"]
    assert "another text" in cli.run("campaign", "preview", sending)


def test_an_approval_needs_the_hash_of_the_text_and_a_yes(cli: Cli, campaign: int) -> None:
    seen = cli.json("campaign", "preview", campaign)["hash"]
    assert "this hash is not that of the present text" in cli.error(
        "campaign", "approve", campaign, "--hash", "00" * 32, "--yes"
    )
    assert "--yes" in cli.json("campaign", "approve", campaign, "--hash", seen, code=1)["error"]
    cli.run("campaign", "approve", campaign, "--hash", seen, code=1, stdin="n\n")
    assert "Approve this text for the 2 patients" in cli.stderr
    cli.run("campaign", "approve", campaign, "--hash", seen, code=1, stdin="")
    assert "add --yes" in cli.stderr
    assert cli.json("campaign", "show", campaign)["state"] == "draft"
    cli.run("campaign", "approve", campaign, "--hash", seen, stdin="y\n")
    assert cli.json("campaign", "show", campaign)["state"] == "approved"


def test_an_incomplete_notice_names_what_is_missing(cli: Cli, campaign: int) -> None:
    cli.run("incident", "facts", "breach-1", "-", stdin="{}")
    preview = cli.json("campaign", "preview", campaign)
    assert {"part", "channel", "language", "variant", "problem", "words"} == set(preview["missing"][0])
    refused = cli.json("campaign", "approve", campaign, "--hash", preview["hash"], "--yes", code=1)
    assert set(refused) == {"error", "missing"}
    assert set(refused["missing"][0]) == {"part", "channel", "language"}
    line = cli.error("campaign", "approve", campaign, "--hash", preview["hash"], "--yes")
    assert line.startswith("The notice is not complete: ")
    assert "missing" in cli.run("campaign", "preview", campaign)


def test_nothing_starts_without_approval(cli: Cli, campaign: int) -> None:
    assert "only an approved campaign can be started" in cli.error("campaign", "start", campaign)
    assert cli.json("campaign", "show", campaign)["state"] == "draft"


def test_watching_ends_when_the_campaign_does(cli: Cli, sending: int, database: Database) -> None:
    ending = threading.Timer(0.3, settle_everybody, [database])
    ending.start()
    document = cli.json("campaign", "watch", sending, "--every", "0.05")
    ending.join()
    assert (document["state"], document["patients"]["on_the_way"]) == ("completed", 0)
    assert "Camille Exemple1): completed" in cli.stderr


def test_a_campaign_that_is_not_started_cannot_be_watched(cli: Cli, campaign: int) -> None:
    assert f"Campaign {campaign} is draft." in cli.error("campaign", "watch", campaign)


def test_refused_rows_are_counted_over_all_lists_and_one_is_told_where_to_see_them(
    cli: Cli, campaign: int, tmp_path: Path
) -> None:
    listing = tmp_path / "more.csv"
    empty_row = ";" * HEADER.count(";")
    nameless = person(7, id="", nom="", prenom="", email=None, phone=None)
    listing.write_text("\n".join([HEADER, person(1), person(8), nameless, empty_row, ""]), encoding="utf-8")
    imported = cli.json("patients", "import", campaign, listing, "--yes")
    assert imported["refused"] >= 1
    document = cli.json("campaign", "show", campaign)
    lists = document["lists"]
    assert lists == {"files": 2, "rows": 3 + imported["rows"], "refused": imported["refused"]}
    assert lists["rows"] == document["patients"]["imported"] + lists["refused"]
    shown = cli.run("campaign", "show", campaign)
    assert f"{lists['refused']} refused; see them: notifier patients problems {campaign}" in shown


def test_a_cancellation_is_final_and_asks_first(cli: Cli, sending: int) -> None:
    why = ("--reason", "the list is wrong")
    assert "add --yes" in cli.json("campaign", "cancel", sending, *why, code=1)["error"]
    cli.run("campaign", "cancel", sending, *why, code=1, stdin="n\n")
    assert f"End campaign {sending} for good? 2 patients are still on the way." in cli.stderr
    assert "Nothing was cancelled." in cli.stderr
    cli.run("campaign", "cancel", sending, *why, code=1, stdin="")
    assert cli.json("campaign", "show", sending)["state"] == "sending"
    cli.run("campaign", "cancel", sending, *why, stdin="y\n")
    assert cli.json("campaign", "show", sending)["state"] == "cancelled"


def accept_everything(database: Database, state: str = "accepted") -> None:
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = :state, due_at = '2099-11-28 09:12:00+00'"), {"state": state}
        )


def test_with_all_accepted_it_says_until_when_one_waits(cli: Cli, sending: int, database: Database) -> None:
    accept_everything(database)
    assert cli.json("campaign", "show", sending)["next"] == (
        "Nothing to do: 2 emails were accepted; they count as informed when no failure comes back "
        "by 2099-11-28 09:12 UTC."
    )


def test_a_cancelled_campaign_with_people_on_the_way_says_so(cli: Cli, sending: int, database: Database) -> None:
    accept_everything(database)
    cancelled = cli.json("campaign", "cancel", sending, "--reason", "enough", "--yes")
    assert cancelled["patients"]["on_the_way"] == 2
    assert "Reach those who were not told (1)" in cancelled["next"]
    assert "And wait for 2 on the way: 2 emails were accepted;" in cancelled["next"]


def test_watching_prints_a_line_for_each_change_at_most_one_per_second() -> None:
    said = io.StringIO()
    times = iter([0.0, 0.0, 0.5, 1.5, 1.5, 3.0, 3.1, 3.1])
    lines = _Lines(Console(file=said, width=20), lambda: next(times))
    for informed, state in ((1, "sending"), (2, "sending"), (3, "sending"), (3, "sending"), (4, "completed")):
        lines(
            {
                "id": 12_043, "doctor_name": "Dr [b]", "state": state, "patients": {"informed": informed},
                "deliveries": {"email": {"accepted": 10_500, "failed": 0}, "sms": {"failed": 0}},
            }
        )  # fmt: skip
    assert said.getvalue().splitlines() == [
        f"Campaign 12043 (Dr [b]): {state}; informed: {informed}; email: accepted: 10,500"
        for informed, state in ((1, "sending"), (3, "sending"), (4, "completed"))
    ]


NOW = datetime(2026, 11, 25, 9, 12, tzinfo=UTC)
SILENCE = {Channel.EMAIL: "informed", Channel.SMS: "failed"}


def wait(channel: Channel, state: Delivery, count: int = 120, first: int = 72, last: int = 72) -> Wait:
    return Wait(channel, state, count, NOW + timedelta(hours=first), NOW + timedelta(hours=last))


def next_of(state: State, waits: list[Wait], *, sending: int = 0, quarantined: int = 0, **patients: int) -> str:
    deliveries = {"email": {"quarantined": quarantined, "sending": sending}, "sms": {"quarantined": 0}}
    counts = {"imported": 9, "on_the_way": 0, "unreached": 0} | patients
    return next_step(7, state, "a doubt", counts, deliveries, waits, SILENCE, NOW)


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        (
            [wait(Channel.EMAIL, Delivery.ACCEPTED, first=2)],
            "Nothing to do: 120 emails were accepted; they count as informed when no failure comes back "
            "by 2026-11-28 09:12 UTC (the first by 2026-11-25 11:12 UTC).",
        ),
        (
            [wait(Channel.SMS, Delivery.ACCEPTED, count=1)],
            "Nothing to do: 1 SMS was accepted; it counts as failed when no receipt comes by 2026-11-28 09:12 UTC.",
        ),
        (
            [wait(Channel.EMAIL, Delivery.PENDING, count=12_000, first=1), wait(Channel.SMS, Delivery.UNKNOWN)],
            "Nothing to do: 12,000 emails wait for the next try, the first at 2026-11-25 10:12 UTC; "
            "120 SMS may have gone out: what comes next is decided by 2026-11-28 09:12 UTC.",
        ),
    ],
)
def test_what_is_waited_for_is_said_with_its_time(waits: list[Wait], expected: str) -> None:
    assert next_of(State.SENDING, waits, on_the_way=9) == expected


def test_it_is_sending_only_while_something_is_due_or_at_work() -> None:
    accepted = wait(Channel.EMAIL, Delivery.ACCEPTED)
    assert "it is sending" in next_of(State.SENDING, [accepted, wait(Channel.SMS, Delivery.PENDING, first=0)])
    assert "it is sending" in next_of(State.SENDING, [accepted], sending=1)
    assert "it is sending" not in next_of(State.SENDING, [accepted])


@pytest.mark.parametrize("state", [State.CANCELLED, State.COMPLETED])
def test_nobody_on_the_way_is_passed_over_at_the_end(state: State) -> None:
    said = next_of(state, [wait(Channel.EMAIL, Delivery.ACCEPTED)], on_the_way=3)
    assert said.startswith("Wait for 3 on the way: 120 emails were accepted;")
    assert "settled within minutes" in next_of(state, [], on_the_way=3)
    assert next_of(state, []) == "Nothing: every patient has an outcome."


@pytest.mark.parametrize(
    ("state", "patients", "quarantined", "expected"),
    [
        (State.DRAFT, {"imported": 0}, 0, "Import"),
        (State.DRAFT, {"imported": 9}, 0, "preview 7"),
        (State.READY, {"imported": 9}, 0, "preview 7"),
        (State.APPROVED, {"imported": 9}, 0, "start 7"),
        (State.SENDING, {"imported": 9}, 0, "watch 7"),
        (State.SENDING, {"imported": 9}, 2, "--state quarantined"),
        (State.PAUSED, {"imported": 9}, 0, "Paused (a doubt): nothing more is sent"),
        (State.PAUSED, {"imported": 9}, 0, "campaign resume 7"),
        (State.COMPLETED, {"imported": 9, "unreached": 3}, 0, "not told (3)"),
        (State.COMPLETED, {"imported": 9, "unreached": 0}, 0, "every patient has an outcome"),
        (State.CANCELLED, {"imported": 9, "unreached": 9}, 0, "--outcome unreached"),
    ],
)
def test_each_state_has_a_next_step(
    state: State, patients: dict[str, int], quarantined: int, expected: str
) -> None:
    assert expected in next_of(state, [], quarantined=quarantined, **patients)


def test_a_test_that_nobody_takes_is_said_with_what_must_run(cli: Cli, campaign: int) -> None:
    error = cli.error("campaign", "test", campaign, "--to", "me@example.org", "--wait", "0.1")
    assert error == "Test 1: It waits for the control process: a feeder and `notifier worker --control` must run."
    entry = cli.json("journal", "list", "--subject", f"campaign:{campaign}")["entries"][0]
    assert (entry["action"], entry["detail"]["channel"]) == ("campaign.test", "email")


@pytest.mark.parametrize("to", ["me@", "01 99 00 12 34"])
def test_a_test_to_what_is_no_usable_address_is_refused_without_repeating_it(
    cli: Cli, campaign: int, to: str
) -> None:
    error = cli.error("campaign", "test", campaign, "--to", to)
    assert "address for the test cannot be used" in error
    assert to not in error


def test_a_test_in_a_language_without_text_is_refused(cli: Cli, campaign: int) -> None:
    assert "not written for email" in cli.error(
        "campaign", "test", campaign, "--to", "me@example.org", "--variant", "comment"
    )
