"""One process of the engine: `python -m workers.main worker|control|feeder|sweeper`.

A worker, or the control process that does test sends, ends within its deadline after SIGTERM whatever is
down, and ends itself when its loop or a consumer is stuck; a supervisor starts it anew, and leases bring its
rows back.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread

from notifier import logs, settings, startup, store, tracing
from notifier.errors import NotifierError, SettingsError
from notifier.settings import Settings
from notifier.states import Channel
from workers import broker as brokers
from workers.control import AT_A_TIME, Control
from workers.feeder import Feeder
from workers.resources import Resources
from workers.sweeper import Sweeper
from workers.tasks import Tasks

log = structlog.get_logger()

#: exit status when the watchdog ended the process; the supervisor starts it anew
STUCK = 70
#: idle consumers look into Redis at least so often, in ms
POLL_MS = 100


def run_worker(settings: Settings, channels: tuple[Channel, ...], stop: threading.Event) -> None:
    """Does tickets of the channels until `stop` is set, then lets go of everything."""
    _quick_loop()
    resources = Resources(settings, channels)
    broker = brokers.make(settings.redis_url or "", [resources])
    Tasks(broker, resources)
    queues = {str(channel) for channel in channels}
    threads = settings.engine.threads
    worker = dramatiq.Worker(broker, queues=queues, worker_threads=threads, worker_timeout=POLL_MS)
    _run(settings, worker, resources, stop)


def run_control(settings: Settings, stop: threading.Event) -> None:
    """Does test sends until `stop` is set. Nothing else ever waits before them."""
    control = Control(settings)
    broker = brokers.make(settings.redis_url or "", [control])
    Tasks(broker, control=control)
    threads = 2 * AT_A_TIME * len(Channel)
    worker = dramatiq.Worker(broker, queues={brokers.CONTROL}, worker_threads=threads, worker_timeout=POLL_MS)
    _run(settings, worker, control, stop)


def _quick_loop() -> None:
    """dramatiq makes the loop by the policy; uvloop's needs a third less for each message."""
    try:
        import uvloop
    except ImportError:  # a platform without it
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _run(
    settings: Settings, worker: dramatiq.Worker, resources: Resources | Control, stop: threading.Event
) -> None:
    worker.start()
    log.info("worker_started", owner=resources.owner, queues=sorted(worker.consumers))
    watch = threading.Thread(
        target=_watch, args=(worker, resources, settings.engine.watchdog_s, stop), daemon=True
    )
    watch.start()
    stop.wait()
    resources.drain()
    # The deadline runs from here: what is not closed by then is closed by the kernel.
    deadline = threading.Timer(settings.engine.shutdown_s, _leave, args=("shutdown_deadline", 0))
    deadline.daemon = True
    deadline.start()
    # Half for the calls in flight, the rest for closing: dramatiq applies it to workers and consumers each.
    worker.stop(timeout=int(settings.engine.shutdown_s * 1000 / 3))
    tracing.stop()
    _leave("worker_stopped", 0)


def _watch(
    worker: dramatiq.Worker, resources: Resources | Control, patience_s: float, stop: threading.Event
) -> None:
    """Ends the process when the loop does not answer, or a consumer thread or something in the background is dead.

    Until `stop` is set: then consumers end because they were told to, and the shutdown has its own deadline.
    """
    while not stop.wait(patience_s / 4):
        answered = threading.Event()
        thread = get_event_loop_thread()
        if thread is None:
            return  # shutting down
        thread.loop.call_soon_threadsafe(answered.set)
        is_stuck = not answered.wait(patience_s)
        is_dead = not all(consumer.is_alive() for consumer in worker.consumers.values())
        is_torn = not resources.is_whole
        if stop.is_set():
            return
        if is_stuck:
            _leave("event_loop_stuck", STUCK)
        if is_dead:
            _leave("consumer_dead", STUCK)
        if is_torn:
            _leave("background_task_dead", STUCK)


def _leave(event: str, status: int) -> None:
    (log.error if status else log.info)(event)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of dramatiq and its loop are not daemons: a normal exit would wait for them, perhaps for ever.
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, checks the servers, runs until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    parser.add_argument("role", choices=["worker", "control", "feeder", "sweeper"])
    parser.add_argument("--channel", action="append", choices=[str(channel) for channel in Channel])
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        current = settings.load()
        logs.configure(current.log_level)
        if not current.redis_url:
            raise SettingsError("REDIS_URL is not set.")
        master = current.master
        _patiently(lambda: startup.check_redis(current.redis_url or ""), stop)
        database = store.Database(current.sqlalchemy_url, pool_size=1)
        _patiently(database.check, stop)
        if stop.is_set():
            return 0
        startup.check_master_key(database, master)
        database.dispose()
        tracing.start(current, options.role)
        channels = tuple(Channel(name) for name in options.channel or Channel)
        match options.role:
            case "worker":
                run_worker(current, channels, stop)
            case "control":
                run_control(current, stop)
            case "feeder":
                Feeder(current).run(stop)
            case "sweeper":
                Sweeper(current).run(stop)
    except NotifierError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - a person starts it
        return 1
    tracing.stop()
    return 0


def _patiently(check: Callable[[], None], stop: threading.Event, tries: int = 10) -> None:
    """A server that is being restarted is not a wrong setting: asks again for some seconds."""
    for left in reversed(range(tries)):
        try:
            check()
            return
        except NotifierError as error:
            if not left or "does not answer" not in error.message:
                raise
            stop.wait(1)


if __name__ == "__main__":
    sys.exit(main())
