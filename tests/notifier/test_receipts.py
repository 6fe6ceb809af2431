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
        return receipts.accept(session, current.master, parser, receipts.reference(current.master, delivery), data)


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
        receipts.accept(session, current.master, parser, reference, body("delivered"))
    with database.staff() as session:
        assert session.scalar(text("SELECT count(*) FROM receipt")) == 0


def test_a_reference_of_another_delivery_does_not_fit(database: Database, current: Settings, parser):
    delivery = send_sms(database, current)
    signature = receipts.reference(current.master, delivery + 1).partition(".")[2]
    with pytest.raises(NotFoundError):
        receipts.delivery_id(current.master, f"{delivery}.{signature}")


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
                receipts.accept(session, current.master, parser, message.reference, body("delivered"))
            apply(database, current)

        await asyncio.to_thread(now)

    provider.before_answer = receipt_first
    run(current, provider, campaign.id, campaign.epoch)
    assert states(database) == {"delivered": 1}
    with database.staff() as session:
        assert session.scalar(text("SELECT outcome FROM attempt")) == "accepted", (
            "the attempt is closed all the same"
        )
