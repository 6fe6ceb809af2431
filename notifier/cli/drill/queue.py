"""Puts messages into the queue as a feeder of another release would."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from notifier import startup

if TYPE_CHECKING:
    from notifier.cli.drill.stage import Stage


def enqueue(
    stage: Stage, queue: str, actor: str, arguments: tuple[Any, ...], *, times: int = 1, eta_s: float | None = None
) -> None:
    """Sends the same message so many times. With `eta_s` it lies in the queue as one to be done only then."""
    from notifier.cli.drill.stage import NAMESPACE

    broker = RedisBroker(  # type: ignore[no-untyped-call]  # dramatiq is partly typed
        client=startup.client(stage.environment["REDIS_URL"]), namespace=NAMESPACE, middleware=[]
    )
    broker.declare_queue(queue)
    options = {} if eta_s is None else {"eta": int((time.time() + eta_s) * 1000)}
    for _ in range(times):
        broker.enqueue(
            dramatiq.Message(queue_name=queue, actor_name=actor, args=arguments, kwargs={}, options=dict(options))
        )
    broker.close()
