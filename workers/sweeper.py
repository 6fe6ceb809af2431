"""Puts right what crashed or fell silent: leases, uncertain rows, receipts, results, outcomes.

Works in small batches and under load. Any number may run; row locks and one advisory lock keep them apart.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier import fallback, profiles, receipts, schedule, store
from notifier.settings import Settings
from notifier.states import Channel
from workers.resources import PROFILE

log = structlog.get_logger()
BATCH = 1000


class Sweeper:
    """One round at a time; `run` does them for ever."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._profile = profiles.load(PROFILE, settings.config_dir)
        self._rules = {channel: schedule.rules(self._profile, channel, settings.time_scale) for channel in Channel}
        self._database = store.Database(settings.sqlalchemy_url, pool_size=2)

    def run(self, stop: threading.Event) -> None:
        """Sweeps at the set interval, at once again while there is a backlog."""
        while not stop.is_set():
            busy = False
            try:
                busy = self.sweep() >= BATCH
            except (SQLAlchemyError, OSError) as error:
                log.warning("sweeper_waits", error=type(error).__name__)
            if not busy:
                stop.wait(self._settings.engine.sweeper_ms / 1000)

    def sweep(self) -> int:
        """One round in transactions of their own; returns the size of the largest batch."""
        now = datetime.now(UTC)
        with self._database.staff() as session:
            session.execute(store.BEAT, {"process": "sweeper"})
            returned = store.sweep(
                session,
                quiet={channel: rules.unknown_quiet for channel, rules in self._rules.items()},
                lease=timedelta(seconds=self._settings.engine.lease_s),
                max_crashes=self._settings.engine.max_crashes,
                limit=BATCH,
            )
        with self._database.staff() as session:
            applied = receipts.apply(session, self._rules.__getitem__, now=now, limit=BATCH)
        with self._database.staff() as session:
            settled = fallback.settle(session, self._profile, now=now, limit=BATCH)
        if returned or settled.deliveries:
            log.info("swept", returned=returned, receipts=applied, **settled.counts())
        return max(returned, applied, settled.deliveries)
