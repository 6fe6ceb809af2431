"""dramatiq's Redis broker with the behaviour we rely on; everything in it may vanish at any moment.

Tickets are hints: nothing but ids, no delays, no retries, no results. Defects of the broker that this
module answers: only `redis.ConnectionError` is taken for a lost connection (time-outs, a read-only replica
or a full memory end a consumer), a client made from a URL retries commands that are not idempotent, and tickets in
an answer that got lost count as taken until their process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dramatiq
import redis
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import AsyncIO, CurrentMessage, Middleware, Retries, ShutdownNotifications, TimeLimit

from notifier.startup import client

NAMESPACE = "notifier"
EMAIL, SMS = "email", "sms"
#: test sends, which wait for no campaign: a process of its own does them
CONTROL = "control"
#: backstop only: a ticket stops starting calls at two thirds of its lease
TIME_LIMIT_MS = 120_000

_LOST = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.TryAgainError,
)


class TicketBroker(RedisBroker):
    """Maps every way Redis can be away to dramatiq's own, so that a consumer waits and comes back."""

    def _dispatch(self, command: str) -> Callable[..., Any]:
        dispatch = super()._dispatch(command)  # type: ignore[no-untyped-call]  # dramatiq is partly typed

        def mapped(*args: Any) -> Any:
            try:
                return dispatch(*args)
            except _LOST as error:
                raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # as above

        return mapped

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A consumer, at first or after a lost connection.

        What this process was handed in an answer that got lost is forgotten: nobody would acknowledge it before
        the process ends, and the feeder issues it anew. What is at work now needs its message no more.
        """
        acks = f"{self.namespace}:__acks__.{self.broker_id}.{queue_name}"
        try:
            if handed := self.client.smembers(acks):
                self.client.hdel(f"{self.namespace}:{queue_name}.msgs", *handed)
                self.client.delete(acks)
        except _LOST as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # as above
        return super().consume(queue_name, prefetch, timeout)


def make(url: str, middleware: Sequence[Middleware] = ()) -> TicketBroker:
    """The broker, set as dramatiq's global one. Own middleware comes after AsyncIO, so it closes before it.

    Raises SettingsError if `url` is not the address of a Redis.
    """
    broker = TicketBroker(  # type: ignore[no-untyped-call]  # dramatiq's own signature
        client=client(url),
        namespace=NAMESPACE,
        heartbeat_timeout=30_000,
        maintenance_chance=20_000,
        dead_message_ttl=86_400_000,
        middleware=[
            ShutdownNotifications(False),
            AsyncIO(),
            *middleware,
            Retries(max_retries=0),
            TimeLimit(time_limit=TIME_LIMIT_MS),
            CurrentMessage(),
        ],
    )
    dramatiq.set_broker(broker)
    return broker
