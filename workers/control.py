"""The process for test sends: small, apart from the workers, so that no campaign is ever before it."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from functools import partial

import dramatiq
import structlog
from dramatiq.middleware import Middleware
from sqlalchemy.exc import SQLAlchemyError

from notifier import receivers, store
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import AsyncDatabase
from notifier.testsends import TestSender
from workers.limits import Limits
from workers.resources import HEARTBEAT_S, in_background, make_limits, make_provider, on_loop

log = structlog.get_logger()

#: test sends of one channel at a time, and connections of its provider
AT_A_TIME = 2


class Control(Middleware):
    """Opens what test sends need when the process boots, and lets it go when it stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_copy(
            update={
                "smtp": settings.smtp.model_copy(update={"connections": AT_A_TIME}),
                "brevo_email": settings.brevo_email.model_copy(update={"concurrency": AT_A_TIME, "batch": 1}),
                "brevo_sms": settings.brevo_sms.model_copy(update={"concurrency": AT_A_TIME}),
            }
        )
        self._database: AsyncDatabase | None = None
        self._senders: dict[Channel, TestSender] = {}
        self._limits: list[Limits] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    async def send(self, channel: Channel, number: int) -> None:
        """Sends one test if it still waits."""
        state = await self._senders[channel].send(number)
        log.info("test_sent", test=number, channel=channel, state=state)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        on_loop(self._open)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        on_loop(self._close)

    def drain(self) -> None:
        """Nothing is claimed ahead: what was begun ends by itself."""

    async def _open(self) -> None:
        database = self._database = AsyncDatabase(self._settings.sqlalchemy_url, pool_size=2)
        known = receivers.load(self._settings.config_dir)
        for channel in Channel:
            provider = make_provider(self._settings, channel)
            await provider.open()
            # The account's limits hold for tests too; those of campaigns and receivers are for campaigns.
            limits = make_limits(self._settings, provider, database, known)
            self._limits.append(limits)
            self._senders[channel] = TestSender(
                database,
                self._settings.master,
                provider,
                asyncio.Semaphore(AT_A_TIME),
                permit=partial(limits.permit, 0, ""),
                note=partial(limits.note, receiver=""),
            )
        runs = (self._beat(database), *(limits.run() for limits in self._limits))
        self._tasks = in_background(runs)

    @property
    def is_whole(self) -> bool:
        """Whether all that runs in the background still does."""
        return not any(task.done() for task in self._tasks)

    async def _beat(self, database: AsyncDatabase) -> None:
        while True:
            try:
                async with database.begin() as connection:
                    await store.beat(connection, f"control:{self.owner}", self._settings.master.fingerprints)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("heartbeat_unwritten", error=type(error).__name__)
            await asyncio.sleep(HEARTBEAT_S)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self._senders.values():
            await sender.provider.close()
        for limits in self._limits:
            await limits.close()
        if self._database is not None:
            await self._database.dispose()
