"""The actors: thin, safe to run twice, and their messages carry ids only.

Names and arguments of an actor are a promise to messages of an older release: they never change; a new form
gets a new version number, and an unknown version is dropped, because the feeder issues every ticket again.
Each form has as many arguments as the first, so that an older release can drop it in order.
"""

from __future__ import annotations

import asyncio

import dramatiq
import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier.states import Channel
from workers.broker import CONTROL, EMAIL, SMS, TicketBroker
from workers.control import Control
from workers.resources import Resources

log = structlog.get_logger()

#: of a ticket: (2, rows, [[campaign id, epoch], …]). Still done: (1, campaign id, epoch), a whole claim
VERSION = 2
#: of a test send: (1, id, channel)
TEST_VERSION = 1

_AWAY = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)


class Tasks:
    """The actors of one process, declared on its broker."""

    def __init__(
        self, broker: TicketBroker, resources: Resources | None = None, control: Control | None = None
    ) -> None:
        """Without resources the actors can only be sent to: that is the feeder's side."""
        self._resources = resources
        self._control = control
        email = dramatiq.actor(actor_name="send_email", queue_name=EMAIL, broker=broker)
        sms = dramatiq.actor(actor_name="send_sms", queue_name=SMS, broker=broker)
        test = dramatiq.actor(actor_name="send_test", queue_name=CONTROL, broker=broker)
        self.send = {Channel.EMAIL: email(self._send_email), Channel.SMS: sms(self._send_sms)}
        self.send_test = test(self._send_test)

    async def _send_email(self, version: int, rows: int, campaigns: int | list[list[int]]) -> None:
        """There is due email of these campaigns."""
        await self._work(Channel.EMAIL, version, rows, campaigns)

    async def _send_sms(self, version: int, rows: int, campaigns: int | list[list[int]]) -> None:
        """There are due SMS of these campaigns."""
        await self._work(Channel.SMS, version, rows, campaigns)

    async def _work(self, channel: Channel, version: int, rows: int, campaigns: int | list[list[int]]) -> None:
        match version, campaigns:
            case 1, int(epoch):
                await self._work_on(channel, rows, epoch, None)
            case 2, list(named):
                await asyncio.gather(*(self._work_on(channel, campaign, epoch, rows) for campaign, epoch in named))
            case _:
                log.info("ticket_dropped", version=version, channel=channel)

    async def _work_on(self, channel: Channel, campaign_id: int, epoch: int, rows: int | None) -> None:
        assert self._resources is not None, "a process without resources consumes no queue"
        try:
            claimed = await self._resources.senders[channel].work(campaign_id, epoch, rows)
        except _AWAY as error:
            # The rows stay due in the database; a message that failed would only fill the dead letters.
            log.warning("ticket_failed", campaign=campaign_id, channel=channel, error=type(error).__name__)
        else:
            log.debug("ticket_done", campaign=campaign_id, channel=channel, claimed=claimed)

    async def _send_test(self, version: int, number: int, channel: str) -> None:
        """This test send waits."""
        if version != TEST_VERSION or self._control is None:
            log.info("ticket_dropped", version=version, test=number)
            return
        try:
            await self._control.send(Channel(channel), number)
        except _AWAY as error:
            log.warning("ticket_failed", test=number, error=type(error).__name__)
