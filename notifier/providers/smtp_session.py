"""One SMTP session after connecting, TLS, EHLO and AUTH: hands messages over in as few writes as may be.

aiosmtplib makes the connection; this takes its transport over. Where the server offers PIPELINING (RFC 2920),
MAIL, RCPT and DATA go out in one write; elsewhere one at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import NamedTuple, cast

_LONGEST_REPLY = 64 * 1024


class Stage(StrEnum):
    """Which command a reply answers."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    #: the final dot: the only reply that can mean "taken"
    DOT = "dot"


class Reply(NamedTuple):
    """A server's reply, its lines joined."""

    code: int
    text: str
    stage: Stage = Stage.DOT


class SessionLost(Exception):
    """The session ended, timed out or spoke nonsense. `may_be_out`: the body was written already."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.may_be_out = False


class Session(asyncio.Protocol):
    """One message at a time. Never cancelled in mid-message: every wait has its own time-out."""

    def __init__(self, transport: asyncio.Transport, *, pipelining: bool, timeout_s: float) -> None:
        self._transport = transport
        self._pipelining = pipelining
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._reset_first = False
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether the next message can go this way."""
        return self._lost is None and not self._transport.is_closing()

    async def hand_over(self, sender: bytes, recipient: bytes, data: bytes) -> Reply:
        """The reply that decides: of the final dot, or the first refusal before it.

        `data` has its dots stuffed and ends with CRLF. Raises SessionLost.
        """
        mail, rcpt = b"MAIL FROM:<%b>\r\n" % sender, b"RCPT TO:<%b>\r\n" % recipient
        replies = await self._envelope(mail, rcpt)
        refused = next((reply for reply in replies[:2] if not 200 <= reply.code < 300), None)
        data_reply = replies[-1] if len(replies) == 3 else None
        if data_reply is not None and data_reply.code == 354:
            if refused is None:
                return await self._body(data)
            # Nobody is left to send to, but the server asks for a body: it gets an empty one (RFC 2920 §3.1).
            await self._exchange(b".\r\n", 1)
        self._reset_first = True
        return refused or data_reply or replies[-1]

    async def _envelope(self, mail: bytes, rcpt: bytes) -> list[Reply]:
        stages = (Stage.MAIL, Stage.RCPT, Stage.DATA)
        commands = (mail, rcpt, b"DATA\r\n")
        reset = b"RSET\r\n" if self._reset_first else b""
        self._reset_first = False
        if self._pipelining:
            replies = await self._exchange(reset + b"".join(commands), 3 + bool(reset))
            return [
                reply._replace(stage=stage) for reply, stage in zip(replies[bool(reset) :], stages, strict=True)
            ]
        if reset:
            await self._exchange(reset, 1)
        answered: list[Reply] = []
        for command, stage in zip(commands, stages, strict=True):
            [reply] = await self._exchange(command, 1)
            answered.append(reply._replace(stage=stage))
            if not 200 <= reply.code < 400:
                break
        return answered

    async def _body(self, data: bytes) -> Reply:
        try:
            [reply] = await self._exchange(data + b".\r\n", 1)
        except SessionLost as error:
            error.may_be_out = True
            raise
        return reply

    async def _exchange(self, commands: bytes, replies: int) -> list[Reply]:
        """Writes and waits for so many replies."""
        if self._lost is None and self._transport.is_closing():
            self._lost = "closed"
        if self._lost is not None:
            raise SessionLost(self._lost)
        # A reply nobody asked for (a server that says goodbye) must not be taken for the answer.
        if self._replies:
            raise SessionLost("unexpected_reply")
        loop = asyncio.get_running_loop()
        self._wanted = replies
        self._waiter = loop.create_future()
        timer = loop.call_later(self._timeout_s, self._fail, "timeout")
        self._transport.write(commands)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        # What is left over nobody asked for: it stays, and ends the session at the next message.
        return [self._replies.popleft() for _ in range(replies)]

    async def quit(self) -> None:
        """Says goodbye and closes; does not wait for the answer."""
        if self.is_usable:
            self._transport.write(b"QUIT\r\n")
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._lines.append(line[4:])
            if line[3:4] == b"-":
                continue
            if not line[:3].isdigit():
                self._fail("malformed_reply")
                return
            text = b"\n".join(self._lines).decode("utf-8", "replace")
            self._lines.clear()
            self._replies.append(Reply(int(line[:3]), text))
        if len(self._buffer) + sum(map(len, self._lines)) > _LONGEST_REPLY:
            self._fail("endless_reply")
        elif self._waiter is not None and not self._waiter.done() and len(self._replies) >= self._wanted:
            self._waiter.set_result(None)

    def eof_received(self) -> bool:
        self._fail("closed")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(type(error).__name__ if error else "closed")

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        if self._waiter is not None and not self._waiter.done():
            # A refusal that came before the end still counts: the server said it and hung up.
            if self._replies and self._replies[-1].code >= 400 and reason != "timeout":
                self._replies.extend([self._replies[-1]] * (self._wanted - len(self._replies)))
                self._waiter.set_result(None)
            else:
                self._waiter.set_exception(SessionLost(self._lost))
        if not self._transport.is_closing():
            self._transport.close()


def take_over(transport: asyncio.BaseTransport, *, pipelining: bool, timeout_s: float) -> Session:
    """Makes a session of a transport on which nothing is under way."""
    return Session(cast(asyncio.Transport, transport), pipelining=pipelining, timeout_s=timeout_s)
