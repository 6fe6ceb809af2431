"""Where people go when a delivery ends: every one of them somewhere, never nowhere, never twice."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from notifier.providers.base import Blame, Kind, Outcome
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, outcomes, run, settle

REFUSED = Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def deliveries(database: Database) -> list[tuple[str, str, int]]:
    with database.staff() as session:
        rows = session.execute(
            text(
                "SELECT d.channel, d.state, count(dp.patient_id) FROM delivery d "
                "JOIN delivery_patient dp ON dp.delivery_id = d.id GROUP BY d.id ORDER BY d.id"
            )
        )
        return [tuple(row) for row in rows]


def test_a_fallback_to_a_number_that_already_got_its_sms_joins_it(database: Database, current: Settings):
    shared = "06 39 98 55 55"
    lines = [person(1, email=None, phone=shared), person(2, phone=shared)]
    campaign = start_campaign(database, current, lines)
    sms = FakeProvider(Channel.SMS)
    run(current, sms, campaign.id, campaign.epoch)
    run(current, FakeProvider(answer=lambda _: REFUSED), campaign.id, campaign.epoch)
    settle(database, current)
    assert deliveries(database) == [("email", "failed", 1), ("sms", "accepted", 2)] or deliveries(database) == [
        ("sms", "accepted", 2),
        ("email", "failed", 1),
    ]
    assert run(current, sms, campaign.id, campaign.epoch) == 0
    assert len(sms.sent) == 1, "one SMS for the household"
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'delivered', due_at = now() WHERE channel = 'sms'"))
    settle(database, current)
    assert outcomes(database, campaign.id)["informed"] == 2


def test_a_fallback_to_a_number_that_failed_meanwhile_goes_on_to_the_next_number(
    database: Database, current: Settings
):
    first, second = "06 39 98 55 55", "06 39 98 66 66"
    lines = [person(1, email=None, phone=first), person(2, phone=f"{first} / {second}")]
    campaign = start_campaign(database, current, lines)
    run(current, FakeProvider(Channel.SMS, lambda _: REFUSED), campaign.id, campaign.epoch)
    run(current, FakeProvider(answer=lambda _: REFUSED), campaign.id, campaign.epoch)
    for _ in range(3):
        settle(database, current)
    counts = outcomes(database, campaign.id)
    assert (counts["on_the_way"], counts["unreached"]) == (1, 1)
    sms = FakeProvider(Channel.SMS)
    run(current, sms, campaign.id, campaign.epoch)
    assert [message.recipient for message in sms.sent] == ["+33639986666"]


def test_all_emails_of_a_person_are_tried_before_their_numbers(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email='"one@example.org; two@example.org"')])
    tried: list[str] = []
    refuse = FakeProvider(answer=lambda _: REFUSED)
    for _ in range(3):
        run(current, refuse, campaign.id, campaign.epoch)
        settle(database, current)
    tried = [message.recipient for message in refuse.sent]
    assert tried == ["one@example.org", "two@example.org"]
    assert [(channel, state) for channel, state, _ in deliveries(database)] == [
        ("email", "failed"),
        ("email", "failed"),
        ("sms", "pending"),
    ]


def test_settling_again_and_again_changes_nothing(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(20)])
    run(current, FakeProvider(answer=lambda _: REFUSED), campaign.id, campaign.epoch)
    settle(database, current)
    before = (deliveries(database), outcomes(database, campaign.id))
    for _ in range(3):
        settle(database, current)
    assert (deliveries(database), outcomes(database, campaign.id)) == before


def test_patients_without_a_contact_and_excluded_ones_are_counted_from_the_start(
    database: Database, current: Settings
):
    lines = [person(1), person(2, email=None, phone=None), person(3, decede="oui"), person(1)]
    campaign = start_campaign(database, current, lines)
    counts = outcomes(database, campaign.id)
    assert counts == {"imported": 4, "merged": 1, "excluded": 1, "on_the_way": 1, "informed": 0, "unreached": 1}
    with database.staff() as session:
        reasons = session.scalars(
            text("SELECT outcome_reason FROM patient WHERE outcome <> 'on_the_way' ORDER BY row")
        )
        assert list(reasons) == ["no_contact", "deceased"]


def test_a_campaign_with_nobody_to_reach_completes_at_once(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email=None, phone=None)])
    settle(database, current)
    with database.staff() as session:
        assert session.scalar(text("SELECT state FROM campaign")) == "completed"
    assert outcomes(database, campaign.id)["unreached"] == 1
