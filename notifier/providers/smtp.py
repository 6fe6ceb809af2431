"""Email through an SMTP relay: connections kept open, several in parallel, renewed after so many messages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiosmtplib

from notifier.errors import InputError
from notifier.providers import mime
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.providers.smtp_replies import judge, short_code
from notifier.settings import Smtp
from notifier.states import Channel

#: after a connection that could not be made
_RETRY_CONNECT = timedelta(seconds=15)


class SmtpProvider:
    """See `providers.base.Provider`. One instance per process, used on one loop."""

    name = "smtp"
    channel = Channel.EMAIL

    def __init__(
        self, settings: Smtp, time_scale: float = 1, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`time_scale` divides the hours that receivers are known to block for: rehearsals only."""
        self.concurrency = settings.connections
        self._time_scale = time_scale
        self._settings = settings
        self._clock = clock
        self._domain = settings.sender.rpartition("@")[2]
        self._idle: list[tuple[aiosmtplib.SMTP, int]] = []
        self._free = asyncio.Semaphore(settings.connections)

    async def open(self) -> None:
        """Connections are made when first needed, so that a relay that is down fails no start."""

    async def close(self) -> None:
        while self._idle:
            client, _ = self._idle.pop()
            await _quit(client)

    async def send(self, message: Message) -> Outcome:
        try:
            data = mime.build(message, sender=self._settings.sender, domain=self._domain, now=self._clock())
        except InputError as error:
            return Outcome(Kind.REFUSED, "unfit_for_email", Blame.PERSON, raw=error.message)
        async with self._free:
            try:
                client, used = await self._connection()
            except aiosmtplib.SMTPAuthenticationError as error:
                return self._refused(error.code, error.message, Blame.OURS, hold=True)
            except aiosmtplib.SMTPResponseException as error:
                return self._refused(error.code, error.message, Blame.THROTTLED)
            except (aiosmtplib.SMTPException, OSError) as error:
                return Outcome(
                    Kind.REFUSED, "connect_failed", Blame.THROTTLED, _RETRY_CONNECT, raw=type(error).__name__
                )
            outcome, usable = await self._hand_over(client, message, data)
            if usable and used + 1 < self._settings.messages_per_connection:
                self._idle.append((client, used + 1))
            else:
                await _quit(client)
            return outcome

    async def _connection(self) -> tuple[aiosmtplib.SMTP, int]:
        while self._idle:
            client, used = self._idle.pop()
            if client.is_connected:
                return client, used
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=settings.timeout_s,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
        )
        await client.connect()
        return client, 0

    async def _hand_over(self, client: aiosmtplib.SMTP, message: Message, data: bytes) -> tuple[Outcome, bool]:
        """Returns the outcome and whether the connection can be used again."""
        body_may_be_out = False
        try:
            await client.mail(self._return_path(message))
            await client.rcpt(message.recipient)
            body_may_be_out = True
            reply = await client.data(data)
        except aiosmtplib.SMTPResponseException as error:
            if error.code > 0:
                closing = error.code == 421  # RFC 5321 §3.8
                return self._refused(error.code, error.message), not closing and await _reset(client)
            return _broken(error, body_may_be_out), False
        except (aiosmtplib.SMTPException, OSError) as error:
            return _broken(error, body_may_be_out), False
        raw = f"{reply.code} {reply.message}"[:2000]
        return Outcome(Kind.ACCEPTED, "accepted", provider_message_id=_queue_id(reply.message), raw=raw), True

    def _return_path(self, message: Message) -> str:
        """A bounce comes back to an address that names the delivery (VERP)."""
        local, _, domain = (self._settings.return_path or self._settings.sender).rpartition("@")
        return f"{local}+{message.reference}@{domain}"

    def _refused(self, code: int, text: str, blame: Blame | None = None, *, hold: bool = False) -> Outcome:
        verdict = judge(code, text)
        wait = verdict.retry_after / self._time_scale if verdict.retry_after else None
        raw = f"{code} {text}"[:2000]
        return Outcome(Kind.REFUSED, short_code(code, text), blame or verdict.blame, wait, raw=raw, hold=hold)


#: how common servers name what they took; the rest of the reply may repeat the recipient's address
_QUEUED = re.compile(r"(?:queued as|\bid=|Message accepted:?|\bqp) ?([A-Za-z0-9._-]{4,64})\b", re.IGNORECASE)


def _queue_id(reply: str) -> str | None:
    found = _QUEUED.search(reply)
    return found[1] if found else None


def _broken(error: Exception, body_may_be_out: bool) -> Outcome:
    """After the final dot only the server knows whether it took the message (RFC 1047)."""
    name = type(error).__name__
    if body_may_be_out:
        return Outcome(Kind.UNKNOWN, "connection_lost_after_data", raw=name)
    return Outcome(Kind.REFUSED, "connection_lost", Blame.THROTTLED, timedelta(seconds=1), raw=name)


async def _reset(client: aiosmtplib.SMTP) -> bool:
    try:
        await client.rset()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


async def _quit(client: aiosmtplib.SMTP) -> None:
    try:
        await client.quit(timeout=2)
    except (aiosmtplib.SMTPException, OSError):
        client.close()
