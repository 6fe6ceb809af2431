"""Receipts: only genuine ones, stored raw and sealed, once each, applied in any order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sqlalchemy import text

from notifier import profiles, receipts, schedule
from notifier.errors import InputError, NotFoundError
from notifier.providers.base import Kind, Outcome
from notifier.providers.brevo_sms import BrevoSmsProvider
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, outcomes, run, settle, states

T0 = int(datetime(2026, 11, 25, 9, 0, tzinfo=UTC).timestamp())


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def parser(current: Settings) -> BrevoSmsProvider:
    return BrevoSmsProvider(current.brevo_sms, str)


def body(status: str, at: int = 0, message_id: int = 1) -> bytes:
    return orjson.dumps({"msg_status": status, "messageId": message_id, "ts_event": T0 + at, "to": "33639980001"})


def send_sms(database: Database, current: Settings, outcome: Outcome | None = None) -> int:
    """A campaign with one SMS handed over; returns the delivery's id."""
    campaign = start_campaign(database, current, [person(1, email=None)])
    accepted = Outcome(Kind.ACCEPTED, "accepted", provider_message_id="1")
    run(current, FakeProvider(Channel.SMS, lambda _: outcome or accepted), campaign.id, campaign.epoch)
    with database.staff() as session:
        return session.scalar(text("SELECT id FROM delivery"))


def accept(database: Database, current: Settings, parser: BrevoSmsProvider, delivery: int, data: bytes) -> int:
    with database.staff() as session:
        own = receipts.webhook_reference(current.master, parser.name, delivery)
        return receipts.accept(session, current.master, parser, own, data, now=datetime.now(UTC))


def apply(database: Database, current: Settings) -> int:
    profile = profiles.load("eu-gdpr-fr", current.config_dir)
    with database.staff() as session:
        return receipts.apply(
            session,
            lambda channel: schedule.rules(profile, channel, current.time_scale),
            now=datetime.now(UTC),
        )


