"""The engine on real PostgreSQL with a provider handed in: what is sent once, what stops, what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier import controlling, fallback, profiles, receipts, schedule, store
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.sending import Gate, Sender, Writer
from notifier.settings import Settings
from notifier.states import Channel, Delivery
from notifier.store import AsyncDatabase, Database
from tests.factories import make_settings, person, start_campaign

ACCEPTED = Outcome(Kind.ACCEPTED, "accepted", provider_message_id="m-1", raw="201 created")


class FakeProvider:
    """Answers as told and remembers what it was given."""

    name = "smtp"
    concurrency = 8

    def __init__(
        self, channel: Channel = Channel.EMAIL, answer: Callable[[Message], Outcome] | None = None
    ) -> None:
        self.channel = channel
        self.sent: list[Message] = []
        self._answer = answer or (lambda _: ACCEPTED)
        self.before_answer: Callable[[Message], Awaitable[None]] | None = None

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        if self.before_answer:
            await self.before_answer(message)
        return self._answer(message)


class Unlimited:
    """Lets everything start; remembers how calls ended."""

    def __init__(self) -> None:
        self.noted: list[Outcome] = []

    async def room(self, campaign_id: int, wanted: int) -> tuple[int, float, str]:
        return wanted, 0.0, ""

    def refusal(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        return 0.0, ""

    async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        return 0.0, ""

    def note(self, outcome: Outcome, receiver: str) -> None:
        self.noted.append(outcome)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


class Engine:
    """A sender with its gate and writer, on the running loop."""

    def __init__(self, current: Settings, provider: FakeProvider, **engine: object) -> None:
        self.database = AsyncDatabase(current.sqlalchemy_url)
        settings = current.engine.model_copy(update=engine)
        # Patient, because a test machine may be slow; how fast a stop acts is measured in bench/.
        self.gate = Gate(self.database, timedelta(milliseconds=20), stale=timedelta(minutes=1))
        self.writer = Writer(self.database, settings)
        profile = profiles.load("eu-gdpr-fr", current.config_dir)
        self.sender = Sender(
            database=self.database,
            master=current.master,
            provider=provider,
            rules=schedule.rules(profile, provider.channel, current.time_scale),
            engine=settings,
            gate=self.gate,
            writer=self.writer,
            governor=Unlimited(),
            owner="test",
            reference=receipts.reference,
            default_language=profile.languages[0],
        )

    async def __aenter__(self) -> Sender:
        runs = (self.gate.run(), self.writer.run(), self.sender.run())
        self._tasks = [asyncio.create_task(run) for run in runs]
        return self.sender

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.database.dispose()


def states(database: Database) -> dict[str, int]:
    with database.staff() as session:
        rows = session.execute(text("SELECT state, count(*) FROM delivery GROUP BY state")).all()
    return {row[0]: row[1] for row in rows}


def outcomes(database: Database, campaign_id: int) -> dict[str, int]:
    with database.staff() as session:
        counts = store.outcome_counts(session, campaign_id)
    parts = [counts[name] for name in ("excluded", "merged", "informed", "on_the_way", "unreached")]
    assert counts["imported"] == sum(parts)
    return counts


def settle(database: Database, current: Settings, *, after: timedelta = timedelta(0)) -> None:
    profile = profiles.load("eu-gdpr-fr", current.config_dir)
    with database.staff() as session:
        fallback.settle(session, profile, now=datetime.now(UTC) + after)


def sweep_all(session: Session) -> int:
    """As if every lease had run out."""
    session.execute(text("UPDATE due SET at = now() - interval '1 second' WHERE kind = 'lease'"))
    quiet = dict.fromkeys(Channel, timedelta(hours=1))
    return store.sweep(session, quiet=quiet, max_crashes=3, leases=10)


def run(current: Settings, provider: FakeProvider, campaign_id: int, epoch: int, **engine: object) -> int:
    async def once() -> int:
        async with Engine(current, provider, **engine) as sender:
            return await sender.work(campaign_id, epoch)

    return asyncio.run(once())


def test_every_patient_gets_one_message_with_their_own_name(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(120)])
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch) == 120
    assert sorted(message.recipient for message in provider.sent) == sorted(
        f"patient{number}@example.org" for number in range(120)
    )
    for message in provider.sent:
        number = message.recipient.removeprefix("patient").removesuffix("@example.org")
        assert f"Prenom{number} Nom{number}" in message.text
        assert f"Prenom{number} Nom{number}" in message.html
    assert states(database) == {"accepted": 120}
    with database.staff() as session:
        attempts = session.execute(text("SELECT outcome, count(*) FROM attempt GROUP BY outcome")).all()
    assert attempts == [("accepted", 120)]


def test_the_same_ticket_many_times_at_once_sends_each_row_once(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(60)])
    provider = FakeProvider()

    async def many() -> list[int]:
        async with Engine(current, provider, claim_rows=10) as sender:
            return await asyncio.gather(*(sender.work(campaign.id, campaign.epoch) for _ in range(20)))

    assert sum(asyncio.run(many())) == 60
    assert len({message.recipient for message in provider.sent}) == len(provider.sent) == 60


def test_a_ticket_of_an_older_epoch_sends_nothing(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch - 1) == 0
    assert provider.sent == []


def test_the_attempt_is_in_the_database_before_the_call(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    provider = FakeProvider()
    seen: list[tuple[str, str | None]] = []

    async def look(_: Message) -> None:
        with database.staff() as session:
            seen.extend(
                session.execute(
                    text("SELECT d.state, a.outcome FROM delivery d JOIN attempt a ON a.delivery_id = d.id")
                )
            )

    provider.before_answer = look
    run(current, provider, campaign.id, campaign.epoch)
    assert seen == [("sending", None)]


def test_a_refused_address_falls_back_to_sms_then_to_the_letter_list(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2, phone=None)])
    refuse = FakeProvider(answer=lambda _: Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON))
    run(current, refuse, campaign.id, campaign.epoch)
    settle(database, current)
    counts = outcomes(database, campaign.id)
    assert (counts["on_the_way"], counts["unreached"]) == (1, 1)
    sms = FakeProvider(Channel.SMS)
    assert run(current, sms, campaign.id, campaign.epoch) == 1
    assert [message.recipient for message in sms.sent] == ["+33639980001"]
    settle(database, current, after=timedelta(days=4))
    counts = outcomes(database, campaign.id)
    assert (counts["informed"], counts["unreached"]) == (0, 2), "an SMS without a receipt does not inform"
    with database.staff() as session:
        assert session.scalar(text("SELECT state FROM campaign")) == "completed"


def test_an_accepted_email_informs_when_no_failure_came_in_time(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    settle(database, current)
    assert outcomes(database, campaign.id)["on_the_way"] == 1
    settle(database, current, after=timedelta(days=4))
    assert outcomes(database, campaign.id)["informed"] == 1
    assert states(database) == {"accepted": 1}, "accepted is never called delivered"


def test_people_who_share_a_number_get_one_sms_and_a_shared_mailbox_one_email_each(
    database: Database, current: Settings
):
    lines = [person(number, email="famille@example.org") for number in (1, 2)]
    lines += [person(number, email=None, phone="06 39 98 55 55") for number in (3, 4)]
    campaign = start_campaign(database, current, lines)
    email, sms = FakeProvider(), FakeProvider(Channel.SMS)
    run(current, email, campaign.id, campaign.epoch)
    run(current, sms, campaign.id, campaign.epoch)
    assert len(email.sent) == 2
    assert len({message.text for message in email.sent}) == 2
    assert len(sms.sent) == 1
    assert not any(f"Nom{number}" in sms.sent[0].text for number in (3, 4))


def test_an_uncertain_call_is_repeated_once_after_a_quiet_time_and_declared(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    uncertain = FakeProvider(answer=lambda _: Outcome(Kind.UNKNOWN, "no_answer"))
    run(current, uncertain, campaign.id, campaign.epoch)
    assert states(database) == {"unknown": 1}
    assert run(current, uncertain, campaign.id, campaign.epoch) == 0, "never a blind resend"
    settle(database, current, after=timedelta(hours=1))
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now()"))
        assert session.scalar(text("SELECT possibly_twice FROM delivery")) is True
    run(current, uncertain, campaign.id, campaign.epoch)
    settle(database, current, after=timedelta(hours=1))
    assert len(uncertain.sent) == 2
    assert len({message.reference for message in uncertain.sent}) == 1, "one key over all tries"
    with database.staff() as session:
        states_now = session.execute(text("SELECT channel, state, reason FROM delivery ORDER BY id")).all()
    assert states_now == [("email", "failed", "uncertain_twice"), ("sms", "pending", None)]


@pytest.mark.parametrize("scope", ["campaign", "everything", "channel:email", "provider:smtp"])
def test_a_pause_in_mid_run_stops_the_rest_and_loses_nobody(database: Database, current: Settings, scope: str):
    campaign = start_campaign(database, current, [person(number) for number in range(80)])
    provider = FakeProvider()
    provider.concurrency = 2

    async def stop_once(_: Message) -> None:
        if len(provider.sent) == 10:
            with database.staff() as session:
                if scope == "campaign":
                    controlling.pause(session, campaign.id, actor="cli:test", reason="test")
                else:
                    controlling.hold(session, scope, actor="cli:test", reason="test", now=datetime.now(UTC))
        await asyncio.sleep(0.02)

    provider.before_answer = stop_once
    run(current, provider, campaign.id, campaign.epoch)
    assert len(provider.sent) < 80
    assert states(database) == {"accepted": len(provider.sent), "pending": 80 - len(provider.sent)}
    with database.staff() as session:
        if scope == "campaign":
            controlling.resume(session, campaign.id, actor="cli:test")
        else:
            controlling.lift(session, scope, actor="cli:test")
        session.expire_all()
        epoch = session.scalar(text("SELECT epoch FROM campaign"))
    provider.before_answer = None
    run(current, provider, campaign.id, epoch)
    assert states(database) == {"accepted": 80}
    assert len({message.recipient for message in provider.sent}) == len(provider.sent) == 80


def test_a_cancelled_campaign_tells_nobody_else_and_everybody_keeps_a_reason(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(number) for number in range(5)])
    with database.staff() as session:
        controlling.cancel(session, campaign.id, actor="cli:test", reason="wrong list", now=datetime.now(UTC))
    settle(database, current)
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch + 1) == 0
    assert outcomes(database, campaign.id)["unreached"] == 5
    with database.staff() as session:
        assert session.execute(text("SELECT DISTINCT outcome_reason FROM patient")).all() == [("cancelled",)]


def test_a_worker_that_vanishes_leaves_rows_uncertain_and_its_late_answer_still_counts(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1)])
    provider = FakeProvider()

    async def sweep_meanwhile(_: Message) -> None:
        with database.staff() as session:
            assert sweep_all(session) == 1
        assert states(database) == {"unknown": 1}

    provider.before_answer = sweep_meanwhile
    run(current, provider, campaign.id, campaign.epoch)
    assert states(database) == {"accepted": 1}
    with database.staff() as session:
        assert session.execute(text("SELECT outcome, code FROM attempt")).all() == [("accepted", "accepted")]


def test_a_row_that_kills_its_worker_is_set_aside_and_its_neighbours_are_not(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(30)])

    def claim_and_die() -> list[int]:
        """A process that claims as workers do, and is gone if patient 7 is among its rows."""

        async def claim() -> list[store.Claimed]:
            async_database = AsyncDatabase(current.sqlalchemy_url)
            async with async_database.hot() as connection:
                claimed = await store.claim(
                    connection,
                    campaign_id=campaign.id,
                    epoch=campaign.epoch,
                    channel=Channel.EMAIL,
                    provider="smtp",
                    owner="doomed",
                    lease=timedelta(seconds=60),
                    rows=200,
                    hints=4,
                )
            await async_database.dispose()
            return claimed.rows if claimed else []

        rows = asyncio.run(claim())
        with database.staff() as session:
            key = current.master.open_data_key(session.scalar(text("SELECT data_key FROM campaign")), campaign.id)
            if not any(key.open(row.value_sealed, b"contact.value") == b"patient7@example.org" for row in rows):
                session.execute(
                    text("UPDATE delivery SET state = 'accepted' WHERE id = ANY(:ids)"),
                    {"ids": [row.id for row in rows]},
                )
            sweep_all(session)
        return [row.id for row in rows]

    rounds = 0
    while claim_and_die():
        rounds += 1
        assert rounds < 40
    assert states(database) == {"accepted": 29, "quarantined": 1}


@pytest.mark.parametrize(
    ("table", "column", "purpose", "plain"),
    [
        ("patient", "identity_sealed", b"patient.identity", b"{"),
        ("patient", "identity_sealed", b"patient.identity", b"\xff"),
        ("patient", "identity_sealed", b"patient.identity", b"null"),
        ("patient", "identity_sealed", b"patient.identity", b"[1]"),
        ("patient", "identity_sealed", b"contact.value", b"{}"),
        ("contact", "value_sealed", b"contact.value", b"\xff@example.org"),
        ("contact", "value_sealed", b"patient.identity", b"patient2@example.org"),
    ],
)
def test_a_row_that_cannot_be_read_is_set_aside_and_its_neighbours_are_sent(
    database: Database, current: Settings, table: str, column: str, purpose: bytes, plain: bytes
):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in (1, 2, 3)])
    with database.staff() as session:
        key = session.scalar(text("SELECT data_key FROM campaign"))
        sealed = current.master.open_data_key(key, campaign.id).seal(plain, purpose)
        one = session.scalar(text(f"SELECT id FROM {table} ORDER BY id OFFSET 1 LIMIT 1"))
        session.execute(
            text(f"UPDATE {table} SET {column} = :sealed WHERE id = :one"), {"sealed": sealed, "one": one}
        )
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch) == 3
    assert len(provider.sent) == 2
    assert states(database) == {Delivery.ACCEPTED: 2, Delivery.QUARANTINED: 1}
    with database.staff() as session:
        aside = session.execute(text("SELECT reason, tries FROM delivery WHERE state = 'quarantined'")).one()
        attempts = session.scalar(text("SELECT count(*) FROM attempt"))
    assert (*aside, attempts) == ("unreadable", 0, 2)


def test_a_text_that_is_not_the_approved_one_pauses_the_campaign(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE notice DISABLE TRIGGER append_only"))
        connection.execute(text("UPDATE notice SET text = text || ' Cliquez ici.' WHERE channel = 'email'"))
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch) == 0
    assert provider.sent == []
    with database.staff() as session:
        state, reason = session.execute(text("SELECT state, reason FROM campaign")).one()
    assert state == "paused"
    assert "(email/fr/standard) is not what was approved" in reason
    assert states(database) == {Delivery.PENDING: 1}
    with database.staff() as session:
        acts = session.execute(
            text("SELECT actor, detail->>'reason' FROM journal WHERE action = 'campaign.pause'")
        )
        assert acts.all() == [("engine", reason)]
        assert store.broken_journal_entries(session) == []


def test_a_bug_in_a_provider_ends_in_a_state_not_in_a_lost_row(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])

    def explode(_: Message) -> Outcome:
        raise ZeroDivisionError

    run(current, FakeProvider(answer=explode), campaign.id, campaign.epoch)
    assert states(database) == {"unknown": 1}


def test_throttled_tries_do_not_count_and_later_ones_do(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    throttle = FakeProvider(
        answer=lambda _: Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED, timedelta(seconds=1))
    )
    run(current, throttle, campaign.id, campaign.epoch)
    with database.staff() as session:
        assert session.execute(text("SELECT state, tries FROM delivery")).all() == [("pending", 0)]
        session.execute(text("UPDATE delivery SET due_at = now()"))
    run(
        current,
        FakeProvider(answer=lambda _: Outcome(Kind.REFUSED, "smtp_451", Blame.LATER)),
        campaign.id,
        campaign.epoch,
    )
    with database.staff() as session:
        assert session.execute(text("SELECT state, tries FROM delivery")).all() == [("pending", 1)]


def test_an_answer_the_database_refuses_does_not_hold_up_the_others(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(10)])

    def answer(message: Message) -> Outcome:
        odd = message.recipient == "patient3@example.org"
        return Outcome(Kind.ACCEPTED, "accepted", provider_message_id="x\0y" if odd else "m")

    run(current, FakeProvider(answer=answer), campaign.id, campaign.epoch)
    assert states(database) == {"accepted": 10}


def test_an_answer_in_no_encoding_at_all_is_written_down(database: Database, current: Settings):
    """A message that was taken must not become uncertain because of the words it was taken with."""
    campaign = start_campaign(database, current, [person(1, phone=None)])
    odd = Outcome(Kind.ACCEPTED, "accepted", raw="250 accept\udce9")
    run(current, FakeProvider(answer=lambda _: odd), campaign.id, campaign.epoch)
    assert states(database) == {Delivery.ACCEPTED: 1}


def test_rows_that_saw_a_crash_come_before_fresh_ones(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(30)])
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET crashes = 9 WHERE id % 10 = 0"))
    provider = FakeProvider()
    assert [run(current, provider, campaign.id, campaign.epoch) for _ in range(4)] == [1, 1, 1, 27]


def test_a_slow_worker_that_reports_after_all_was_not_dead(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    provider = FakeProvider(answer=lambda _: Outcome(Kind.REFUSED, "smtp_451", Blame.LATER))

    async def expire(_: Message) -> None:
        with database.staff() as session:
            sweep_all(session)

    provider.before_answer = expire
    run(current, provider, campaign.id, campaign.epoch)
    with database.staff() as session:
        assert session.execute(text("SELECT state, crashes FROM delivery")).all() == [("pending", 0)]


class Batches(FakeProvider):
    """Takes messages by the hundred; one that names `bad` makes it refuse the whole request."""

    batch_size = 100

    def __init__(self, bad: str = "") -> None:
        super().__init__()
        self.requests: list[int] = []
        self._bad = bad

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        return Outcome(Kind.REFUSED, "http_400", Blame.PERSON) if message.recipient == self._bad else ACCEPTED

    async def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        self.requests.append(len(messages))
        if any(message.recipient == self._bad for message in messages):
            return [Outcome(Kind.REFUSED, "http_400", Blame.LATER, alone=True) for _ in messages]
        self.sent.extend(messages)
        return [ACCEPTED for _ in messages]


def test_a_batch_is_one_request_and_each_person_has_their_own_end(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(150)])
    provider = Batches()
    assert run(current, provider, campaign.id, campaign.epoch) == 150
    assert sorted(provider.requests) == [50, 100]
    assert states(database) == {"accepted": 150}
    assert len({message.recipient for message in provider.sent}) == 150


def test_one_bad_address_of_a_batch_costs_nobody_else_their_notice(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(30)])
    provider = Batches(bad="patient7@example.org")
    run(current, provider, campaign.id, campaign.epoch)
    assert states(database) == {"accepted": 29, "failed": 1}
    assert len(provider.sent) == 30


class Repeatable(FakeProvider):
    """Loses its first answer, and knows the request again."""

    idempotent_for = timedelta(minutes=15)

    def __init__(self) -> None:
        super().__init__(answer=lambda _: Outcome(Kind.UNKNOWN, "no_answer"))
        self.asked = 0

    async def ask_again(self, messages: Sequence[Message]) -> list[Outcome]:
        self.asked += 1
        return [Outcome(Kind.ACCEPTED, "accepted_before") for _ in messages]


def test_an_uncertain_call_is_settled_by_asking_where_the_provider_knows_it_again(
    database: Database, current: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("notifier.sending._ASK_AGAIN_AFTER_S", (0.01, 0.01))
    campaign = start_campaign(database, current, [person(1)])
    provider = Repeatable()
    run(current, provider, campaign.id, campaign.epoch)
    assert (len(provider.sent), provider.asked) == (1, 1)
    assert states(database) == {"accepted": 1}


class Throttle(Unlimited):
    """Gives so many permits, then none for a while."""

    def __init__(self, permits: int, wait_s: float, scope: str) -> None:
        super().__init__()
        self.permits, self.wait_s, self.scope = permits, wait_s, scope

    async def room(self, campaign_id: int, wanted: int) -> tuple[int, float, str]:
        return (min(wanted, self.permits), 0.0, "") if self.permits else (0, self.wait_s, self.scope)

    async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        if not self.permits:
            return self.wait_s, self.scope
        self.permits -= 1
        return 0.0, ""


def test_a_throttled_campaign_sends_what_it_may_and_says_until_when(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(30)])
    provider = FakeProvider()
    scope = f"campaign:{campaign.id}"

    async def twice() -> None:
        engine = Engine(current, provider)
        engine.sender.governor = Throttle(10, 60, scope)
        async with engine as sender:
            assert await sender.work(campaign.id, campaign.epoch) == 10
            assert await sender.work(campaign.id, campaign.epoch) == 0

    asyncio.run(twice())
    assert states(database) == {"accepted": 10, "pending": 20}
    with database.staff() as session:
        [(held, reason, until)] = session.execute(text("SELECT scope, reason, until FROM hold")).all()
        assert (held, reason) == (scope, "rate_limit")
        assert until > datetime.now(UTC)
        assert session.scalar(text("SELECT max(tries) FROM delivery WHERE state = 'pending'")) == 0
    with database.engine.connect() as connection:
        connection.execute(text("SET ROLE notifier_staff"))
        assert store.due_campaigns(connection, Channel.EMAIL) == {}, "it gets no tickets until then"


def test_a_row_that_meets_a_receivers_limit_goes_back_and_is_due_when_it_may(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(number) for number in range(3)])
    provider = FakeProvider()

    async def once() -> None:
        engine = Engine(current, provider)
        engine.sender.governor = Limited()
        async with engine as sender:
            await sender.work(campaign.id, campaign.epoch)

    class Limited(Unlimited):
        async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
            return 30.0, "receiver:orange"

    asyncio.run(once())
    assert provider.sent == []
    with database.staff() as session:
        rows = session.execute(text("SELECT state, tries, due_at > now() + interval '20 s' FROM delivery")).all()
    assert rows == [("pending", 0, True)] * 3


def test_a_row_whose_result_is_lost_by_a_bug_is_brought_back_by_its_lease(
    database: Database, current: Settings, monkeypatch: pytest.MonkeyPatch
):
    campaign = start_campaign(database, current, [person(number) for number in range(3)])
    closed = Sender._closed

    def fail_once(sender: Sender, job, outcome: Outcome):
        if job.message.recipient == "patient1@example.org":
            raise ZeroDivisionError
        return closed(sender, job, outcome)

    monkeypatch.setattr(Sender, "_closed", fail_once)
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    assert states(database) == {"accepted": 2, "sending": 1}
    with database.staff() as session:
        assert sweep_all(session) == 1
    assert states(database) == {"accepted": 2, "unknown": 1}


def test_what_is_sending_in_nobodys_lease_is_adopted(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    quiet = dict.fromkeys(Channel, timedelta(hours=1))

    async def vanish(_: Message) -> None:
        with database.staff() as session:
            session.execute(text("DELETE FROM due"))
            assert store.adopt(session, campaign.id, quiet=quiet, older=timedelta(hours=1)) == 0
            assert store.adopt(session, campaign.id, quiet=quiet, older=timedelta(0)) == 1
        assert states(database) == {"unknown": 1}

    provider = FakeProvider()
    provider.before_answer = vanish
    run(current, provider, campaign.id, campaign.epoch)
    assert states(database) == {"accepted": 1}, "its answer still counts"
