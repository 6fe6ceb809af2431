"""What has changed: nothing is passed over, whoever moved it; and how an address is told."""

from __future__ import annotations

import base64
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier import controlling, feed
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.feed import START, Call, Cursor, Made
from notifier.providers.base import Blame, Kind, Outcome
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import import_more, make_campaign, make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, run, settle

REFUSED = Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def follow(database: Database, after: Cursor, **of: Any) -> tuple[list[dict[str, Any]], Cursor]:
    """All that changed since, page after page."""
    found: list[dict[str, Any]] = []
    while True:
        with database.staff() as session:
            page = feed.read(session, after, **of)
        found += page.campaigns
        after = page.next
        if not page.has_more:
            return found, after


def now_cursor(database: Database) -> Cursor:
    with database.staff() as session:
        return feed.now_cursor(session)


def test_outcomes_and_states_are_told_once_they_have_changed(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(7)])
    place = now_cursor(database)
    run(current, FakeProvider(Channel.EMAIL, lambda _: REFUSED), campaign.id, campaign.epoch)
    settle(database, current)
    found, place = follow(database, place)
    told = {one["patient"]: (one["outcome"], one["reason"]) for change in found for one in change["patients"]}
    assert Counter(told.values()) == {("unreached", "all_failed"): 7}
    assert found[-1]["state"] == "completed"
    assert follow(database, place) == ([], place), "and then nothing, from the same place"


def test_who_reads_while_others_write_misses_nothing(database: Database, current: Settings):
    """The first transaction commits last: its change must not lie behind the cursor."""
    first = start_campaign(database, current, [person(1)], 1)
    second = start_campaign(database, current, [person(2)], 2)
    place = now_cursor(database)
    # Not an act of a person: the journal would let the second wait for the first.
    pause = text("UPDATE campaign SET state = 'paused' WHERE id = :id")
    with database.staff() as slow:
        slow.execute(pause, {"id": first.id})
        with database.staff() as quick:
            quick.execute(pause, {"id": second.id})
        seen, place = follow(database, place)
        assert seen == [], "what is younger than a transaction at work waits for it"
    seen, place = follow(database, place)
    assert sorted(one["campaign"] for one in seen) == [first.id, second.id]


def test_a_doctor_hears_of_their_own_only(database: Database, current: Settings):
    mine = start_campaign(database, current, [person(1)], 1)
    start_campaign(database, current, [person(2)], 2)
    found, _ = follow(database, START, doctor=mine.doctor_id)
    assert {one["campaign"] for one in found} == {mine.id}
    with database.doctor(mine.doctor_id) as session:
        assert {one["campaign"] for one in feed.read(session, START).campaigns} == {mine.id}
    found, _ = follow(database, START, campaign=mine.id)
    assert {one["doctor"] for one in found} == {mine.doctor_id}


