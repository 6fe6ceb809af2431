"""The sweeper: nothing of it can hold up the others for ever."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

import workers.sweeper
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_settings
from workers.sweeper import Sweeper


@pytest.fixture
def current(database_url: str, redis_url: str) -> Settings:
    return make_settings(database_url, redis_url)


CANARY = "canary.person@example.org"


class Frozen(Sweeper):
    """Stops in the middle of a transaction, as a paused machine does, until it is told to go on."""

    def __init__(self, current: Settings) -> None:
        super().__init__(current)
        self.is_frozen, self.thaw = threading.Event(), threading.Event()

    def _settle(self, session: Session) -> int:
        super()._settle(session)
        self.is_frozen.set()
        assert self.thaw.wait(60)
        return 0


def beats(database: Database) -> int:
    with database.staff() as session:
        return session.scalar(text("SELECT count(*) FROM heartbeat WHERE process = 'sweeper'"))


def test_what_a_sweeper_that_froze_holds_is_given_back(
    database: Database, current: Settings, monkeypatch: pytest.MonkeyPatch
):
    """Nobody can settle, replay or import a further list while it is held."""
    monkeypatch.setattr(workers.sweeper, "_SILENT_S", 0.2)
    frozen = Frozen(current)
    thread = threading.Thread(target=frozen.sweep, daemon=True)
    thread.start()
    assert frozen.is_frozen.wait(30)
    with database.staff() as session:
        session.execute(text("SET LOCAL lock_timeout = '30s'"))
        session.execute(text("SELECT pg_advisory_xact_lock(7302)"))
    frozen.thaw.set()
    thread.join(30)
    assert not thread.is_alive()
    assert beats(database) == 0
    frozen.sweep()
    assert beats(database) == 1, "it goes on by itself"


@pytest.mark.parametrize("part", ["_return_leases", "_apply_receipts", "_settle", "_pause_bouncing", "_audit"])
def test_trouble_in_one_part_keeps_no_other_from_its_work(
    database: Database,
    current: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
):
    """A bug met by one row would otherwise end the sweeper at each of its starts."""
    parts = ["_return_leases", "_apply_receipts", "_settle", "_pause_bouncing", "_audit"]
    done = []
    for name in parts:

        def work(self: Sweeper, session: Session, name: str = name) -> int:
            done.append(name)
            if name == part:
                raise KeyError(CANARY)
            return 3

        work.__name__ = name
        monkeypatch.setattr(Sweeper, name, work)
    assert Sweeper(current).sweep() == 3
    assert done == parts
    said = capsys.readouterr().out
    assert "sweeper_failed" in said
    assert "KeyError" in said
    assert CANARY not in said
    assert beats(database) == 0, "such a sweeper is not at work"
