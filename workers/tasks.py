"""The actors: thin, safe to run twice, and their messages carry ids only.

Names and arguments of an actor are a promise to messages of an older release: they never change; a new form
gets a new version number, and an unknown version is dropped, because the feeder issues every ticket again.
"""

from __future__ import annotations

import dramatiq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier.states import Channel
from workers.broker import EMAIL, SMS, TicketBroker
from workers.resources import Resources

log = structlog.get_logger()

VERSION = 1


class Tasks:
    """The actors of one process, declared on its broker."""

    def __init__(self, broker: TicketBroker, resources: Resources | None = None) -> None:
        """Without resources the actors can only be sent to: that is the feeder's side."""
        self._resources = resources
        email = dramatiq.actor(actor_name="send_email", queue_name=EMAIL, broker=broker)
        sms = dramatiq.actor(actor_name="send_sms", queue_name=SMS, broker=broker)
        self.send = {Channel.EMAIL: email(self._send_email), Channel.SMS: sms(self._send_sms)}

    async def _send_email(self, version: int, campaign_id: int, epoch: int) -> None:
        """There is due email of this campaign."""
        await self._work(Channel.EMAIL, version, campaign_id, epoch)

    async def _send_sms(self, version: int, campaign_id: int, epoch: int) -> None:
        """There are due SMS of this campaign."""
        await self._work(Channel.SMS, version, campaign_id, epoch)

    async def _work(self, channel: Channel, version: int, campaign_id: int, epoch: int) -> None:
        if version != VERSION or self._resources is None:
            log.info("ticket_dropped", version=version, channel=channel)
            return
        try:
            claimed = await self._resources.senders[channel].work(campaign_id, epoch)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            # The rows stay due in the database; a message that failed would only fill the dead letters.
            log.warning("ticket_failed", campaign=campaign_id, channel=channel, error=type(error).__name__)
        else:
            log.debug("ticket_done", campaign=campaign_id, channel=channel, claimed=claimed)