def test_who_is_added_after_the_start_is_told_of(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    place = now_cursor(database)
    import_more(database, current, campaign.id, [person(2, email=None, phone=None), person(3, decede="oui")])
    found, _ = follow(database, place)
    told = {one["row"]: one["outcome"] for change in found for one in change["patients"]}
    assert told == {2: "unreached", 3: "excluded"}


@pytest.mark.parametrize(
    "value", ["9999999999999999999-0", "", "1", "x-y", "1-2-3", "-1-2", "1-2 ", "9" * 25 + "-1"]
)
def test_what_is_no_cursor_is_refused(value: str):
    with pytest.raises(InputError, match="no cursor"):
        Cursor.parse(value)


# --- callbacks -------------------------------------------------------------------------------------------


def create(
    database: Database, current: Settings, doctor: int | None = None, url: str = "https://a.example/x"
) -> Made:
    with database.staff() as session:
        return feed.create(session, current.master, url, doctor, actor="cli:test", allow_private=False)


def take(session: Session, current: Settings, at: datetime) -> list[Call]:
    return feed.take(session, current.master, now=at, most=10)


def end(session: Session, call: Call, code: str, at: datetime, **how: Any) -> None:
    feed.ended(session, call, code, now=at, give_up=timedelta(hours=5), **how)


def test_an_address_is_told_what_follows_until_it_takes_it(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    _, secret = create(database, current)
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    at = datetime.now(UTC) + timedelta(seconds=1)
    with database.staff() as session:
        assert take(session, current, at) == [], "what was before is not told"
        controlling.pause(session, campaign.id, actor="cli:test", reason="x")
    at += timedelta(seconds=2)
    with database.staff() as session:
        [call] = take(session, current, at)
        assert [one["state"] for one in call.body["data"]["campaigns"]] == ["paused"]
        assert take(session, current, at) == [], "nobody else tells it meanwhile"
        end(session, call, "http_500", at, taken=False)
        assert take(session, current, at) == [], "not at once again"
    at += timedelta(seconds=6)
    with database.staff() as session:
        controlling.resume(session, campaign.id, actor="cli:test")
    with database.staff() as session:
        [again] = take(session, current, at)
        assert (again.message_id, again.next) == (call.message_id, call.next), "the same message by the same name"
        end(session, again, "http_200", at, taken=True)
    at += timedelta(seconds=2)
    with database.staff() as session:
        [later] = take(session, current, at)
        assert later.message_id != call.message_id, "what came meanwhile is another"
        end(session, later, "http_200", at, taken=True)
    with database.staff() as session:
        assert take(session, current, at + timedelta(minutes=5)) == []
        state = session.execute(text("SELECT state, tries, last_code, failing_since FROM callback")).one()
        assert tuple(state) == ("active", 0, "http_200", None)


def test_one_that_takes_nothing_for_long_is_stopped_and_loses_nothing(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    made, _ = create(database, current)
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="cli:test", reason="x")
    at = datetime.now(UTC)
    tries = 0
    with database.staff() as session:
        for _ in range(100):
            at += timedelta(minutes=20)
            for call in take(session, current, at):
                tries += 1
                end(session, call, "timeout", at, taken=False)
        assert session.scalar(text("SELECT state FROM callback")) == "stopped"
        assert 5 < tries < 12
        feed.resume(session, made.id, actor="cli:test", now=at)
        [call] = take(session, current, at)
        assert call.body["data"]["campaigns"], "it goes on where it stopped"
        end(session, call, "http_410", at, taken=False, is_over=True)
        assert session.scalar(text("SELECT state FROM callback")) == "stopped"


def test_a_message_on_its_way_does_not_undo_a_replay(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    made, _ = create(database, current)
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="cli:test", reason="x")
    at = datetime.now(UTC) + timedelta(seconds=1)
    with database.staff() as session:
        [call] = take(session, current, at)
        feed.replay(session, made.id, START, actor="cli:test", now=at)
        end(session, call, "http_200", at, taken=True)
        [again] = take(session, current, at)
        assert again.after == START
        assert again.message_id != call.message_id


def test_too_many_addresses_and_those_of_others_are_refused(database: Database, current: Settings):
    mine = start_campaign(database, current, [person(1)], 1)
    other = make_campaign(database, current, [person(2)], 2)
    made, _ = create(database, current, mine.doctor_id)
    for _ in range(feed.MOST_CALLBACKS - 1):
        create(database, current, mine.doctor_id)
    with pytest.raises(ConflictError, match="delete one"):
        create(database, current, mine.doctor_id)
    with database.staff() as session:
        other_doctor = session.scalar(text("SELECT doctor_id FROM campaign WHERE id = :id"), {"id": other})
    with database.doctor(other_doctor) as session, pytest.raises(NotFoundError):
        feed.delete(session, made.id, actor="doctor:2")
    with database.doctor(mine.doctor_id) as session:
        feed.delete(session, made.id, actor="doctor:1")


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/",
        "ftp://a.example/",
        "https://",
        "https:///x",
        "https://user@a.example/",
        "https://user:x@a.example/",
        "https://a.example/#x",
        "https://a.example:99999/",
        "https://a.example:0/",
        "https://a.exämple/",
        "https://a.example/ x",
        "https://a.example\\@b.example/",
        "https://a.example/\r\nX: y",
        "https://a.example/" + "x" * 500,
    ],
)
def test_what_can_be_no_address_is_refused(url: str):
    with pytest.raises(InputError, match="https://host/path"):
        feed.check_url(url, allow_private=False)


def test_the_signature_is_that_of_the_scheme():
    """By hand from the scheme's words: HMAC-SHA-256 over "id.timestamp.body", base64, after "v1,"."""
    import hashlib
    import hmac

    secret = bytes(range(32))
    expected = hmac.new(secret, b'msg_1.1700000000.{"a":1}', hashlib.sha256).digest()
    assert (
        feed.signature(secret, "msg_1", 1_700_000_000, b'{"a":1}') == "v1," + base64.b64encode(expected).decode()
    )
