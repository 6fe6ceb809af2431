"""What is wrong, in words for everybody; and Redis, looked at without waiting for one that hangs."""

from __future__ import annotations

import json
import socket
import time

import pytest
import redis

from notifier import watching
from notifier.settings import ROOT
from notifier.watching import ADVICE, RedisWatch, advice_key, queues
from notifier.web.texts import Texts
from tests.notifier.cli.test_queue import ENGINES, IDLE, PERSONS, STATUS

TEXTS = Texts(ROOT / "templates" / "web" / "texts")
EVERYTHING_WRONG = STATUS | {
    "redis_unfit": "x", "tickets": None, "workers_alive": 0, "workers": [], "feeder_age_s": 90.0,
    "sweeper_age_s": None, "tests_waiting": 1, "holds": [PERSONS, ENGINES], "quarantined": 2,
    "without_key": [{"key": "1a2b3c4d", "processes": ["worker:email:host:1:ab"]}],
    "breakers": [{"scope": "receiver:orange", "state": "open", "reason": "x"}],
    "paused": [{"campaign": 4, "reason": None}],
    "refused": [{"provider": "brevo-sms", "code": "http_402", "count": 12}],
    "due": {"sms": {"pending": 9, "due": 9, "oldest_due_s": 300.0}, "email": {"pending": 9, "due": 9, "oldest_due_s": 300.0}},
}  # fmt: skip


def codes(status: dict) -> list[str]:
    return [one.code for one in watching.wrong(status)]


def test_everything_wrong_has_words_in_every_language():
    carried_by_another = {"workers_alive": 1, "workers": [{"process": "w", "age_s": 1.0, "channels": ["email"]}]}
    found = [*codes(EVERYTHING_WRONG), *codes(EVERYTHING_WRONG | carried_by_another | {"holds": []}), "unheard"]
    for words in TEXTS.all.values():
        known = {key.rpartition(".")[2] for key in words if key.startswith("operations.wrong.")}
        assert known == set(found), "no word without its wrong, no wrong without its word"
        assert {key.rpartition(".")[2] for key in words if key.startswith("operations.do.")} == known
        assert {key.rpartition(".")[2] for key in words if key.startswith("operations.advice.")} == set(ADVICE)


def test_an_idle_system_has_nothing_wrong():
    assert codes(STATUS | IDLE) == []


def test_a_stop_explains_what_is_due():
    late = {"due": {"email": {"pending": 9, "due": 9, "oldest_due_s": 300.0}}}
    assert codes(STATUS | late) == ["late"]
    assert codes(STATUS | late | {"holds": [PERSONS | {"scope": "provider:smtp"}]}) == ["stopped"]


@pytest.mark.parametrize(
    ("code", "key"),
    [("http_402", "credit"), ("smtp_535_5.7.8", "key"), ("smtp_550_5.7.1", "sender"), ("http_429", "slower"), ("?", "other")],
)  # fmt: skip
def test_a_code_leads_to_advice(code: str, key: str):
    assert advice_key(code) == key


def test_queues_are_counted_as_dramatiq_keeps_them(redis_url: str):
    client = redis.Redis.from_url(redis_url)
    since = int(time.time() * 1000) - 90_000
    client.rpush("notifier:email", "old", "new")
    kept = {"old": json.dumps({"message_timestamp": since}), "new": "{}", "held": "{}", "lost": "{}"}
    client.hset("notifier:email.msgs", mapping=kept)
    client.sadd("notifier:__acks__.worker-1.email", "held")
    client.hset("notifier:sms.DQ.msgs", "later", "{}")
    client.zadd("notifier:sms.XQ", {"dead": 1})
    client.zadd("notifier:__heartbeats__", {"worker-1": time.time() * 1000, "gone": 1})
    client.close()
    found = queues(redis_url)
    assert found is not None
    email, sms = found.queues["email"], found.queues["sms"]
    assert (email.waiting, email.unacked, email.orphaned, email.delayed, email.dead) == (2, 1, 1, 0, 0)
    assert 90 <= email.oldest_s < 900
    assert (sms.delayed, sms.dead, sms.oldest_s) == (1, 1, 0)
    assert (found.consumers, found.evicted) == (1, 0)
    assert found.used_bytes > 0


def test_a_redis_that_hangs_keeps_nobody_waiting():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        watch = RedisWatch(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert watch.read() == {"tickets": None, "redis_unfit": None, "queues": None}
        assert watch._thread is not None
        assert watch._thread.is_alive(), "it still waits, in a thread of its own"
        assert watch.read()["tickets"] is None
