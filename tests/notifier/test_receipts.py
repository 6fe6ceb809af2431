"""Receipts: only genuine ones, stored raw and sealed, once each, applied in any order."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from sqlalchemy import event, text

from notifier import profiles, receipts, schedule
from notifier.errors import InputError, NotFoundError
from notifier.providers.base import Kind, Outcome
from notifier.providers.brevo_email import BrevoEmailReceipts
from notifier.providers.brevo_sms import BrevoSmsReceipts
from notifier.receipts import Left
from notifier.sealing import MasterKey
from notifier.settings import BrevoEmail, Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, outcomes, run, settle, states

T0 = int(datetime(2026, 11, 25, 9, 0, tzinfo=UTC).timestamp())


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def parser() -> BrevoSmsReceipts:
    return BrevoSmsReceipts()


def body(status: str, at: int = 0, message_id: int = 1) -> bytes:
    return orjson.dumps({"msg_status": status, "messageId": message_id, "ts_event": T0 + at, "to": "33639980001"})


def send_sms(database: Database, current: Settings, outcome: Outcome | None = None) -> int:
    """A campaign with one SMS handed over; returns the delivery's id."""
    campaign = start_campaign(database, current, [person(1, email=None)])
    accepted = Outcome(Kind.ACCEPTED, "accepted", provider_message_id="1")
    run(current, FakeProvider(Channel.SMS, lambda _: outcome or accepted), campaign.id, campaign.epoch)
    with database.staff() as session:
        return session.scalar(text("SELECT id FROM delivery"))


def accept(database: Database, current: Settings, parser: BrevoSmsReceipts, delivery: int, data: bytes) -> int:
    with database.staff() as session:
        own = receipts.webhook_reference(current.master, parser.name, delivery)
        return receipts.accept(session, current.master, parser, own, data, now=datetime.now(UTC))


def reference(current: Settings, delivery: int) -> str:
    """What a delivery's message carries; for one there is not, what another campaign's key would make of it."""
    return _reference(current.database_url or "", current.master, delivery)


@functools.cache
def _reference(url: str, master: MasterKey, delivery: int) -> str:
    with psycopg.connect(url) as connection:
        [number, data_key] = connection.execute(
            "SELECT c.id, c.data_key FROM campaign c LEFT JOIN delivery d ON d.campaign_id = c.id AND d.id = %s "
            "WHERE c.data_key IS NOT NULL ORDER BY d.id NULLS LAST LIMIT 1",
            [delivery],
        ).fetchone()
    return receipts.reference(master.open_data_key(data_key, number), delivery)


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


def test_what_became_of_a_test_message_is_taken_and_changes_nothing(database: Database, current: Settings, parser):
    send_sms(database, current)
    of_a_test = receipts.webhook_reference(current.master, parser.name, receipts.TEST)
    with database.staff() as session:
        assert (
            receipts.accept(session, current.master, parser, of_a_test, body("delivered"), now=datetime.now(UTC))
            == 0
        )
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
        reference(current, delivery),
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


# --- reports about a whole account

REPORTS = BrevoEmailReceipts(BrevoEmail())


def send_email(
    database: Database, current: Settings, outcome: Outcome | None = None, *, number: int = 1, people: int = 1
) -> list[int]:
    """A campaign of doctor `number` with these emails handed over; returns the deliveries' ids."""
    lines = [person(10 * number + one, phone=None) for one in range(people)]
    campaign = start_campaign(database, current, lines, number)
    run(current, FakeProvider(Channel.EMAIL, outcome and (lambda _: outcome)), campaign.id, campaign.epoch)
    with database.staff() as session:
        return list(
            session.scalars(
                text("SELECT id FROM delivery WHERE campaign_id = :id ORDER BY id"), {"id": campaign.id}
            )
        )


def reported(reference: str, word: str = "delivered", at: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "event": word,
        "email": "patient@example.org",
        "message-id": "<1.1@smtp-relay.example.org>",
        "ts_epoch": (T0 + at) * 1000,
        "X-Mailin-custom": reference,
    } | changes


def about(
    current: Settings, delivery: int, word: str = "delivered", at: int = 0, **changes: Any
) -> dict[str, Any]:
    return reported(reference(current, delivery), word, at, **changes)


def report(database: Database, current: Settings, events: Sequence[dict[str, Any]]) -> tuple[int, Counter[Left]]:
    with database.staff() as session:
        taken = receipts.accept_report(
            session, current.master, REPORTS, orjson.dumps(events), now=datetime.now(UTC)
        )
    return taken.new, taken.left


def stored(database: Database) -> int:
    with database.staff() as session:
        return session.scalar(text("SELECT count(*) FROM receipt"))


def test_a_report_informs_each_patient_it_is_about(database: Database, current: Settings):
    deliveries = send_email(database, current, people=2)
    assert report(database, current, [about(current, one) for one in deliveries]) == (2, {})
    assert states(database) == {"accepted": 2}, "stored at once, applied later"
    assert apply(database, current) == 2
    settle(database, current)
    with database.staff() as session:
        assert list(session.scalars(text("SELECT outcome FROM patient"))) == ["informed"] * 2
        assert session.scalar(text("SELECT state FROM campaign")) == "completed"


