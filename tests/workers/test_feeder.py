"""The feeder: due rows become tickets, nobody waits for a larger campaign, and one leads of many."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, text

import workers.feeder
from notifier import controlling, store
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import ask_test, make_campaign, make_settings, person, start_campaign
from tests.waiting import until
from workers.feeder import Feeder


@pytest.fixture
def current(database_url: str, redis_url: str) -> Settings:
    return make_settings(database_url, redis_url, engine={"threads": 2, "claim_rows": 10, "feeder_ms": 20})


def tickets(current: Settings, queue: str = "email") -> list[int]:
    """The campaigns of the tickets in a queue, oldest first."""
    return [campaign for _, _, named in arguments(current, queue) for campaign, _ in named]


def arguments(current: Settings, queue: str) -> list[list[Any]]:
    """What the tickets in a queue carry, oldest first."""
    client = redis.Redis.from_url(current.redis_url)
    ids = client.lrange(f"notifier:{queue}", 0, -1)
    found = [json.loads(client.hget(f"notifier:{queue}.msgs", one))["args"] for one in ids]
    client.close()
    return found


def feed(feeder: Feeder, database: Database) -> int:
    with database.engine.connect() as connection:
        connection.execute(text("SET ROLE notifier_staff"))
        issued = feeder.feed(connection)
        connection.commit()
    return issued


def test_small_campaigns_come_before_the_second_ticket_of_a_large_one(database: Database, current: Settings):
    large = start_campaign(database, current, [person(number, phone=None) for number in range(200)], 1)
    small = [start_campaign(database, current, [person(number, phone=None)], number) for number in (2, 3)]
    feeder = Feeder(current)
    assert feed(feeder, database) == 4, "twice the worker slots"
    assert tickets(current) == [large.id, small[0].id, small[1].id, large.id]


def test_where_more_campaigns_wait_than_there_are_tickets_each_gets_one_row_first(
    database: Database, current: Settings
):
    campaigns = [start_campaign(database, current, [person(1), person(2)], number) for number in range(1, 7)]
    feeder = Feeder(current)
    assert feed(feeder, database) == 1, "one ticket names many campaigns"
    assert tickets(current) == [campaign.id for campaign in campaigns]
    [[_, rows, _]] = arguments(current, "email")
    assert rows == 1
    with database.staff() as session:  # the first message of each is out, and a second one is due
        session.execute(
            text(
                "UPDATE delivery SET state = 'accepted', due_at = NULL WHERE id IN "
                "(SELECT min(id) FROM delivery WHERE channel = 'email' GROUP BY campaign_id)"
            )
        )
    redis.Redis.from_url(current.redis_url).flushall()
    feed(feeder, database)
    assert {rows for _, rows, _ in arguments(current, "email")} == {10}
    assert tickets(current) == [campaign.id for campaign in campaigns[:4]]


@pytest.mark.parametrize(
    ("shut", "tickets_left"),
    [
        ("INSERT INTO hold (scope, reason, by) VALUES ('provider:smtp', 'test', 'cli:test')", 0),
        ("INSERT INTO hold (scope, reason, by) VALUES ('provider:another', 'test', 'cli:test')", 1),
        (
            "INSERT INTO breaker (scope, state, level, failures, until, reason) "
            "VALUES ('provider:smtp', 'open', 0, 1, now() + interval '1 hour', 'test')",
            0,
        ),
        (
            "INSERT INTO breaker (scope, state, level, failures, until, reason) "
            "VALUES ('provider:smtp', 'open', 0, 1, now(), 'its time is over: the next call is a probe')",
            1,
        ),
    ],
)
def test_a_provider_that_would_take_nothing_gets_no_tickets(
    database: Database, current: Settings, shut: str, tickets_left: int
):
    start_campaign(database, current, [person(1, phone=None)])
    with database.staff() as session:
        session.execute(text(shut))
    feed(Feeder(current), database)
    assert len(tickets(current)) == tickets_left


def test_a_campaign_that_starts_does_not_wait_for_the_next_look(
    database: Database, database_url: str, redis_url: str
):
    current = make_settings(database_url, redis_url, engine={"feeder_ms": 3_600_000})
    stop = threading.Event()
    running = threading.Thread(target=Feeder(current).run, args=(stop,))
    running.start()
    try:
        with database.staff() as session:
            while session.scalar(text("SELECT count(*) FROM heartbeat WHERE process = 'feeder'")) == 0:
                stop.wait(0.02)
        start_campaign(database, current, [person(1, phone=None)])
        client = redis.Redis.from_url(redis_url)
        assert client.brpop("notifier:email", timeout=30) is not None
        client.close()
    finally:
        stop.set()
        with database.staff() as session:
            session.execute(store.WAKE)
        running.join()


def test_a_test_send_gets_a_ticket_and_another_only_if_that_was_lost(database: Database, current: Settings):
    campaign = make_campaign(database, current, [person(1)])
    number = ask_test(database, current, campaign)
    feeder = Feeder(current)
    for _ in range(3):
        feed(feeder, database)
    assert arguments(current, "control") == [[1, number, "email"]]
    redis.Redis.from_url(current.redis_url).flushall()
    feed(Feeder(current), database)  # another feeder, as after a restart, knows of no ticket
    assert arguments(current, "control") == [[1, number, "email"]]


def test_the_queue_stays_shallow_however_often_it_is_fed(database: Database, current: Settings):
    for number in (1, 2):
        start_campaign(database, current, [person(one, phone=None) for one in range(150)], number)
    feeder = Feeder(current)
    for _ in range(5):
        feed(feeder, database)
    assert len(arguments(current, "email")) == 4


def test_a_campaign_with_little_due_gets_one_ticket(database: Database, current: Settings):
    start_campaign(database, current, [person(number, phone=None) for number in range(3)])
    assert feed(Feeder(current), database) == 1


def test_what_is_paused_stopped_or_not_due_gets_none(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    feeder = Feeder(current)
    with database.staff() as session:
        controlling.hold(session, "channel:email", actor="cli:test", reason="test", now=datetime.now(UTC))
    assert feed(feeder, database) == 0
    with database.staff() as session:
        controlling.lift(session, "channel:email", actor="cli:test")
        session.execute(text("UPDATE due SET at = now() + interval '1 hour'"))
    assert feed(feeder, database) == 0
    with database.staff() as session:
        session.execute(text("UPDATE due SET at = now()"))
        controlling.pause(session, campaign.id, actor="cli:test", reason="test")
    assert feed(feeder, database) == 0


LEADERS = (
    "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
    "WHERE l.locktype = 'advisory' AND l.objid = 7303 AND l.granted AND d.datname = current_database()"
)


def leaders(database: Database) -> list[int]:
    """The server processes of those who lead."""
    with database.staff() as session:
        return list(session.scalars(text(LEADERS)))


@contextmanager
def running(*feeders: Feeder) -> Iterator[list[threading.Thread]]:
    stop = threading.Event()
    threads = [threading.Thread(target=feeder.run, args=(stop,), daemon=True) for feeder in feeders]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_a_feeder_whose_connection_is_ended_leads_again(database: Database, current: Settings):
    """Most of its time it waits on that connection."""
    with running(Feeder(current)) as [thread]:
        for _ in range(3):
            until(lambda: leaders(database) != [])
            [pid] = leaders(database)
            with database.engine.begin() as connection:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            until(lambda pid=pid: leaders(database) not in ([], [pid]))  # type: ignore[misc]
            assert thread.is_alive()


class Frozen(Feeder):
    """Stops in the middle of a look, as a paused machine does, until it is told to go on."""

    def __init__(self, current: Settings) -> None:
        super().__init__(current)
        self.is_frozen, self.thaw = threading.Event(), threading.Event()

    def feed(self, connection: Connection) -> int:
        self.is_frozen.set()
        assert self.thaw.wait(60)
        return super().feed(connection)


def test_the_lead_of_a_feeder_that_froze_goes_to_another(
    database: Database, current: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers.feeder, "_SILENT_S", 0.2)
    start_campaign(database, current, [person(1, phone=None)])
    frozen = Frozen(current)
    with running(frozen) as [first]:
        assert frozen.is_frozen.wait(30)
        with running(Feeder(current)) as [second]:
            until(lambda: tickets(current) != [])
            frozen.thaw.set()
            until(lambda: len(leaders(database)) == 1)
            assert first.is_alive()
            assert second.is_alive()


def test_of_three_feeders_one_leads_and_another_takes_over(database: Database, current: Settings):
    start_campaign(database, current, [person(1, phone=None)])
    stops = [threading.Event() for _ in range(3)]
    feeders = [Feeder(current) for _ in stops]
    threads = [
        threading.Thread(target=feeder.run, args=(stop,)) for feeder, stop in zip(feeders, stops, strict=True)
    ]
    for thread in threads:
        thread.start()

    until(lambda: leaders(database) != [])
    assert len(leaders(database)) == 1
    for stop, thread in zip(stops, threads, strict=True):
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
    assert tickets(current) != []
    assert {channel for channel in Channel if tickets(current, channel)} == {Channel.EMAIL}
