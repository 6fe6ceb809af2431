"""Email through an SMTP relay: connections kept open, several in parallel, renewed after so many messages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import aiosmtplib

from notifier.errors import InputError
from notifier.providers import mime
from notifier.providers.base import STOPPED, Blame, Kind, Message, Outcome
from notifier.providers.smtp_replies import judge, short_code
from notifier.providers.smtp_session import Reply, Session, SessionLost, Stage, take_over
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
        self._idle: list[tuple[Session, int]] = []
        self._free = asyncio.Semaphore(settings.connections)

    async def open(self) -> None:
        """Connections are made when first needed, so that a relay that is down fails no start."""

    async def close(self) -> None:
        while self._idle:
            self._idle.pop()[0].quit()

    async def send(self, message: Message) -> Outcome:
        return await (await self.start(message, lambda: True))

    async def start(self, message: Message, may_go: Callable[[], bool]) -> asyncio.Future[Outcome]:
        """See `providers.base.OverlappingProvider`."""
        try:
            recipient = mime.plain_address(message.recipient)
        except InputError as error:
            return _known(Outcome(Kind.REFUSED, "unfit_address", Blame.PERSON, raw=error.message))
        try:
            data = mime.build(message, sender=self._settings.sender, domain=self._domain, now=self._clock())
        except InputError as error:
            return _known(Outcome(Kind.REFUSED, "unfit_header", Blame.OURS, raw=error.message))
        async with self._free:
            try:
                session, used = await self._session()
            except aiosmtplib.SMTPAuthenticationError as error:
                return _known(self._refused(error.code, error.message, Blame.OURS, hold=True))
            except aiosmtplib.SMTPResponseException as error:
                return _known(self._refused(error.code, error.message, Blame.THROTTLED))
            except (aiosmtplib.SMTPException, OSError) as error:
                reason = type(error).__name__
                return _known(Outcome(Kind.REFUSED, "connect_failed", Blame.THROTTLED, _RETRY_CONNECT, raw=reason))
            exchange = session.begin(
                self._return_path(message.reference), recipient, data, may_go, partial(self._outcome, session)
            )
            await (exchange.decided if session.pipelines else exchange.outcome)
            if session.is_usable and used + 1 < self._settings.messages_per_connection:
                self._idle.append((session, used + 1))
            else:
                session.quit()
            return exchange.outcome

    async def _session(self) -> tuple[Session, int]:
        while self._idle:
            session, used = self._idle.pop()
            if session.is_usable:
                return session, used
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
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError:
            await client.helo()  # a server older than RFC 1869
        if client.transport is None:
            raise aiosmtplib.SMTPServerDisconnected("the server closed the connection at once")
        pipelining = client.supports_extension("pipelining")
        return take_over(client.transport, pipelining=pipelining, timeout_s=settings.timeout_s), 0

    def _outcome(self, session: Session, reply: Reply | SessionLost) -> Outcome:
        if isinstance(reply, SessionLost):
            return _broken(reply)
        if reply.stage is Stage.DOT and 200 <= reply.code < 300:
            raw = f"{reply.code} {reply.text}"[:2000]
            return Outcome(Kind.ACCEPTED, "accepted", provider_message_id=_queue_id(reply.text), raw=raw)
        if reply.code == 421:  # the server is closing the connection (RFC 5321 §3.8)
            session.quit()
            if reply.stage in (Stage.RSET, Stage.MAIL):
                # It was about to before it knew of the message.
                return self._refused(reply.code, reply.text, Blame.THROTTLED)
        return self._refused(reply.code, reply.text)

    def _return_path(self, reference: str) -> bytes:
        """A bounce comes back to an address that names the delivery (VERP)."""
        local, _, domain = (self._settings.return_path or self._settings.sender).rpartition("@")
        return f"{local}+{reference}@{domain}".encode()

    def _refused(self, code: int, text: str, blame: Blame | None = None, *, hold: bool = False) -> Outcome:
        # aiosmtplib keeps bytes that are no UTF-8 as half characters, which nobody can write down.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        verdict = judge(code, text)
        wait = verdict.retry_after / self._time_scale if verdict.retry_after else None
        raw = f"{code} {text}"[:2000]
        return Outcome(Kind.REFUSED, short_code(code, text), blame or verdict.blame, wait, raw=raw, hold=hold)


#: How common servers name what they took. The rest of the reply may repeat the recipient's address, so what has no
#: digit, or could be the first part of an address, is no name.
_QUEUED = re.compile(
    r"(?:queued as|\bid=|Message accepted:?|\bqp) ?(?=[A-Za-z._-]*[0-9])([A-Za-z0-9._-]{4,64}+)(?![^\s<>]*@)",
    re.IGNORECASE,
)


def _queue_id(reply: str) -> str | None:
    found = _QUEUED.search(reply)
    return found[1].rstrip(".") if found else None


def _known(outcome: Outcome) -> asyncio.Future[Outcome]:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ended.set_result(outcome)
    return ended


def _broken(error: SessionLost) -> Outcome:
    """After the final dot only the server knows whether it took the message (RFC 1047)."""
    reason = str(error)
    if error.stopped:
        return STOPPED
    if error.may_be_out:
        return Outcome(Kind.UNKNOWN, "connection_lost_after_data", raw=reason)
    return Outcome(Kind.REFUSED, "connection_lost", Blame.THROTTLED, timedelta(seconds=1), raw=reason)
