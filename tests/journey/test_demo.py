"""Whole runs: faults, killed workers and an emptied queue, a database that restarts. Nobody is lost in any."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from notifier.rehearsal.servers import Postgres
from tests.journey.conftest import assert_true_and_whole

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


def attempts(database) -> int:
    with database.staff() as session:
        return session.scalar(text("SELECT count(*) FROM attempt"))


def test_an_incident_runs_to_its_end_under_the_usual_faults_and_leaks_nothing(journey):
    canaries: set[bytes] = set()

    def look(database, supervisor, stage):
        """Collects what a person's data looks like, and searches the queue while it is at work."""
        if not canaries:
            canaries.update(_personal_values(stage.data_dir / "incident"))
        assert not _found(canaries, _all_of_redis(stage.environment["REDIS_URL"]))

    def check(stage, _):
        logs = b"".join(path.read_bytes() for path in (stage.data_dir / "log").iterdir())
        assert len(logs) > 1000
        assert not _found(canaries, logs)
        assert not _found(canaries, _get(stage.api_url + "/metrics"))

    report = journey(look=look, check=check)
    assert_true_and_whole(report)
    assert len(canaries) > 500
    assert report["informed"] > 150


def test_workers_killed_and_a_queue_emptied_in_mid_run_lose_nobody(journey):
    """Each worker is killed twice, the queue emptied in between; the drill does each alone."""
    killed: list[int] = []
    flushed: list[int] = []

    def look(database, supervisor, stage):
        tried = attempts(database)
        for name in ("email-0", "sms-0"):
            pid = supervisor.pid(name)
            if pid and pid not in killed and len(killed) < 4 and tried > 30 * (1 + len(killed)):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        if len(flushed) < 3 and tried > 40 * (1 + len(flushed)):
            with redis.Redis.from_url(stage.environment["REDIS_URL"]) as client:
                client.flushall()
            flushed.append(tried)

    assert_true_and_whole(journey(look=look))
    assert len(killed) > 2
    assert flushed


def test_a_database_killed_in_mid_run_loses_nobody(journey):
    restarted: list[bool] = []

    def look(database, supervisor, stage):
        if not restarted and attempts(database) > 60:
            server = Postgres(stage.data_dir)
            server.kill()
            server.start()
            database.engine.dispose()
            restarted.append(True)

    assert_true_and_whole(journey(look=look))
    assert restarted


def _personal_values(folder: Path) -> set[bytes]:
    """Names, addresses and numbers of the made-up people, as they may appear anywhere."""
    import json

    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    values: set[bytes] = set()
    for person in truth["people"]:
        values |= {address.encode() for address in person["email"]}
        values |= {number.removeprefix("+33").encode() for number in person["sms"]}
        values |= {
            f"{person['first']} {person['last']}".encode(),
            person["born"].encode(),
            person["address"][0].encode(),
        }
    return {value for value in values if value}


def _found(canaries: set[bytes], haystack: bytes) -> list[bytes]:
    return [value for value in canaries if value in haystack]


def _all_of_redis(url: str) -> bytes:
    client = redis.Redis.from_url(url)
    parts: list[bytes] = []
    for key in client.scan_iter():
        kind = client.type(key)
        parts.append(key)
        if kind == b"hash":
            parts += [part for pair in client.hgetall(key).items() for part in pair]
        elif kind == b"list":
            parts += client.lrange(key, 0, -1)
        elif kind == b"set":
            parts += client.smembers(key)
        elif kind == b"string":
            parts.append(client.get(key) or b"")
    client.close()
    return b"\0".join(parts)


def _get(url: str) -> bytes:
    import httpx

    answer = httpx.get(url, timeout=10)
    assert answer.status_code == 200
    return answer.content
