"""Turns due rows into tickets: round-robin over campaigns, so that no doctor waits for a larger one.

The due rows are the outbox. The depth of each queue stays below twice the worker slots; losing all tickets
costs one look. Any number of feeders may run: one leads, by a lock of the database's connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import psycopg
import redis
import structlog
from dramatiq.errors import BrokerConnectionError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from notifier import store, testsends
from notifier.providers.base import BatchProvider
from notifier.sending import HINT_ROWS
from notifier.settings import Settings
from notifier.states import Channel, Delivery
from workers import broker as brokers
from workers.resources import make_provider
from workers.tasks import TEST_VERSION, VERSION, Tasks
from workers.turns import LEAST_TURN, Turns

log = structlog.get_logger()

#: a leader that asks the database nothing for so long has lost the lead; longer than Redis may keep it waiting
_SILENT_S = 10.0
_END_WHEN_SILENT = text("SELECT set_config('idle_session_timeout', :ms, false)")
#: a worker seen within this is counted as a slot-holder
_ALIVE_S = 10
#: how often a queue that was filled to the brim is looked at: it may drain before the next look is due
_GLANCE_S = 0.025
#: a test send whose ticket was not taken within this gets another
_TEST_AGAIN_S = 5.0

#: A row of a tally that adds to another state was written by the end of a hand-over, or what followed one.
_BEGUN = text(
    f"""
    SELECT c.id FROM unnest(CAST(:campaigns AS bigint[])) AS c (id)
    WHERE EXISTS (
        SELECT FROM tally
        WHERE campaign_id = c.id AND channel = :channel AND n > 0
          AND state NOT IN ('{Delivery.PENDING}', '{Delivery.SENDING}')
    )
    """  # noqa: S608 - put together from our own states
)
#: Providers that would take nothing now. An open breaker whose time is over waits for the next call.
_SHUT = text(
    """
    SELECT scope FROM hold WHERE scope LIKE 'provider:%' AND (until IS NULL OR until > now())
    UNION ALL
    SELECT scope FROM breaker WHERE scope LIKE 'provider:%' AND state = 'open' AND until > now()
    """
)


class Feeder:
    """One look at a time; `run` does them for ever."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker = brokers.make(settings.redis_url or "")
        self._tasks = Tasks(self._broker)
        self._database = store.Database(settings.sqlalchemy_url, pool_size=2)
        providers = {channel: make_provider(settings, channel) for channel in Channel}
        self._scopes = {channel: f"provider:{provider.name}" for channel, provider in providers.items()}
        # A request that carries many messages should be full.
        batches = {
            channel: provider.batch_size if isinstance(provider, BatchProvider) else 1
            for channel, provider in providers.items()
        }
        self._turns = {
            channel: Turns(max(settings.engine.claim_rows, batch), max(LEAST_TURN, batch))
            for channel, batch in batches.items()
        }
        # Queues that have more to come, and the depth at which they get it at once.
        self._filled: dict[Channel, int] = {}
        self._tests: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Feeds while it leads; tries again when the database or Redis is away."""
        while not stop.is_set():
            try:
                self._lead(stop)
            # The driver's own errors too: it is asked for notifications directly.
            except (SQLAlchemyError, psycopg.Error, BrokerConnectionError, redis.RedisError, OSError) as error:
                log.warning("feeder_waits", error=type(error).__name__)
            stop.wait(1)

    def _lead(self, stop: threading.Event) -> None:
        # The lock belongs to this connection. It ends with the process; of a machine that froze or went away the
        # server hears nothing, for hours, and so ends the connection of a leader that has long been silent.
        with self._database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": store.Lock.FEEDER}):
                return
            silent_ms = max(1000 * _SILENT_S, 4 * self._settings.engine.feeder_ms)
            connection.execute(_END_WHEN_SILENT, {"ms": f"{silent_ms:.0f}ms"})
            connection.execute(text("SET ROLE notifier_staff"))
            connection.execute(store.LISTEN)
            log.info("feeder_leads")
            try:
                while not stop.is_set():
                    started = time.monotonic()
                    self.feed(connection)
                    self._rest(connection, stop, started + self._settings.engine.feeder_ms / 1000)
            finally:
                connection.invalidate()  # a pooled connection must not keep the lock or the role

    def _rest(self, connection: Connection, stop: threading.Event, until: float) -> None:
        """Waits for the next look, for a campaign that starts, or until a full queue has drained by half."""
        driver = connection.connection.driver_connection
        assert driver is not None, "the connection that holds the lead"
        # Many that start together cost one look each 10 ms, not one each.
        while not stop.wait(0.01) and (left := until - time.monotonic()) > 0:
            wait_s = min(left, _GLANCE_S) if self._filled else left
            has_started = any(driver.notifies(timeout=wait_s, stop_after=1))
            if has_started or any(self._waiting(channel) <= half for channel, half in self._filled.items()):
                return

    def feed(self, connection: Connection) -> int:
        """One look: tops every queue up to twice the worker slots; returns the tickets issued."""
        connection.execute(store.BEAT, {"process": "feeder"})
        self._feed_tests(connection)
        slots = max(store.live_workers(connection, _ALIVE_S), 1) * self._settings.engine.threads
        shut = set(connection.scalars(_SHUT))
        self._filled = {}
        return sum(
            self._feed_channel(connection, channel, slots)
            for channel in Channel
            if self._scopes[channel] not in shut
        )

    def _waiting(self, channel: Channel) -> int:
        """Tickets nobody has taken. dramatiq's own count holds those of dead workers too, for a minute or more."""
        return int(self._broker.client.llen(f"{brokers.NAMESPACE}:{channel}"))

    def _feed_channel(self, connection: Connection, channel: Channel, slots: int) -> int:
        turns = self._turns[channel]
        left = self._waiting(channel)
        turns.note(left, slots, time.monotonic())
        room = 2 * slots - left
        epochs = store.due_campaigns(connection, channel) if room > 0 else {}
        if not epochs:
            return 0

        def begun(campaigns: Sequence[int]) -> set[int]:
            return set(connection.scalars(_BEGUN, {"campaigns": list(campaigns), "channel": channel}))

        def counts(campaigns: Sequence[int]) -> dict[int, int]:
            # Enough for all of the room; what is out already is counted too.
            hints = max(4 * slots * turns.rows // HINT_ROWS, 1)
            return store.due_counts(connection, channel, campaigns, hints=hints)

        tickets = turns.plan(list(epochs), room, begun, counts)
        for ticket in tickets:
            named = [[campaign, epochs[campaign]] for campaign in ticket.campaigns]
            self._tasks.send[channel].send(VERSION, ticket.rows, named)
        if len(tickets) == room:
            self._filled[channel] = slots
        return len(tickets)

    def _feed_tests(self, connection: Connection) -> None:
        """A ticket for every test send that waits, and another later if that one was lost."""
        now = time.monotonic()
        waiting = testsends.waiting(connection)
        self._tests = {number: at for number, at in self._tests.items() if number in waiting}
        for number, channel in waiting.items():
            if now - self._tests.get(number, float("-inf")) >= _TEST_AGAIN_S:
                self._tasks.send_test.send(TEST_VERSION, number, channel)
                self._tests[number] = now