def test_a_reported_bounce_after_delivery_reopens_the_patient(database: Database, current: Settings):
    [delivery] = send_email(database, current)
    report(database, current, [about(current, delivery)])
    apply(database, current)
    settle(database, current)
    report(database, current, [about(current, delivery, "hard_bounce", at=60)])
    apply(database, current)
    settle(database, current)
    assert states(database) == {"failed": 1}
    with database.staff() as session:
        campaign_id = session.scalar(text("SELECT id FROM campaign"))
    assert outcomes(database, campaign_id)["unreached"] == 1


@pytest.mark.parametrize(("word", "state"), [("delivered", "delivered"), ("hard_bounce", "failed")])
def test_a_report_about_a_hand_over_that_was_asked_again_counts(
    database: Database, current: Settings, word: str, state: str
):
    [delivery] = send_email(database, current, Outcome(Kind.ACCEPTED, "accepted_before"))
    report(database, current, [about(current, delivery, word)])
    apply(database, current)
    assert states(database) == {state: 1}


def test_a_report_settles_an_uncertain_email(database: Database, current: Settings):
    [delivery] = send_email(database, current, Outcome(Kind.UNKNOWN, "no_answer"))
    report(database, current, [about(current, delivery)])
    apply(database, current)
    settle(database, current, after=timedelta(hours=1))
    assert states(database) == {"delivered": 1}


def test_each_event_is_kept_alone_under_its_own_doctors_key(database: Database, current: Settings):
    [mine] = send_email(database, current, number=1)
    [others] = send_email(database, current, number=2)
    events = [about(current, mine, email="a@example.org"), about(current, others, email="b@example.org")]
    assert report(database, current, events) == (2, {})
    with database.staff() as session:
        rows = session.execute(
            text(
                """
                SELECT r.delivery_id, r.body_sealed, c.id AS campaign_id, c.data_key, c.doctor_id = r.doctor_id AS own
                FROM receipt r JOIN delivery d ON d.id = r.delivery_id JOIN campaign c ON c.id = d.campaign_id
                WHERE r.campaign_id = d.campaign_id ORDER BY r.delivery_id
                """
            )
        ).all()
    opened = [
        current.master.open_data_key(row.data_key, row.campaign_id).open(row.body_sealed, b"receipt.body")
        for row in rows
    ]
    assert [row.own for row in rows] == [True, True]
    assert [orjson.loads(body) for body in opened] == events


def test_the_same_event_twice_in_one_report_or_two_is_one(database: Database, current: Settings):
    [delivery] = send_email(database, current)
    twice = [about(current, delivery), about(current, delivery)]
    assert [report(database, current, twice)[0] for _ in range(2)] == [1, 0]


def test_what_is_not_ours_to_know_is_left_and_stops_none_of_the_others(database: Database, current: Settings):
    [delivery, erased_ones] = [send_email(database, current, number=one)[0] for one in (1, 2)]
    with database.staff() as session:
        session.execute(
            text(
                "UPDATE campaign SET data_key = NULL FROM delivery d WHERE d.id = :id AND d.campaign_id = campaign.id"
            ),
            {"id": erased_ones},
        )
    events = [
        reported("1.aaaaaaaaaaaaaaaa"),
        reported(receipts.webhook_reference(current.master, "brevo-sms", delivery)),
        reported(f"{delivery}.{reference(current, delivery + 9).partition('.')[2]}"),
        about(current, 999_999),
        reported("another program's"),
        about(current, delivery, ts_epoch=1),
        about(current, delivery, ts_epoch=(T0 + 10**9) * 1000),
        about(current, erased_ones),
        about(current, delivery),
    ]
    assert report(database, current, events) == (
        1,
        {Left.NOT_OURS: 4, Left.UNNAMED: 1, Left.IMPOSSIBLE_TIME: 2, Left.ERASED: 1},
    )
    assert stored(database) == 1


def test_a_provider_of_email_says_nothing_about_an_sms(database: Database, current: Settings):
    delivery = send_sms(database, current)
    assert report(database, current, [about(current, delivery, "hard_bounce")]) == (0, {Left.OTHER_CHANNEL: 1})
    assert stored(database) == 0


def test_a_report_that_is_none_or_too_large_is_refused(database: Database, current: Settings):
    def refused(data: bytes, words: str) -> None:
        with database.staff() as session, pytest.raises(InputError, match=words):
            receipts.accept_report(session, current.master, REPORTS, data, now=datetime.now(UTC))

    refused(b"{", "not a receipt")
    refused(b" " * (receipts.MAX_REPORT_BYTES + 1), "at most")
    small = {"event": "sent", "message-id": 1, "ts": T0}
    refused(orjson.dumps([small] * (receipts.MAX_REPORT_EVENTS + 1)), "At most")
    assert report(database, current, [small] * receipts.MAX_REPORT_EVENTS)[0] == 0


def test_a_long_report_asks_the_database_no_more_often_than_a_short_one(database: Database, current: Settings):
    [delivery] = send_email(database, current)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))

    def asked(count: int, since: int) -> int:
        before = len(statements)
        events = [about(current, delivery, "deferred", at=since + at) for at in range(count)]
        assert report(database, current, events) == (count, {})
        return len(statements) - before

    assert asked(1, since=0) == asked(800, since=10)
