"""Turns due rows into tickets: round-robin over campaigns, so that no doctor waits for a larger one.

The due rows are the outbox. The depth of each queue stays below twice the worker slots; losing all tickets
costs one round. Any number of feeders may run: one leads, by a lock of the database's connection.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import redis
import structlog
from dramatiq.errors import BrokerConnectionError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from notifier import store
from notifier.settings import Settings
from notifier.states import Channel
from workers import broker as brokers
from workers.tasks import VERSION, Tasks

log = structlog.get_logger()

_LEADER = 7303
#: a worker seen within this is counted as a slot-holder
_ALIVE_S = 10


class Feeder:
    """One round at a time; `run` does them for ever."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker = brokers.make(settings.redis_url or "")
        self._tasks = Tasks(self._broker)
        self._database = store.Database(settings.sqlalchemy_url, pool_size=2)
        # Who was served longest ago comes first; a new campaign comes before all.
        self._served: dict[Channel, OrderedDict[int, None]] = {channel: OrderedDict() for channel in Channel}

    def run(self, stop: threading.Event) -> None:
        """Feeds while it leads; tries again when the database or Redis is away."""
        every = self._settings.engine.feeder_ms / 1000
        while not stop.is_set():
            try:
                self._lead(stop, every)
            except (SQLAlchemyError, BrokerConnectionError, redis.RedisError, OSError) as error:
                log.warning("feeder_waits", error=type(error).__name__)
            stop.wait(1)

    def _lead(self, stop: threading.Event, every: float) -> None:
        # The lock belongs to this connection: it ends with the process or the network, by itself.
        with self._database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LEADER}):
                return
            connection.execute(text("SET ROLE notifier_staff"))
            log.info("feeder_leads")
            try:
                while not stop.is_set():
                    started = time.monotonic()
                    self.feed(connection)
                    stop.wait(max(every - (time.monotonic() - started), 0.01))
            finally:
                connection.invalidate()  # a pooled connection must not keep the lock or the role

    def feed(self, connection: Connection) -> int:
        """One round: tops every queue up to twice the worker slots; returns the tickets issued."""
        connection.execute(store.BEAT, {"process": "feeder"})
        most = 2 * max(store.live_workers(connection, _ALIVE_S), 1) * self._settings.engine.threads
        issued = 0
        for channel in Channel:
            room = most - int(self._broker.do_qsize(str(channel)))
            if room <= 0:
                continue
            epochs = store.due_campaigns(connection, channel)
            for campaign_id in self._turns(connection, channel, list(epochs), room):
                self._tasks.send[channel].send(VERSION, campaign_id, epochs[campaign_id])
                issued += 1
        return issued

    def _turns(self, connection: Connection, channel: Channel, due: list[int], room: int) -> list[int]:
        """Whose turn it is: a ticket for each due campaign, the longest unserved first; what room is left goes
        round again among those that have more due than one ticket takes."""
        served = self._served[channel]
        for campaign_id in served.keys() - set(due):
            del served[campaign_id]
        turns = [*(campaign_id for campaign_id in due if campaign_id not in served), *served][:room]
        for campaign_id in turns:
            served.pop(campaign_id, None)
            served[campaign_id] = None
        if not turns or len(turns) == room:
            return turns
        rows = self._settings.engine.claim_rows
        left = store.due_counts(connection, channel, turns, most=rows * room)
        more = [campaign_id for turn in range(1, room) for campaign_id in turns if left[campaign_id] > turn * rows]
        return (turns + more)[:room]
