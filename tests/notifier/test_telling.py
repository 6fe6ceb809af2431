"""Those no message reached: their letters and calls, and what a person says was done."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import text

from notifier import controlling, telling
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.settings import Settings
from notifier.states import Told
from notifier.store import Database, broken_journal_entries, doubt_informed, outcome_counts
from notifier.telling import Marked
from tests.factories import make_campaign, make_settings, person, start_campaign
from tests.notifier.test_sending import settle

NOBODY = {"email": None, "phone": None}


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def today() -> date:
    return datetime.now(UTC).date()


def mark(database: Database, campaign: int, patients: list[int], **changes: object) -> Marked:
    values = {"how": Told.LETTER, "day": today(), "actor": "cli:test", "now": datetime.now(UTC)} | changes
    how, day = values.pop("how"), values.pop("day")
    with database.staff() as session:
        return telling.mark(session, campaign, patients, how, day, **values)


def ids(database: Database, outcome: str) -> list[int]:
    with database.staff() as session:
        query = text("SELECT id FROM patient WHERE outcome = :outcome ORDER BY id")
        return list(session.scalars(query, {"outcome": outcome}))


def counts(database: Database, campaign: int) -> dict[str, int]:
    with database.staff() as session:
        return outcome_counts(session, campaign)


def lines(pieces: object) -> list[list[str]]:
    data = b"".join(pieces).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(data, newline=""), delimiter=";"))


def test_who_was_told_by_letter_is_informed_and_can_be_taken_back(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, **NOBODY), person(2, **NOBODY), person(3)])
    first, second = ids(database, "unreached")
    on_the_way = ids(database, "on_the_way")
    assert mark(database, campaign.id, [first, *on_the_way]) == Marked(1, 1), "who is on the way is left"
    assert mark(database, campaign.id, [first]) == Marked(0, 1), "once is enough"
    assert (ids(database, "informed"), ids(database, "unreached")) == ([first], [second])
    found = counts(database, campaign.id)
    assert found["imported"] == 3 == found["informed"] + found["unreached"] + found["on_the_way"]
    with database.staff() as session:
        now = datetime.now(UTC)
        assert telling.take_back(session, campaign.id, [first, second], actor="cli:test", now=now) == Marked(1, 1)
        reason = session.scalar(text("SELECT outcome_reason FROM patient WHERE id = :id"), {"id": first})
        assert (reason, broken_journal_entries(session)) == ("no_contact", [])
    assert ids(database, "unreached") == [first, second]


def test_a_message_that_fails_later_does_not_undo_a_letter(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'failed', due_at = NULL"))
        session.execute(text("UPDATE patient SET outcome = 'unreached', outcome_reason = 'all_failed'"))
    [patient] = ids(database, "unreached")
    mark(database, campaign.id, [patient])
    with database.staff() as session:
        [delivery] = session.scalars(text("SELECT id FROM delivery"))
        doubt_informed(session, [delivery], now=datetime.now(UTC))
    assert ids(database, "informed") == [patient]


def test_giving_up_a_message_does_not_undo_a_call_and_marking_again_is_harmless(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'failed', due_at = now()"))
        session.execute(text("UPDATE patient SET outcome = 'unreached', outcome_reason = 'quarantined'"))
    [patient] = ids(database, "unreached")
    mark(database, campaign.id, [patient], how=Told.CALL)
    settle(database, current)
    assert ids(database, "informed") == [patient]
    with database.staff() as session:  # a row that was left behind
        session.execute(text("UPDATE patient SET outcome = 'unreached', outcome_reason = 'all_failed'"))
    assert mark(database, campaign.id, [patient]).marked == 1


def test_taken_back_is_who_was_told_by_nothing_else(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'failed', due_at = NULL"))
        session.execute(text("UPDATE patient SET outcome = 'unreached', outcome_reason = 'all_failed'"))
    [patient] = ids(database, "unreached")
    mark(database, campaign.id, [patient])
    with database.staff() as session:  # a late receipt
        session.execute(text("UPDATE delivery SET state = 'delivered'"))
        telling.take_back(session, campaign.id, [patient], actor="cli:test", now=datetime.now(UTC))
        stands = session.execute(text("SELECT outcome, outcome_reason FROM patient")).one()
    assert tuple(stands) == ("informed", None)


def test_what_cannot_be_true_is_refused(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, **NOBODY), person(2)])
    [patient] = ids(database, "unreached")
    for day in (today() + timedelta(days=2), today() - timedelta(days=400)):
        with pytest.raises(InputError, match="cannot be the day"):
            mark(database, campaign.id, [patient], day=day)
    with pytest.raises(InputError, match="from 1 to"):
        mark(database, campaign.id, [])
    with pytest.raises(NotFoundError):
        mark(database, campaign.id + 99, [patient])
    draft = make_campaign(database, current, [person(7, **NOBODY)], 2)
    with pytest.raises(ConflictError, match="has not started"):
        mark(database, draft, [patient])
    assert mark(database, campaign.id, [patient + 10_000]) == Marked(0, 1)


def test_a_doctor_cannot_mark_anothers_patients(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, **NOBODY), person(2)])
    other = start_campaign(database, current, [person(3)], 2)
    [patient] = ids(database, "unreached")
    with database.doctor(other.doctor_id) as session, pytest.raises(NotFoundError):
        telling.mark(session, campaign.id, [patient], Told.CALL, today(), actor="doctor:2", now=datetime.now(UTC))
    with database.doctor(campaign.doctor_id) as session:
        now = datetime.now(UTC)
        assert (
            telling.mark(session, campaign.id, [patient], Told.CALL, today(), actor="doctor:1", now=now).marked
            == 1
        )
        assert telling.take_back(session, campaign.id, [patient], actor="doctor:1", now=now).marked == 1


def test_letters_and_calls_hold_those_unreached_and_nobody_else(database: Database, current: Settings):
    born = f"01/01/{today().year - 9}"
    campaign = start_campaign(
        database,
        current,
        [
            person(1, **NOBODY),
            person(2, email=None, phone="01 99 00 12 35", adresse=""),
            person(3),
            person(4, **NOBODY, naissance=born),
        ],
    )
    with database.staff() as session:
        letters = lines(telling.letters(session, current.master, campaign.id, "fr"))
        calls = lines(telling.calls(session, current.master, campaign.id, "en"))
    assert [row[2] for row in letters[1:]] == ["Prenom1 Nom1", "Aux représentants légaux de Prenom4 Nom4"]
    assert letters[1][3:9] == ["2 rue des Lilas", "", "", "", "75002", "Paris"]
    assert [row[5] for row in calls[1:]] == ["'+33199001235"]
    assert {len(row) for row in letters} == {len(letters[0])}


def test_after_erasure_there_is_no_list(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, **NOBODY), person(2)])
    with database.staff() as session:
        controlling.cancel(session, campaign.id, actor="cli:test", reason="done", now=datetime.now(UTC))
        session.execute(text("UPDATE campaign SET data_key = NULL"))
        with pytest.raises(ConflictError, match="have been erased"):
            lines(telling.letters(session, current.master, campaign.id, "fr"))
