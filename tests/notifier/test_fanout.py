"""Starting a campaign: only an approved one, every patient once, and repeating it is harmless."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from notifier import acts, controlling, fanout
from notifier.errors import ConflictError, InputError, MoveError, NotFoundError
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_campaign, make_settings, person, start_campaign

NOW = datetime.now(UTC)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def test_a_campaign_that_is_not_approved_cannot_be_started_and_nothing_is_written(
    database: Database, current: Settings
):
    campaign_id = make_campaign(database, current, [person(1)])
    with database.staff() as session, pytest.raises(ConflictError, match="Approve it first"):
        acts.start(session, campaign_id, actor="cli:test", now=NOW)
    with database.staff() as session:
        assert session.scalar(text("SELECT count(*) FROM delivery")) == 0


def test_there_must_be_a_campaign(database: Database):
    with database.staff() as session, pytest.raises(NotFoundError):
        fanout.start(session, 404, actor="cli:test", now=NOW)


def test_a_started_campaign_cannot_be_started_again_nor_fanned_out_twice(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(10)])
    with database.staff() as session, pytest.raises(ConflictError):
        acts.start(session, campaign.id, actor="cli:test", now=NOW)
    with database.staff() as session:
        again = session.execute(fanout._FAN_OUT_AGAIN, {"campaign_id": campaign.id}).scalar_one()
        assert again == 0
        assert session.scalar(text("SELECT count(*) FROM delivery")) == 10
        assert session.scalar(text("SELECT count(*) FROM delivery_patient")) == 10


def test_before_the_start_a_new_list_voids_the_approval_and_the_same_again_does_not(
    database: Database, current: Settings
):
    import io

    from tests.factories import HEADER

    campaign_id = make_campaign(database, current, [person(1)])
    with database.staff() as session:
        shown = acts.draft(session, current, campaign_id)
        acts.approve(session, current, campaign_id, expected_hash=shown.hash, actor="cli:test", now=NOW)
    more = f"{HEADER}\n{person(2)}\n".encode()
    with database.staff() as session:
        acts.import_list(session, current, campaign_id, io.BytesIO(more), actor="cli:test", now=NOW)
        assert session.scalar(text("SELECT state FROM campaign")) == "draft"
    with database.staff() as session:
        shown = acts.draft(session, current, campaign_id)
        acts.approve(session, current, campaign_id, expected_hash=shown.hash, actor="cli:test", now=NOW)
        acts.import_list(session, current, campaign_id, io.BytesIO(more), actor="cli:test", now=NOW)
        assert session.scalar(text("SELECT state FROM campaign")) == "approved"


def test_moves_that_make_no_sense_are_refused(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    with database.staff() as session, pytest.raises(ConflictError, match="only a paused campaign"):
        controlling.resume(session, campaign.id, actor="cli:test")
    with database.staff() as session:
        controlling.cancel(session, campaign.id, actor="cli:test", reason="wrong", now=NOW)
    with database.staff() as session, pytest.raises(MoveError):
        controlling.pause(session, campaign.id, actor="cli:test", reason="late")


def test_every_act_is_in_the_journal_with_who_and_why(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="key:3", reason="phones ring")
        controlling.hold(session, "everything", actor="key:3", reason="fire drill", now=datetime.now(UTC))
        controlling.lift(session, "everything", actor="key:3")
        rows = session.execute(text("SELECT actor, action, subject FROM journal ORDER BY id")).all()
    assert [row.action for row in rows] == [
        "doctor.create",
        "incident.create",
        "campaign.create",
        "campaign.import",
        "campaign.ready",
        "campaign.approve",
        "campaign.start",
        "campaign.pause",
        "hold.set",
        "hold.lift",
    ]
    assert rows[-1] == ("key:3", "hold.lift", "everything")


def test_a_shorter_stop_does_not_end_a_longer_one(database: Database):
    with database.staff() as session:
        controlling.hold(session, "everything", actor="key:3", reason="for good", now=NOW)
    with database.staff() as session, pytest.raises(ConflictError, match="for longer"):
        controlling.hold(
            session, "everything", actor="key:4", reason="a minute", now=NOW, until=NOW + timedelta(minutes=1)
        )
    with database.staff() as session:
        assert session.execute(text("SELECT until, reason FROM hold")).all() == [(None, "for good")]


def test_a_campaign_cancelled_before_it_told_anybody_may_be_followed_by_another(
    database: Database, current: Settings
):
    campaign_id = make_campaign(database, current, [person(1)])
    with database.staff() as session:
        old = controlling.locked(session, campaign_id)
        with pytest.raises(ConflictError, match="already has campaign"):
            controlling.create(session, current.master, old.incident_id, old.doctor_id, actor="cli:test")
    with database.staff() as session:
        old = controlling.cancel(session, campaign_id, actor="cli:test", reason="wrong list", now=NOW)
    with database.staff() as session:
        new = controlling.create(session, current.master, old.incident_id, old.doctor_id, actor="cli:test")
        assert new.id != campaign_id


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("email", "élise@example.org", "not a usable address"),
        ("email", "none", "not a usable"),
        ("name", " ", "needs: name"),
    ],
)
def test_a_doctor_whose_values_cannot_stand_in_a_message_is_refused(
    database: Database, field: str, value: str, said: str
):
    from tests.factories import make_doctor

    with database.staff() as session, pytest.raises(InputError, match=said):
        make_doctor(session, 1, **{field: value})


def test_a_practice_name_over_two_lines_becomes_one(database: Database):
    from tests.factories import make_doctor

    with database.staff() as session:
        assert make_doctor(session, 1, practice="Cabinet\r\nExemple").practice == "Cabinet Exemple"
