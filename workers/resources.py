"""What one worker process holds: database, providers, gate and writer, on the loop of dramatiq's AsyncIO."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from notifier import profiles, receipts, receivers, schedule, store
from notifier.providers.base import Provider
from notifier.providers.brevo_email import BrevoEmailProvider
from notifier.providers.brevo_sms import BrevoSmsProvider
from notifier.providers.smtp import SmtpProvider
from notifier.receivers import Receivers
from notifier.sending import Gate, Sender, Writer
from notifier.settings import BrevoEmail, BrevoSms, Settings, Smtp
from notifier.states import Channel
from notifier.store import AsyncDatabase
from workers.breaker import Rules
from workers.limits import Limits, Rates

log = structlog.get_logger()
T = TypeVar("T")

#: the profile whose waits the engine uses until incidents of different regimes run in one deployment
PROFILE = "eu-gdpr-fr"
HEARTBEAT_S = 2.0
#: worker processes assumed to share a limit while Redis is away: too many is safe, too few is not
ASSUMED_PROCESSES = 8


def webhook_url(settings: Settings, provider: str, reference: str) -> str:
    """Where a provider reports about the delivery of this reference; the address itself is the proof."""
    number = int(reference.partition(".")[0])
    own = receipts.webhook_reference(settings.master, provider, number)
    return f"{settings.public_url.rstrip('/')}/webhooks/{provider}/{own}"


def make_provider(settings: Settings, channel: Channel) -> Provider:
    """The provider that carries a channel."""
    match channel:
        case Channel.EMAIL:
            if settings.email_provider == BrevoEmailProvider.name:
                return BrevoEmailProvider(settings.brevo_email)
            return SmtpProvider(settings.smtp, settings.time_scale)
        case Channel.SMS:
            return BrevoSmsProvider(
                settings.brevo_sms, lambda reference: webhook_url(settings, BrevoSmsProvider.name, reference)
            )


def make_limits(settings: Settings, provider: Provider, database: AsyncDatabase, known: Receivers) -> Limits:
    """Rate limits and breakers of a provider's account."""
    accounts: dict[str, Smtp | BrevoEmail | BrevoSms] = {
        "smtp": settings.smtp,
        "brevo-email": settings.brevo_email,
        "brevo-sms": settings.brevo_sms,
    }
    own = accounts[provider.name]
    return Limits(
        settings.redis_url or "",
        provider.name,
        Rates(
            provider=own.rate_per_s,
            sender=own.sender_rate_per_s,
            sender_name=own.sender,
            campaign=settings.engine.campaign_rate_per_s,
            receivers=known.rates if provider.channel is Channel.EMAIL else {},
        ),
        share=1 / ASSUMED_PROCESSES,
        rules=Rules.of(settings.engine, settings.time_scale),
        database=database,
    )


class Resources(Middleware):
    """Opens everything when the worker boots and lets it go, in order, when it stops."""

    def __init__(self, settings: Settings, channels: tuple[Channel, ...]) -> None:
        self._settings = settings
        self._channels = channels
        self._database: AsyncDatabase | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.senders: dict[Channel, Sender] = {}
        self.limits: list[Limits] = []

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        on_loop(self._open)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self.drain()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        on_loop(self._close)

    def drain(self) -> None:
        """No ticket starts another call; what is in flight ends and is written, the rest is given back."""
        thread = get_event_loop_thread()
        if thread is not None:
            for sender in self.senders.values():
                thread.loop.call_soon_threadsafe(sender.draining.set)

    async def _open(self) -> None:
        settings = self._settings
        profile = profiles.load(PROFILE, settings.config_dir)
        self._database = AsyncDatabase(settings.sqlalchemy_url)
        gate = Gate(self._database, timedelta(milliseconds=settings.engine.control_ms))
        writer = Writer(self._database, settings.engine)
        known = receivers.load(settings.config_dir)
        for channel in self._channels:
            provider = make_provider(settings, channel)
            await provider.open()
            limits = make_limits(settings, provider, self._database, known)
            self.limits.append(limits)
            self.senders[channel] = Sender(
                database=self._database,
                master=settings.master,
                provider=provider,
                rules=schedule.rules(profile, channel, settings.time_scale),
                engine=settings.engine,
                gate=gate,
                writer=writer,
                governor=limits,
                owner=self.owner,
                reference=receipts.reference,
                default_language=profile.languages[0],
                receiver_of=known.of_address if channel is Channel.EMAIL else lambda _: "",
            )
        lanes = [sender.run() for sender in self.senders.values()]
        watching = [limits.run() for limits in self.limits]
        runs = (gate.run(), writer.run(), self._beat(self._database), *lanes, *watching)
        self._tasks = in_background(runs)

    @property
    def is_whole(self) -> bool:
        """Whether all that runs in the background still does."""
        return not any(task.done() for task in self._tasks)

    async def _beat(self, database: AsyncDatabase) -> None:
        while True:
            try:
                async with database.begin() as connection:
                    name = f"worker:{'+'.join(self._channels)}:{self.owner}"
                    await store.beat(connection, name, self._settings.master.fingerprints)
                    for sender in self.senders.values():
                        await self._note_pace(connection, sender)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("heartbeat_unwritten", error=type(error).__name__)
            await asyncio.sleep(HEARTBEAT_S)

    async def _note_pace(self, connection: AsyncConnection, sender: Sender) -> None:
        ended, sender.ended = sender.ended, Counter()
        if ended:
            await store.note_pace(connection, self.owner, sender.provider.name, ended)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self.senders.values():
            await sender.provider.close()
        for limits in self.limits:
            await limits.close()
        if self._database is not None:
            await self._database.dispose()


def in_background(runs: Iterable[Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    """Tasks that are to run until they are cancelled; one that ends by itself says so in the log."""
    tasks = [asyncio.create_task(run) for run in runs]
    for task in tasks:
        task.add_done_callback(_said_if_ended)
    return tasks


def _said_if_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        error = task.exception()
        name = getattr(task.get_coro(), "__qualname__", "")
        log.error("background_task_ended", task=name, error=type(error).__name__ if error else None)


def on_loop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on the worker's loop and waits for it, from another thread."""
    thread = get_event_loop_thread()
    assert thread is not None, "the AsyncIO middleware comes first"
    return thread.run_coroutine(make())
