"""Puts right what crashed or fell silent: leases, uncertain rows, receipts, results, outcomes.

Works in small batches and under load. Any number may run; row locks and one advisory lock keep them apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from notifier import controlling, fallback, profiles, receipts, schedule, store
from notifier.settings import Settings
from notifier.states import Channel
from workers.resources import PROFILE

log = structlog.get_logger()
BATCH = 1000
#: expired leases settled in one round: each holds some hundred deliveries
LEASES = 20

#: A sweeper asks the database again within milliseconds. One that froze, or whose machine went away, must not keep
#: its locks until the network notices, which takes hours.
_SILENT_S = 10.0
_END_WHEN_SILENT = text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)")
_NEXT_CAMPAIGN = text("SELECT min(id) FROM campaign WHERE started_at IS NOT NULL AND id > :after")


class Sweeper:
    """One round at a time; `run` does them for ever."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._profile = profiles.load(PROFILE, settings.config_dir)
        self._rules = {channel: schedule.rules(self._profile, channel, settings.time_scale) for channel in Channel}
        self._database = store.Database(settings.sqlalchemy_url, pool_size=2)
        self._audited = 0

    def run(self, stop: threading.Event) -> None:
        """Sweeps at the set interval, at once again while there is a backlog."""
        while not stop.is_set():
            if self.sweep() < BATCH:
                stop.wait(self._settings.engine.sweeper_ms / 1000)

    def sweep(self) -> int:
        """One round; returns the size of the largest batch.

        Each part is a transaction of its own and stands alone: trouble in one must not keep the others from
        their work. Only a round without trouble counts as a sign of life.
        """
        parts = (self._return_leases, self._apply_receipts, self._settle, self._pause_bouncing, self._audit)
        sizes = [self._do(part) for part in parts]
        if None not in sizes:
            self._do(self._beat)
        return max((size for size in sizes if size is not None), default=0)

    def _do(self, part: Callable[[Session], int]) -> int | None:
        """One part, to its commit; None if there was trouble."""
        try:
            with self._database.staff() as session:
                session.execute(_END_WHEN_SILENT, {"ms": f"{1000 * _SILENT_S:.0f}ms"})
                size = part(session)
        except (SQLAlchemyError, OSError) as error:
            log.warning("sweeper_waits", part=part.__name__.strip("_"), error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a bug met by one row must not end all sweeping
            log.error("sweeper_failed", part=part.__name__.strip("_"), error=type(error).__name__)
        else:
            return size
        return None

    def _beat(self, session: Session) -> int:
        session.execute(store.BEAT, {"process": "sweeper"})
        return 0

    def _audit(self, session: Session) -> int:
        """One campaign a round: whether a hint or a lease was lost. None ever should be, so it is told loudly."""
        self._audited = session.scalar(_NEXT_CAMPAIGN, {"after": self._audited}) or 0
        if not self._audited:
            return 0
        quiet = {channel: rules.unknown_quiet for channel, rules in self._rules.items()}
        older = timedelta(seconds=2 * self._settings.engine.lease_s)
        if orphans := store.adopt(session, self._audited, quiet=quiet, older=older):
            log.error("leases_were_missing", campaign=self._audited, deliveries=orphans)
        if missing := store.rehint(session, self._audited):
            log.error("hints_were_missing", campaign=self._audited, deliveries=missing)
        return 0

    def _return_leases(self, session: Session) -> int:
        returned = store.sweep(
            session,
            quiet={channel: rules.unknown_quiet for channel, rules in self._rules.items()},
            max_crashes=self._settings.engine.max_crashes,
            leases=LEASES,
        )
        store.fold_tally(session)
        if returned:
            log.warning("leases_returned", rows=returned)
        return returned

    def _apply_receipts(self, session: Session) -> int:
        return receipts.apply(session, self._rules.__getitem__, now=datetime.now(UTC), limit=BATCH)

    def _settle(self, session: Session) -> int:
        settled = fallback.settle(session, self._profile, now=datetime.now(UTC), limit=BATCH)
        if settled.deliveries:
            log.info("settled", **settled.counts())
        # A hint names up to 500: another round may find more.
        return BATCH if settled.looked_at > BATCH // 2 else settled.looked_at

    def _pause_bouncing(self, session: Session) -> int:
        engine = self._settings.engine
        paused = controlling.pause_bouncing(session, limit=engine.bounce_limit, least=engine.bounce_least)
        if paused:
            log.warning("campaigns_paused", reason="bounces", campaigns=paused)
        return 0
