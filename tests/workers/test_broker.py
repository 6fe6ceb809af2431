"""The queue's promises: tickets only, every loss of Redis survived, an unfit Redis refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from dramatiq.errors import ConnectionClosed

from notifier.errors import ServiceError
from notifier.rehearsal.servers import Valkey
from notifier.states import Channel
from workers import broker as brokers
from workers.tasks import VERSION, Tasks

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_ticket_carries_ids_only_and_is_small(redis_url: str):
    broker = brokers.make(redis_url)
    Tasks(broker).send[Channel.EMAIL].send(VERSION, 7, 3)
    client = redis.Redis.from_url(redis_url)
    [message] = client.hvals("notifier:email.msgs")
    assert b'"args":[1,7,3]' in message
    assert b'"kwargs":{}' in message
    assert len(message) < 400
    broker.close()


def test_every_queue_has_a_channel_and_every_actor_keeps_its_name(redis_url: str):
    """Messages of an older release must find their actor: these names are a promise."""
    broker = brokers.make(redis_url)
    Tasks(broker)
    assert broker.get_declared_queues() == {str(channel) for channel in Channel}
    assert sorted(broker.get_declared_actors()) == ["send_email", "send_sms"]


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("x"),
        redis.TimeoutError("x"),
        redis.exceptions.ReadOnlyError("x"),
        redis.exceptions.OutOfMemoryError("x"),
    ],
)
def test_every_way_redis_can_be_away_is_a_closed_connection(redis_url: str, monkeypatch, error: Exception):
    broker = brokers.make(redis_url)

    def away(*_: object, **__: object) -> None:
        raise error

    broker._max_unpack_size()
    monkeypatch.setattr(broker, "scripts", dict.fromkeys(broker.scripts, away))
    for command in ("fetch", "ack", "nack", "requeue", "qsize", "enqueue"):
        with pytest.raises(ConnectionClosed):
            getattr(broker, f"do_{command}")("email")


def test_a_redis_that_may_throw_work_away_is_refused_by_name(tmp_path):
    server = Valkey(tmp_path, maxmemory_policy="allkeys-lru")
    url = server.start()
    try:
        with pytest.raises(ServiceError, match=r"maxmemory-policy allkeys-lru.*noeviction"):
            brokers.check(url)
    finally:
        server.stop()


def test_a_redis_that_is_away_is_named(redis_url: str):
    brokers.check(redis_url)
    with pytest.raises(ServiceError, match="Redis does not answer at REDIS_URL"):
        brokers.check("redis://127.0.0.1:1/0")


def test_no_work_waits_in_the_queue_with_a_delay():
    """Delays, retries and results of the queue lose or double work; the row in the database waits instead."""
    forbidden = re.compile(r"\bdelay=|send_with_options|\beta\b|Results\(|Barrier|GroupCallbacks|rate_limits")
    for path in (ROOT / "workers").glob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path.name