def test_a_delivered_receipt_informs_the_patient(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    assert accept(database, current, parser, delivery, body("delivered")) == 1
    assert states(database) == {"accepted": 1}, "stored at once, applied later"
    assert apply(database, current) == 1
    assert states(database) == {"delivered": 1}
    settle(database, current)
    with database.staff() as session:
        assert session.scalar(text("SELECT outcome FROM patient")) == "informed"
        assert session.scalar(text("SELECT state FROM campaign")) == "completed"


def test_a_bounce_after_delivery_reopens_the_patient_and_the_campaign(
    database: Database, current: Settings, parser
):
    delivery = send_sms(database, current)
    accept(database, current, parser, delivery, body("delivered"))
    apply(database, current)
    settle(database, current)
    accept(database, current, parser, delivery, body("hard_bounce", at=60))
    apply(database, current)
    settle(database, current)
    assert states(database) == {"failed": 1}
    with database.staff() as session:
        campaign_id = session.scalar(text("SELECT id FROM campaign"))
    assert outcomes(database, campaign_id)["unreached"] == 1


def test_the_same_receipt_many_times_is_stored_and_applied_once(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    assert [accept(database, current, parser, delivery, body("sent")) for _ in range(3)] == [1, 0, 0]
    assert apply(database, current) == 1
    assert apply(database, current) == 0


def test_a_receipt_settles_an_uncertain_hand_over_so_that_nothing_is_sent_twice(
    database: Database, current: Settings, parser
):
    delivery = send_sms(database, current, Outcome(Kind.UNKNOWN, "no_answer"))
    accept(database, current, parser, delivery, body("delivered"))
    apply(database, current)
    settle(database, current, after=timedelta(hours=1))
    assert states(database) == {"delivered": 1}
    with database.staff() as session:
        assert session.scalar(text("SELECT possibly_twice FROM delivery")) is False


def test_a_soft_bounce_is_tried_again(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    accept(database, current, parser, delivery, body("soft_bounce"))
    apply(database, current)
    assert states(database) == {"pending": 1}


@pytest.mark.parametrize(
    "reference", ["", "1", "1.", "1.aaaaaaaaaaaaaaaa", ".x", "-1.x", "²." + "a" * 16, "9" * 40 + ".x"]
)
def test_a_forged_reference_is_refused_without_a_trace(
    database: Database, current: Settings, parser, reference: str
):
    send_sms(database, current)
    with database.staff() as session, pytest.raises(NotFoundError):
        receipts.accept(session, current.master, parser, reference, body("delivered"), now=datetime.now(UTC))
    with database.staff() as session:
        assert session.scalar(text("SELECT count(*) FROM receipt")) == 0


def test_a_reference_of_another_delivery_does_not_fit(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    signature = receipts.webhook_reference(current.master, parser.name, delivery + 1).partition(".")[2]
    with pytest.raises(NotFoundError):
        receipts.delivery_id(current.master, parser.name, f"{delivery}.{signature}")


def test_what_stands_in_an_email_proves_nothing(database: Database, current: Settings, parser):
    """The Message-ID and return path are seen by every server on the way and by the patient."""
    delivery = send_sms(database, current)
    for forged in (
        receipts.reference(current.master, delivery),
        receipts.webhook_reference(current.master, "x", delivery),
    ):
        with database.staff() as session, pytest.raises(NotFoundError):
            receipts.accept(session, current.master, parser, forged, body("delivered"), now=datetime.now(UTC))


def test_a_provider_of_sms_says_nothing_about_an_email(database: Database, current: Settings, parser):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    with database.staff() as session:
        delivery = session.scalar(text("SELECT id FROM delivery"))
    with pytest.raises(NotFoundError):
        accept(database, current, parser, delivery, body("hard_bounce"))


@pytest.mark.parametrize("second", [0, 253402300799, 10**18, -5])
def test_an_impossible_time_is_refused(database: Database, current: Settings, parser, second: int):
    delivery = send_sms(database, current)
    data = orjson.dumps({"msg_status": "delivered", "messageId": 1, "ts_event": second})
    with pytest.raises(InputError):
        accept(database, current, parser, delivery, data)


def test_many_events_at_once_are_bounded_and_their_body_is_kept_once(
    database: Database, current: Settings, parser
):
    delivery = send_sms(database, current)

    def events(count: int) -> bytes:
        return orjson.dumps([{"msg_status": "sent", "messageId": 1, "ts_event": T0 + at} for at in range(count)])

    assert accept(database, current, parser, delivery, events(receipts.MAX_EVENTS)) == receipts.MAX_EVENTS
    with database.staff() as session:
        assert session.scalar(text("SELECT count(body_sealed) FROM receipt")) == 1
    with pytest.raises(InputError, match="At most"):
        accept(database, current, parser, delivery, events(receipts.MAX_EVENTS + 1))


@pytest.mark.parametrize("data", [b"", b"not json", b"{}", b"[]", b"x" * 70_000])
def test_a_body_that_is_no_receipt_is_refused(database: Database, current: Settings, parser, data: bytes):
    delivery = send_sms(database, current)
    with pytest.raises(InputError):
        accept(database, current, parser, delivery, data)


def test_the_raw_receipt_is_kept_sealed(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    data = body("delivered")
    accept(database, current, parser, delivery, data)
    with database.staff() as session:
        sealed = session.scalar(text("SELECT body_sealed FROM receipt"))
        key = current.master.open_data_key(session.scalar(text("SELECT data_key FROM campaign")), 1)
    assert b"33639980001" not in sealed
    assert key.open(sealed, b"receipt.body") == data


def test_a_receipt_that_comes_before_our_own_write_wins(database: Database, current: Settings, parser):
    campaign = start_campaign(database, current, [person(1, email=None)])
    provider = FakeProvider(Channel.SMS)

    async def receipt_first(message) -> None:
        def now() -> None:
            with database.staff() as session:
                own = receipts.webhook_reference(
                    current.master, parser.name, int(message.reference.partition(".")[0])
                )
                receipts.accept(session, current.master, parser, own, body("delivered"), now=datetime.now(UTC))
            apply(database, current)

        await asyncio.to_thread(now)

    provider.before_answer = receipt_first
    run(current, provider, campaign.id, campaign.epoch)
    assert states(database) == {"delivered": 1}
    with database.staff() as session:
        assert session.scalar(text("SELECT outcome FROM attempt")) == "accepted", (
            "the attempt is closed all the same"
        )


def test_nothing_is_silence_while_a_receipt_waits_to_be_applied(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    accept(database, current, parser, delivery, body("delivered"))
    settle(database, current, after=timedelta(days=4))
    assert states(database) == {"accepted": 1}
    apply(database, current)
    settle(database, current, after=timedelta(days=4))
    assert states(database) == {"delivered": 1}


def test_an_uncertain_row_is_not_sent_again_while_a_receipt_waits(database: Database, current: Settings, parser):
    delivery = send_sms(database, current, Outcome(Kind.UNKNOWN, "no_answer"))
    accept(database, current, parser, delivery, body("delivered"))
    settle(database, current, after=timedelta(days=4))
    assert states(database) == {"unknown": 1}


def test_a_late_delivered_takes_back_the_message_that_was_to_replace_it(
    database: Database, current: Settings, parser
):
    campaign = start_campaign(database, current, [person(1, email=None, phone="06 39 98 11 11 / 06 39 98 22 22")])
    accepted = Outcome(Kind.ACCEPTED, "accepted", provider_message_id="1")
    run(current, FakeProvider(Channel.SMS, lambda _: accepted), campaign.id, campaign.epoch)
    settle(database, current, after=timedelta(days=4))
    assert states(database) == {"failed": 1, "pending": 1}
    with database.staff() as session:
        first = session.scalar(text("SELECT id FROM delivery WHERE state = 'failed'"))
    accept(database, current, parser, first, body("delivered"))
    apply(database, current)
    settle(database, current)
    assert states(database) == {"delivered": 1, "cancelled": 1}
    assert outcomes(database, campaign.id)["informed"] == 1
