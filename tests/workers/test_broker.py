"""The queue's promises: tickets only, every loss of Redis survived, an unfit Redis refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from dramatiq.errors import ConnectionClosed

from notifier import startup
from notifier.errors import SealingError, ServiceError, SettingsError
from notifier.rehearsal.servers import Valkey
from notifier.sealing import MasterKey
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_campaign, make_settings, person
from workers import broker as brokers
from workers.tasks import VERSION, Tasks

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_ticket_carries_ids_only_and_is_small(redis_url: str):
    broker = brokers.make(redis_url)
    Tasks(broker).send[Channel.EMAIL].send(VERSION, 50, [[7, 3]])
    client = redis.Redis.from_url(redis_url)
    [message] = client.hvals("notifier:email.msgs")
    assert b'"args":[2,50,[[7,3]]]' in message
    assert b'"kwargs":{}' in message
    assert len(message) < 400
    broker.close()


def test_every_channel_has_a_queue_and_every_actor_keeps_its_name(redis_url: str):
    """Messages of an older release must find their actor: these names are a promise."""
    broker = brokers.make(redis_url)
    Tasks(broker)
    assert broker.get_declared_queues() == {"control", *Channel}
    assert sorted(broker.get_declared_actors()) == ["send_email", "send_sms", "send_test"]


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


def test_what_was_handed_over_in_an_answer_that_got_lost_is_forgotten(redis_url: str):
    """Nobody would ever acknowledge it: it would count as taken until the process ends."""
    broker = brokers.make(redis_url)
    tickets = Tasks(broker)
    for campaign in (1, 2, 3):
        tickets.send[Channel.EMAIL].send(VERSION, 50, [[campaign, 1]])
    first = broker.consume("email", prefetch=1, timeout=100)
    in_hand = next(first)
    broker.do_fetch("email", 1)  # its answer got lost, and with it the connection
    client = redis.Redis.from_url(redis_url)
    acks = f"notifier:__acks__.{broker.broker_id}.email"
    assert (client.scard(acks), client.hlen("notifier:email.msgs")) == (2, 3)
    second = broker.consume("email", prefetch=1, timeout=100)
    assert (client.scard(acks), client.hlen("notifier:email.msgs")) == (0, 1)
    second.ack(in_hand)  # it was at work all the while
    second.ack(next(second))
    assert (client.scard(acks), client.hlen("notifier:email.msgs")) == (0, 0)
    assert client.zcard("notifier:email.XQ") == 0
    client.close()
    broker.close()


def test_a_consumer_that_comes_back_while_redis_is_away_waits(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    broker = brokers.make(redis_url)

    def away(*_: object) -> None:
        raise redis.TimeoutError("x")

    monkeypatch.setattr(broker.client, "smembers", away)
    with pytest.raises(ConnectionClosed):
        broker.consume("email")
    broker.close()


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[str]:
    """The address of a server that drops keys when its memory is full."""
    server = Valkey(tmp_path, maxmemory_policy="allkeys-lru")
    yield server.start()
    server.stop()


@pytest.fixture
def user(redis_url: str) -> Iterator[Callable[..., str]]:
    """Makes users of the test's Redis that may run all but the commands given; returns their address."""
    admin = redis.Redis.from_url(redis_url)

    def make(*forbidden: str) -> str:
        admin.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", *forbidden)
        return redis_url.replace("redis://", "redis://limited:secret@")

    yield make
    admin.execute_command("ACL", "DELUSER", "limited")
    admin.close()


def test_a_redis_that_may_throw_work_away_is_refused_by_name(forgetful: str):
    with pytest.raises(ServiceError, match=r"maxmemory-policy allkeys-lru.*noeviction"):
        startup.check_redis(forgetful)


def test_a_redis_that_is_away_is_named(redis_url: str):
    startup.check_redis(redis_url)
    with pytest.raises(ServiceError, match="Redis does not answer at REDIS_URL"):
        startup.check_redis("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "http://x", "127.0.0.1:6379", "redis://127.0.0.1:port", "redis://127.0.0.1:99999"),
        *("redis://127.0.0.1/0?no_such_option=1", "redis://127.0.0.1/0?socket_timeout=soon"),
        f"redis://secret@{'a' * 70}.example.org",
    ],
)
def test_a_malformed_address_is_a_wrong_setting_whose_password_is_not_repeated(url: str):
    with pytest.raises(SettingsError, match="REDIS_URL is not the address of a Redis") as raised:
        startup.check_redis(url)
    assert "secret" not in raised.value.message


def test_a_wrong_password_is_said_and_not_taken_for_a_server_that_is_away(user: Callable[..., str]):
    with pytest.raises(ServiceError, match="refuses the user or password in REDIS_URL") as raised:
        startup.check_redis(user().replace("secret", "another"))
    assert "another" not in raised.value.message


@pytest.mark.parametrize("forbidden", [["-config"], ["-info"]])
def test_a_user_that_may_read_one_of_info_and_config_is_enough(user: Callable[..., str], forbidden: list[str]):
    startup.check_redis(user(*forbidden))


def test_a_user_that_may_read_neither_is_told_what_to_allow(user: Callable[..., str]):
    with pytest.raises(ServiceError, match=r"neither INFO nor CONFIG GET.*\+info"):
        startup.check_redis(user("-config", "-info"))


def test_a_master_key_of_another_database_is_refused(database: Database, database_url: str, master: MasterKey):
    another = MasterKey(bytes(32))
    startup.check_master_key(database, another)  # nothing is sealed yet
    make_campaign(database, make_settings(database_url), [person(1)])
    startup.check_master_key(database, master)
    with pytest.raises(SealingError, match="is NOTIFIER_MASTER_KEY the one this database was made with"):
        startup.check_master_key(database, another)


def test_no_work_waits_in_the_queue_with_a_delay():
    """Delays, retries and results of the queue lose or double work; the row in the database waits instead."""
    forbidden = re.compile(r"\bdelay=|send_with_options|\beta\b|Results\(|Barrier|GroupCallbacks|rate_limits")
    for path in (ROOT / "workers").glob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path.name
