"""The feeder: due rows become tickets, nobody waits for a larger campaign, and one leads of many."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import redis
from sqlalchemy import text

from notifier import controlling
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign
from workers.feeder import Feeder


@pytest.fixture
def current(database_url: str, redis_url: str) -> Settings:
    return make_settings(database_url, redis_url, engine={"threads": 2, "claim_rows": 10, "feeder_ms": 20})


def tickets(current: Settings, queue: str = "email") -> list[int]:
    """The campaigns of the tickets in a queue, oldest first."""
    import json

    client = redis.Redis.from_url(current.redis_url)
    ids = client.lrange(f"notifier:{queue}", 0, -1)
    found = [json.loads(client.hget(f"notifier:{queue}.msgs", one))["args"][1] for one in ids]
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


def test_who_was_served_longest_ago_comes_first(database: Database, current: Settings):
    campaigns = [start_campaign(database, current, [person(1)], number) for number in range(1, 7)]
    feeder = Feeder(current)
    feed(feeder, database)
    first = tickets(current)
    redis.Redis.from_url(current.redis_url).flushall()
    feed(feeder, database)
    assert first == [campaign.id for campaign in campaigns[:4]]
    assert tickets(current)[:2] == [campaign.id for campaign in campaigns[4:]]


def test_the_queue_stays_shallow_however_often_it_is_fed(database: Database, current: Settings):
    start_campaign(database, current, [person(number, phone=None) for number in range(150)])
    feeder = Feeder(current)
    for _ in range(5):
        feed(feeder, database)
    assert len(tickets(current)) == 4


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
        session.execute(text("UPDATE delivery SET due_at = now() + interval '1 hour'"))
    assert feed(feeder, database) == 0
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now()"))
        controlling.pause(session, campaign.id, actor="cli:test", reason="test")
    assert feed(feeder, database) == 0


def test_of_three_feeders_one_leads_and_another_takes_over(database: Database, current: Settings):
    start_campaign(database, current, [person(1, phone=None)])
    stops = [threading.Event() for _ in range(3)]
    feeders = [Feeder(current) for _ in stops]
    threads = [
        threading.Thread(target=feeder.run, args=(stop,)) for feeder, stop in zip(feeders, stops, strict=True)
    ]
    for thread in threads:
        thread.start()

    def leaders() -> int:
        with database.staff() as session:
            return session.scalar(
                text(
                    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                    "WHERE l.locktype = 'advisory' AND l.objid = 7303 AND l.granted AND d.datname = current_database()"
                )
            )

    wait = threading.Event()
    while leaders() == 0:
        wait.wait(0.02)
    assert leaders() == 1
    for stop, thread in zip(stops, threads, strict=True):
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
    assert tickets(current) != []
    assert {channel for channel in Channel if tickets(current, channel)} == {Channel.EMAIL}
