"""Worker processes as they really run: they stop in time whatever is down, and say plainly what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from notifier.rehearsal.servers import Valkey
from notifier.store import Database
from tests.conftest import MASTER_KEY
from tests.factories import make_campaign, make_settings, person
from workers import main

ROOT = Path(__file__).resolve().parent.parent.parent


def start(role: str, database_url: str, redis_url: str, **changes: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "NOTIFIER_MASTER_KEY": MASTER_KEY,
        "NOTIFIER_ENGINE__SHUTDOWN_S": "6",
        **changes,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers.main", role], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def wait_for_heartbeat(database: Database, process: subprocess.Popen[str], role: str = "worker") -> None:
    for _ in range(400):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with database.staff() as session:
            if session.scalar(
                text("SELECT count(*) FROM heartbeat WHERE process LIKE :one"), {"one": f"{role}:%"}
            ):
                return
        time.sleep(0.05)
    raise AssertionError("the worker never came up")


def end(process: subprocess.Popen[str], within_s: float) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(within_s)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("role", ["worker", "control"])
def test_a_worker_stops_in_order_when_asked(database: Database, database_url: str, redis_url: str, role: str):
    process = start(role, database_url, redis_url)
    wait_for_heartbeat(database, process, role)
    with database.staff() as session:
        given = session.scalar(text("SELECT keys FROM heartbeat WHERE process LIKE :one"), {"one": f"{role}:%"})
    assert given == make_settings(database_url).master.fingerprint, "who lacks a key is known"
    assert end(process, 15) == 0


@pytest.mark.parametrize("shutting_down", [True, False])
def test_the_watchdog_does_not_take_a_shutdown_for_an_accident(monkeypatch, shutting_down: bool):
    """Consumers end when they are told to: dead ones are an accident only while nobody asked to stop."""
    stop, left = threading.Event(), []

    class Loop:
        def call_soon_threadsafe(self, answer: Callable[[], None]) -> None:
            if shutting_down or left:
                stop.set()  # between two looks of the watchdog
            answer()

    dead = SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr(main, "get_event_loop_thread", lambda: SimpleNamespace(loop=Loop()))
    monkeypatch.setattr(main, "_leave", lambda event, status: left.append((event, status)))
    main._watch(SimpleNamespace(consumers={"email": dead}), SimpleNamespace(is_whole=True), 0.01, stop)
    assert left == ([] if shutting_down else [("consumer_dead", main.STUCK)])


#: what only a bug of ours, or a library's, would do to what a process does all the while
BROKEN = """
import sys
from workers import control, main, resources
async def broken(self, *_):
    raise ZeroDivisionError
{where} = broken
sys.exit(main.main([sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("role", "where"),
    [
        ("worker", "resources.Gate.run"),  # nothing would be sent any more
        ("worker", "resources.Writer.run"),  # nothing would be written down
        ("worker", "resources.Limits.run"),
        ("worker", "resources.Resources._beat"),
        ("control", "control.Control._beat"),
    ],
)
def test_a_process_that_lost_a_part_of_itself_ends(database_url: str, redis_url: str, role: str, where: str):
    """It would look alive for ever and do nothing, or do it wrong."""
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "NOTIFIER_MASTER_KEY": MASTER_KEY,
        "NOTIFIER_ENGINE__WATCHDOG_S": "2",
    }
    program = BROKEN.format(where=where)
    process = subprocess.Popen(
        [sys.executable, "-c", program, role], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == main.STUCK
    assert "background_task_ended" in said
    assert "ZeroDivisionError" in said


def test_a_worker_stops_within_its_deadline_with_redis_down(database: Database, database_url: str, tmp_path):
    server = Valkey(tmp_path)
    process = start("worker", database_url, server.start())
    wait_for_heartbeat(database, process)
    server.kill()
    assert end(process, 15) == 0


@pytest.mark.parametrize(
    ("role", "changes", "said"),
    [
        ("worker", {"REDIS_URL": ""}, "REDIS_URL is not set"),
        ("control", {"REDIS_URL": "http://x"}, "REDIS_URL is not the address of a Redis"),
        ("feeder", {"NOTIFIER_MASTER_KEY": "short"}, "NOTIFIER_MASTER_KEY must be 64 hexadecimal digits"),
        ("sweeper", {"NOTIFIER_SMTP__PORT": "0"}, "NOTIFIER_SMTP__PORT"),
    ],
)
def test_a_missing_setting_or_a_dead_server_is_said_in_one_line(
    role: str, changes: dict[str, str], said: str, database_url: str, redis_url: str
):
    process = start(role, database_url, redis_url, **changes)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("role", ["worker", "control", "feeder", "sweeper"])
def test_a_master_key_of_another_database_ends_the_start(
    role: str, database: Database, database_url: str, redis_url: str
):
    make_campaign(database, make_settings(database_url), [person(1)])
    process = start(role, database_url, redis_url, NOTIFIER_MASTER_KEY="ff" * 32)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "is NOTIFIER_MASTER_KEY the one this database was made with?" in stderr
    assert "Traceback" not in stderr
