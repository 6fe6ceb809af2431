"""Test sends: to one's own address, marked, once, never counted, and never waiting in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from notifier import acts, controlling, models, store, testsends
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import AsyncDatabase, Database
from tests.factories import ask_test, make_campaign, make_settings, person, start_campaign


class FakeProvider:
    """Keeps what it gets and answers as told."""

    name = "fake"
    concurrency = 2

    def __init__(self, channel: Channel = Channel.EMAIL, *answers: Outcome) -> None:
        self.channel = channel
        self.sent: list[Message] = []
        self.answers = list(answers)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        return self.answers.pop(0) if self.answers else Outcome(Kind.ACCEPTED, "accepted", raw="250 ok")


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def campaign(database: Database, current: Settings) -> int:
    return make_campaign(database, current, [person(1), person(2)])


Send = Callable[..., list[testsends.State | None]]


@pytest.fixture
def send(current: Settings) -> Send:
    """Sends tests by number through a provider, all at the same time."""

    def run(provider: FakeProvider, *numbers: int, **changes: object) -> list[testsends.State | None]:
        async def go() -> list[testsends.State | None]:
            database = AsyncDatabase(current.sqlalchemy_url, pool_size=2)
            sender = testsends.TestSender(database, current.master, provider, asyncio.Semaphore(2), **changes)
            try:
                return list(await asyncio.gather(*(sender.send(number) for number in numbers)))
            finally:
                await database.dispose()

        return asyncio.run(go())

    return run


def look(database: Database, campaign: int, number: int) -> models.TestSend:
    with database.staff() as session:
        return testsends.find(session, campaign, number)


def test_a_doctor_gets_the_notice_as_it_stands_marked_and_made_out_to_nobody_real(
    database: Database, current: Settings, campaign: int, send: Send
):
    number = ask_test(database, current, campaign)
    provider = FakeProvider()
    assert send(provider, number) == [testsends.State.ACCEPTED]
    with database.staff() as session:
        draft = acts.draft(session, current, campaign)
    shown = draft.preview(testsends.MADE_UP_NAME, "fr", draft.composed.notices[0].variant)[0]
    [message] = provider.sent
    assert message.recipient == "me@example.org"
    assert message.content.subject == f"[Test] {shown.subject}"
    assert (message.text, message.html) == (shown.text, shown.html)
    assert testsends.MADE_UP_NAME in message.text
    assert message.reply_to == "cabinet1@example.org"
    made = look(database, campaign, number)
    assert made.notice_hash.hex() == draft.hash
    assert b"250 ok" not in made.raw_sealed


def test_an_sms_is_marked_in_front(database: Database, current: Settings, campaign: int, send: Send):
    number = ask_test(database, current, campaign, "06 39 98 00 01")
    provider = FakeProvider(Channel.SMS)
    assert send(provider, number) == [testsends.State.ACCEPTED]
    [message] = provider.sent
    assert message.recipient == "+33639980001"
    assert message.text.startswith("TEST: ")


def test_an_approved_or_running_campaign_can_be_tested_too(database: Database, current: Settings, send: Send):
    campaign = start_campaign(database, current, [person(1)]).id
    assert send(FakeProvider(), ask_test(database, current, campaign)) == [testsends.State.ACCEPTED]


def test_it_is_never_counted_among_deliveries(database: Database, current: Settings, campaign: int, send: Send):
    send(FakeProvider(), ask_test(database, current, campaign))
    with database.staff() as session:
        counts = store.delivery_counts(session, campaign)
        assert session.scalar(text("SELECT count(*) FROM delivery")) == 0
    assert not any(number for states in counts.values() for number in states.values())


def test_twice_at_once_is_sent_once(database: Database, current: Settings, campaign: int, send: Send):
    number = ask_test(database, current, campaign)
    provider = FakeProvider()
    assert sorted(send(provider, number, number), key=str) == [None, testsends.State.ACCEPTED]
    assert len(provider.sent) == 1


def test_each_has_a_name_of_its_own_that_is_no_deliverys(
    database: Database, current: Settings, campaign: int, send: Send
):
    numbers = [ask_test(database, current, campaign) for _ in range(2)]
    provider = FakeProvider()
    send(provider, *numbers)
    references = {message.reference for message in provider.sent}
    assert len(references) == 2
    assert {reference.partition(".")[0] for reference in references} == {"0"}


@pytest.mark.parametrize("scope", ["everything", "channel:email", "provider:smtp"])
def test_what_is_on_hold_is_said_instead_of_waited_for(
    database: Database, current: Settings, campaign: int, send: Send, scope: str
):
    with database.staff() as session:
        controlling.hold(session, scope, actor="cli:test", reason="test", now=datetime.now(UTC))
    number = ask_test(database, current, campaign)
    provider = FakeProvider()
    provider.name = "smtp"
    assert send(provider, number) == [testsends.State.REFUSED]
    made = look(database, campaign, number)
    assert (made.code, provider.sent) == (f"on_hold:{scope}", [])
    assert scope in testsends.in_words(made)


def test_a_hold_of_the_other_channel_or_one_that_has_passed_changes_nothing(
    database: Database, current: Settings, campaign: int, send: Send
):
    with database.staff() as session:
        controlling.hold(session, "channel:sms", actor="cli:test", reason="test", now=datetime.now(UTC))
        session.execute(
            text(
                "INSERT INTO hold (scope, reason, until, by) "
                "VALUES ('everything', 'x', now() - interval '1 s', 'engine')"
            )
        )
    assert send(FakeProvider(), ask_test(database, current, campaign)) == [testsends.State.ACCEPTED]


def test_a_limit_that_says_no_for_long_is_said(database: Database, current: Settings, campaign: int, send: Send):
    async def closed() -> tuple[float, str]:
        return 60.0, "provider:fake"

    number = ask_test(database, current, campaign)
    assert send(FakeProvider(), number, permit=closed) == [testsends.State.REFUSED]
    assert look(database, campaign, number).code == "on_hold:provider:fake"


def test_a_limit_that_says_no_for_a_moment_is_waited_for(
    database: Database, current: Settings, campaign: int, send: Send
):
    answers = [(0.001, "provider:fake"), (0.0, "")]

    async def soon() -> tuple[float, str]:
        return answers.pop(0)

    assert send(FakeProvider(), ask_test(database, current, campaign), permit=soon) == [testsends.State.ACCEPTED]
    assert answers == []


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON), testsends.State.REFUSED),
        (Outcome(Kind.REFUSED, "smtp_451", Blame.LATER), testsends.State.REFUSED),
        (Outcome(Kind.UNKNOWN, "no_answer"), testsends.State.UNKNOWN),
    ],
)
def test_what_was_refused_or_uncertain_is_not_repeated_by_itself(
    database: Database, current: Settings, campaign: int, send: Send, outcome: Outcome, state: testsends.State
):
    number = ask_test(database, current, campaign)
    provider = FakeProvider(Channel.EMAIL, outcome)
    assert send(provider, number) == [state]
    assert send(provider, number) == [None]
    made = look(database, campaign, number)
    assert (made.state, made.code) == (state, outcome.code)
    with database.staff() as session:
        assert testsends.waiting(session.connection()) == {}


def test_a_providers_bug_ends_in_unknown(database: Database, current: Settings, campaign: int, send: Send):
    class Broken(FakeProvider):
        async def send(self, message: Message) -> Outcome:
            raise RuntimeError("bug")

    assert send(Broken(), ask_test(database, current, campaign)) == [testsends.State.UNKNOWN]


def test_one_whose_worker_vanished_is_closed_as_unknown_and_a_late_end_still_counts(
    database: Database, current: Settings, campaign: int, send: Send
):
    number = ask_test(database, current, campaign)

    class Slow(FakeProvider):
        async def send(self, message: Message) -> Outcome:
            with database.staff() as session:
                session.execute(text("UPDATE test_send SET started_at = now() - interval '1 hour'"))
                assert testsends.waiting(session.connection()) == {}
            assert look(database, campaign, number).code == "worker_gone"
            return await super().send(message)

    assert send(Slow(), number) == [testsends.State.ACCEPTED]
    assert look(database, campaign, number).state == testsends.State.ACCEPTED


def test_what_waited_too_long_is_not_sent_any_more(
    database: Database, current: Settings, campaign: int, send: Send
):
    number = ask_test(database, current, campaign, now=datetime.now(UTC) - testsends.EXPIRES)
    provider = FakeProvider()
    assert send(provider, number) == [testsends.State.REFUSED]
    assert (look(database, campaign, number).code, provider.sent) == ("expired", [])


def test_nobody_can_write_to_strangers_with_it(database: Database, current: Settings, campaign: int):
    now = datetime.now(UTC)
    for _ in range(testsends.MOST_AN_HOUR):
        ask_test(database, current, campaign, now=now)
    with pytest.raises(ConflictError, match="20 tests an hour"):
        ask_test(database, current, campaign, now=now)
    other = make_campaign(database, current, [person(1)], 2)
    ask_test(database, current, other, now=now)
    ask_test(database, current, campaign, now=now + timedelta(hours=1, seconds=1))


@pytest.mark.parametrize(
    ("to", "changes"),
    [
        ("me@", {}),
        ("me@exemple@example.org", {}),
        ("", {}),
        ("01 99 00 12 34", {}),  # a landline
        ("12", {}),
        ("me@example.org", {"channel": Channel.SMS}),
        ("06 39 98 00 01", {"channel": Channel.EMAIL}),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_never_repeated(
    database: Database, current: Settings, campaign: int, to: str, changes: dict[str, object]
):
    with pytest.raises(InputError) as raised:
        ask_test(database, current, campaign, to, **changes)
    assert not to or to not in raised.value.message


def test_a_channel_without_a_text_is_refused(database: Database, current: Settings, campaign: int):
    with database.staff() as session:
        found = session.get_one(models.Campaign, campaign)
        with pytest.raises(InputError, match="not written for email"):
            testsends.ask(
                session,
                current.master,
                found,
                [],
                to="me@example.org",
                channel=None,
                notice_hash="",
                region="FR",
                actor="cli:test",
                now=datetime.now(UTC),
            )


def test_the_address_stands_nowhere_in_clear_and_the_act_is_in_the_journal(
    database: Database, current: Settings, campaign: int, send: Send
):
    number = ask_test(database, current, campaign, "canary@example.org")
    send(FakeProvider(), number)
    with database.staff() as session:
        for table in ("test_send", "journal"):
            rows = session.execute(text(f"SELECT t::text FROM {table} t")).scalars()
            assert not any("canary" in row for row in rows)
        entry = session.query(models.Journal).filter_by(action="campaign.test").one()
    assert (entry.actor, entry.subject, entry.detail["test"]) == ("cli:test", f"campaign:{campaign}", number)


def test_a_doctor_asks_for_and_sees_their_own_only(database: Database, current: Settings, campaign: int):
    number = ask_test(database, current, campaign)
    other = make_campaign(database, current, [person(1)], 2)
    with database.staff() as session:
        ours = session.get_one(models.Campaign, campaign).doctor_id
        theirs = session.get_one(models.Campaign, other).doctor_id
    with database.doctor(ours) as session:
        assert testsends.find(session, campaign, number).id == number
        draft = acts.draft(session, current, campaign)
        testsends.ask(
            session,
            current.master,
            draft.campaign,
            draft.preview("", "fr", draft.composed.notices[0].variant),
            to="me@example.org",
            channel=None,
            notice_hash=draft.hash,
            region="FR",
            actor="key:1",
            now=datetime.now(UTC),
        )
    with database.doctor(theirs) as session, pytest.raises(NotFoundError):
        testsends.find(session, campaign, number)


def test_the_states_are_those_the_table_takes(database: Database, current: Settings, campaign: int):
    number = ask_test(database, current, campaign)
    with database.staff() as session:
        for state in testsends.State:
            session.execute(text("UPDATE test_send SET state = :state"), {"state": state})
    for state in testsends.State:
        assert testsends.in_words(models.TestSend(id=number, state=state, code="x"))
