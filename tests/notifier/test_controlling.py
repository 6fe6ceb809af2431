"""What is sent again and what is not, what is set aside, and what pauses by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from notifier import breakers, controlling, fallback, profiles
from notifier.controlling import Again, Chosen
from notifier.errors import InputError, NotFoundError
from notifier.fallback import Settled
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.settings import Settings
from notifier.states import Channel, Delivery
from notifier.store import Database, broken_journal_entries
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, outcomes, run, settle, states

REFUSED = Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON)
UNKNOWN = Outcome(Kind.UNKNOWN, "no_answer")
NOW = datetime.now(UTC)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def ids(database: Database, where: str = "true") -> list[int]:
    with database.staff() as session:
        return list(session.scalars(text(f"SELECT id FROM delivery WHERE {where} ORDER BY id")))


def replay(database: Database, chosen: Chosen, state: Delivery = Delivery.FAILED, **options: Any) -> Again:
    with database.staff() as session:
        return controlling.replay(
            session,
            chosen,
            state,
            actor="cli:test",
            reason="the list was mended",
            now=datetime.now(UTC),
            **options,
        )


def send_and_settle(
    database: Database, current: Settings, campaign, channel: Channel, answer: Callable[[Message], Outcome]
) -> FakeProvider:
    provider = FakeProvider(channel, answer)
    run(current, provider, campaign.id, campaign.epoch)
    settle(database, current)
    return provider


def one_row(database: Database, query: str) -> tuple[Any, ...]:
    with database.staff() as session:
        return tuple(session.execute(text(query)).one())


def test_a_failed_delivery_is_sent_again_and_its_person_and_campaign_are_open_again(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    send_and_settle(database, current, campaign, Channel.EMAIL, lambda _: REFUSED)
    assert outcomes(database, campaign.id)["unreached"] == 1
    assert one_row(database, "SELECT state FROM campaign") == ("completed",)
    done = replay(database, Chosen(campaign_id=campaign.id))
    assert (len(done.ids), done.left) == (1, {})
    assert one_row(database, "SELECT state, completed_at FROM campaign") == ("sending", None)
    assert outcomes(database, campaign.id)["on_the_way"] == 1
    assert one_row(database, "SELECT tries, first_tried_at, possibly_twice FROM delivery") == (0, None, False)
    again = FakeProvider()
    run(current, again, campaign.id, campaign.epoch)
    assert len(again.sent) == 1
    assert states(database) == {"accepted": 1}
    entry = "SELECT actor, subject, detail->>'reason', (detail->>'deliveries')::int FROM journal WHERE action = 'delivery.replay'"
    assert one_row(database, entry) == ("cli:test", f"campaign:{campaign.id}", "the list was mended", 1)
    with database.staff() as session:
        assert broken_journal_entries(session) == []


def test_a_dry_run_counts_and_changes_nothing(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    send_and_settle(database, current, campaign, Channel.EMAIL, lambda _: REFUSED)
    assert len(replay(database, Chosen(campaign_id=campaign.id), dry_run=True).ids) == 1
    assert states(database) == {"failed": 1}
    assert one_row(database, "SELECT count(*) FROM journal WHERE action = 'delivery.replay'") == (0,)


def test_who_was_told_or_is_about_to_be_by_another_channel_gets_nothing_again_unless_one_says_so(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1)])
    send_and_settle(database, current, campaign, Channel.EMAIL, lambda _: REFUSED)
    chosen = Chosen(ids=tuple(ids(database, "channel = 'email'")))
    assert replay(database, chosen).left == {"awaited": 1}
    run(current, FakeProvider(Channel.SMS), campaign.id, campaign.epoch)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'delivered', due_at = now() WHERE channel = 'sms'"))
    settle(database, current)
    assert outcomes(database, campaign.id)["informed"] == 1
    assert replay(database, chosen).left == {"told": 1}
    assert replay(database, chosen, even_told=True).ids == list(chosen.ids)
    settle(database, current)
    email = FakeProvider()
    run(current, email, campaign.id, campaign.epoch)
    assert len(email.sent) == 1, "a campaign is not over while a message that was asked for waits"
    settle(database, current)
    assert one_row(database, "SELECT state FROM campaign") == ("completed",)
    assert outcomes(database, campaign.id)["informed"] == 1


def test_what_may_have_arrived_is_sent_again_only_if_one_says_so_and_is_then_declared(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, phone=None), person(2, email=None)])
    run(current, FakeProvider(answer=lambda _: UNKNOWN), campaign.id, campaign.epoch)
    run(current, FakeProvider(Channel.SMS), campaign.id, campaign.epoch)
    settle(database, current, after=timedelta(days=4))  # no receipt came for the SMS
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = 'unknown', possibly_twice = false WHERE channel = 'email'")
        )
    both = Chosen(ids=tuple(ids(database)))
    assert states(database) == {"failed": 1, "unknown": 1}
    assert replay(database, both).left == {"may_have_arrived": 2}
    with pytest.raises(InputError, match="may go out twice"):
        replay(database, Chosen(campaign_id=campaign.id), Delivery.UNKNOWN)
    assert len(replay(database, Chosen(campaign_id=campaign.id), Delivery.UNKNOWN, possibly_twice=True).ids) == 1
    assert len(replay(database, Chosen(campaign_id=campaign.id), possibly_twice=True).ids) == 1
    assert one_row(database, "SELECT bool_and(possibly_twice) FROM delivery") == (True,)
    assert states(database) == {"pending": 2}


def test_of_several_failed_deliveries_for_one_person_one_goes_out(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2)])
    for channel in Channel:
        send_and_settle(database, current, campaign, channel, lambda _: REFUSED)
    assert states(database) == {"failed": 4}
    done = replay(database, Chosen(campaign_id=campaign.id))
    assert done.left == {"one_is_enough": 2}
    assert done.ids == ids(database, "channel = 'email'"), "the first channel of the plan"


def test_a_code_chooses_those_that_ended_with_it(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None), person(2, phone=None)])
    other = Outcome(Kind.REFUSED, "smtp_550_5.2.1", Blame.PERSON)
    send_and_settle(
        database, current, campaign, Channel.EMAIL, lambda sent: other if "patient2" in sent.recipient else REFUSED
    )
    assert len(replay(database, Chosen(campaign_id=campaign.id, code="smtp_550_5.2.1")).ids) == 1


def test_what_is_not_failed_or_of_a_cancelled_campaign_is_left_alone(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None), person(2, phone=None)])
    send_and_settle(
        database,
        current,
        campaign,
        Channel.EMAIL,
        lambda sent: UNKNOWN if "patient2" in sent.recipient else REFUSED,
    )
    accepted = Outcome(Kind.ACCEPTED, "accepted")
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'accepted' WHERE state = 'unknown'"))
    assert accepted
    assert replay(database, Chosen(ids=tuple(ids(database))), dry_run=True).left == {"other_state": 1}
    with database.staff() as session:
        controlling.cancel(session, campaign.id, actor="cli:test", reason="wrong", now=datetime.now(UTC))
    assert replay(database, Chosen(ids=tuple(ids(database)))).left == {"campaign_over": 2}
    with pytest.raises(NotFoundError, match="no delivery 99"):
        replay(database, Chosen(ids=(99,)))
    with pytest.raises(InputError, match="Only failed"):
        replay(database, Chosen(campaign_id=campaign.id), Delivery.ACCEPTED)


@pytest.mark.parametrize("scope", ["provider:smtp", "receiver:orange"])
def test_a_person_who_lets_a_scope_go_on_closes_its_breaker(database: Database, scope: str):
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO breaker (scope, state, level, failures, until, reason) "
                "VALUES (:scope, 'open', 0, 9, now() + interval '1 hour', 'smtp_421')"
            ),
            {"scope": scope},
        )
        controlling.lift(session, scope, actor="cli:test")
        assert breakers.open_scopes(session) == []
        with pytest.raises((NotFoundError, InputError)):
            controlling.lift(session, scope, actor="cli:test")


def test_a_delivery_whose_receipt_waits_is_left_until_it_is_applied(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    send_and_settle(database, current, campaign, Channel.EMAIL, lambda _: REFUSED)
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO receipt (delivery_id, campaign_id, doctor_id, provider, event, code, event_at, dedup) "
                "SELECT id, campaign_id, doctor_id, 'smtp', 'delivered', 'x', now(), 'x' FROM delivery"
            )
        )
    assert replay(database, Chosen(campaign_id=campaign.id)).left == {"receipt_waiting": 1}


def test_replay_and_settling_keep_each_other_off(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    send_and_settle(database, current, campaign, Channel.EMAIL, lambda _: REFUSED)
    profile = profiles.load("eu-gdpr-fr", current.config_dir)
    with database.staff() as replaying:
        chosen, reason = Chosen(campaign_id=campaign.id), "the list was mended"
        controlling.replay(replaying, chosen, Delivery.FAILED, actor="cli:test", reason=reason, now=NOW)
        with database.staff() as settling:
            assert fallback.settle(settling, profile, now=datetime.now(UTC)) == Settled()


# --- quarantine ------------------------------------------------------------------------------------------


def set_aside(database: Database, current: Settings, lines: list[str]):
    campaign = start_campaign(database, current, lines)
    with database.staff() as session:
        session.execute(
            text(
                "UPDATE delivery SET state = 'quarantined', crashes = 3, reason = 'worker_crashed', due_at = now()"
            )
        )
    settle(database, current)
    return campaign


def test_what_is_released_is_sent_with_its_crashes_forgotten(database: Database, current: Settings):
    campaign = set_aside(database, current, [person(1, phone=None)])
    assert one_row(database, "SELECT outcome, outcome_reason FROM patient") == ("unreached", "quarantined")
    with database.staff() as session:
        done = controlling.release(
            session, Chosen(ids=tuple(ids(database))), actor="cli:test", reason="mended", now=datetime.now(UTC)
        )
    assert len(done.ids) == 1
    assert one_row(database, "SELECT crashes, state FROM delivery") == (0, "pending")
    assert outcomes(database, campaign.id)["on_the_way"] == 1
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert len(provider.sent) == 1


def test_nobody_is_released_whom_the_next_channel_is_about_to_tell(database: Database, current: Settings):
    set_aside(database, current, [person(1)])
    assert states(database) == {"quarantined": 1, "pending": 1}
    with database.staff() as session:
        chosen = Chosen(ids=tuple(ids(database, "state = 'quarantined'")))
        done = controlling.release(session, chosen, actor="cli:test", reason="mended", now=datetime.now(UTC))
    assert done.left == {"awaited": 1}


def test_what_is_given_up_goes_to_the_next_channel_or_the_letter_list(database: Database, current: Settings):
    campaign = set_aside(database, current, [person(1, phone=None)])
    with database.staff() as session:
        done = controlling.give_up(
            session, Chosen(campaign_id=campaign.id), actor="cli:test", reason="no use", now=datetime.now(UTC)
        )
    assert len(done.ids) == 1
    settle(database, current)
    assert one_row(database, "SELECT state, reason FROM delivery") == ("failed", "given_up")
    assert one_row(database, "SELECT outcome, outcome_reason FROM patient") == ("unreached", "all_failed")
    assert one_row(database, "SELECT state FROM campaign") == ("completed",)


# --- bounces ---------------------------------------------------------------------------------------------


def pause_bouncing(database: Database, limit: float = 0.2, least: int = 10) -> list[int]:
    with database.staff() as session:
        return controlling.pause_bouncing(session, limit=limit, least=least)


def bounce_first(count: int) -> Callable[[Message], Outcome]:
    refused = {f"patient{number}@example.org" for number in range(count)}
    return lambda sent: REFUSED if sent.recipient in refused else Outcome(Kind.ACCEPTED, "accepted")


@pytest.mark.parametrize(("bounces", "is_paused"), [(4, False), (5, True)])
def test_a_campaign_with_too_many_dead_addresses_is_paused_with_its_reason(
    database: Database, current: Settings, bounces: int, is_paused: bool
):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(20)])
    send_and_settle(database, current, campaign, Channel.EMAIL, bounce_first(bounces))
    assert pause_bouncing(database) == ([campaign.id] if is_paused else [])
    state, reason = one_row(database, "SELECT state, reason FROM campaign")
    assert state == ("paused" if is_paused else "sending")
    if is_paused:
        assert reason == "5 of 20 email addresses do not work (25%, the limit is 20%): is it the right list?"
        entry = "SELECT actor, detail->>'reason' FROM journal WHERE action = 'campaign.pause'"
        assert one_row(database, entry) == ("engine", reason)
    assert pause_bouncing(database) == []


def test_too_few_results_are_not_judged(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(9)])
    send_and_settle(database, current, campaign, Channel.EMAIL, bounce_first(8))
    assert pause_bouncing(database) == []


@pytest.mark.parametrize(
    ("reason", "is_bounce"),
    [
        *((code, True) for code in ("smtp_550_5.1.1", "smtp_550", "smtp_550_5.5.0", "smtp_550_5.2.1")),
        *((code, True) for code in ("receipt_hard_failed", "unfit_address", "http_400_invalid_parameter")),
        *((code, False) for code in ("smtp_550_5.7.1", "smtp_535", "smtp_550_5.1.8", "smtp_552_5.2.2")),
        *((code, False) for code in ("smtp_451_4.7.1", "no_receipt", "uncertain_twice", "given_up", "http_500")),
        *((code, False) for code in ("receipt_soft_failed", "connect_failed", "http_429")),
    ],
)
def test_only_a_failure_by_the_address_is_a_bounce(
    database: Database, current: Settings, reason: str, is_bounce: bool
):
    start_campaign(database, current, [person(1, phone=None), person(2, email=None)])
    with database.staff() as session:
        session.execute(
            text("UPDATE delivery SET state = 'failed', reason = :reason, due_at = now()"), {"reason": reason}
        )
    for _ in range(2):
        settle(database, current)
    with database.staff() as session:
        assert list(session.scalars(text("SELECT n FROM bounce"))) == ([1] if is_bounce else [])


def test_who_looked_and_resumed_is_not_stopped_at_once_again_but_by_new_bounces(
    database: Database, current: Settings
):
    lines = [person(number, phone=None) for number in range(40)]
    campaign = start_campaign(database, current, lines)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() + interval '1 hour' WHERE id % 2 = 0"))
        # in the provider's hands before the pause, reported back after the resume
        late = session.scalar(text("SELECT min(id) FROM delivery WHERE id % 2 = 1"))
    send_and_settle(database, current, campaign, Channel.EMAIL, bounce_first(20))
    assert pause_bouncing(database) == [campaign.id]
    with database.staff() as session:
        resumed = controlling.resume(session, campaign.id, actor="cli:test")
    assert pause_bouncing(database) == []
    with database.staff() as session:
        session.execute(
            text(
                "UPDATE delivery SET state = 'failed', reason = 'receipt_hard_failed', due_at = now() WHERE id = :id"
            ),
            {"id": late},
        )
        session.execute(text("UPDATE delivery SET due_at = now() WHERE state = 'pending'"))
    settle(database, current)
    assert one_row(database, "SELECT n FROM bounce") == (0,), "what was handed over before the resume"
    send_and_settle(database, current, resumed, Channel.EMAIL, lambda _: REFUSED)
    assert one_row(database, "SELECT n FROM bounce") == (20,)
    assert pause_bouncing(database) == [campaign.id]


def test_a_doctor_may_resume_and_sees_no_other_doctors_bounces(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(20)])
    other = start_campaign(database, current, [person(number, phone=None) for number in range(20)], number=2)
    for one in (campaign, other):
        send_and_settle(database, current, one, Channel.EMAIL, bounce_first(10))
    assert pause_bouncing(database) == [campaign.id, other.id]
    with database.doctor(campaign.doctor_id) as session:
        controlling.resume(session, campaign.id, actor="key:1")
        assert list(session.scalars(text("SELECT campaign_id FROM bounce"))) == [campaign.id]
