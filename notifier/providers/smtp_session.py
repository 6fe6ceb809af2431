"""One SMTP session after connecting, TLS, EHLO and AUTH: hands messages over in as few writes as may be.

aiosmtplib makes the connection; this takes its transport over. Where the server offers PIPELINING (RFC 2920),
MAIL, RCPT and DATA go out in one write, and with them the body of the message before: MAIL may stand anywhere
in a group of commands (§3.1), also behind the final dot. Elsewhere one command at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, cast

from notifier.providers.base import Outcome

_LONGEST_REPLY = 64 * 1024


class Stage(StrEnum):
    """Which command a reply answers."""

    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    #: the final dot: the only reply that can mean "taken"
    DOT = "dot"


_STAGES = (Stage.MAIL, Stage.RCPT, Stage.DATA)


class Reply(NamedTuple):
    """A server's reply, its lines joined."""

    code: int
    text: str
    stage: Stage = Stage.DOT


class SessionLost(Exception):
    """The session ended, timed out or spoke nonsense."""

    def __init__(self, reason: str, *, may_be_out: bool = False, stopped: bool = False) -> None:
        super().__init__(reason)
        #: the body was written already
        self.may_be_out = may_be_out
        #: given up by ourselves before the body, because it was stopped meanwhile
        self.stopped = stopped


#: what the end of an exchange means
Judge = Callable[[Reply | SessionLost], Outcome]


class Exchange:
    """One message on its way over a session."""

    __slots__ = (
        "begun",
        "data",
        "decided",
        "envelope",
        "judge",
        "may_go",
        "outcome",
        "refused",
        "replies",
        "stages",
        "written",
    )

    def __init__(
        self, envelope: tuple[bytes, bytes], data: bytes, may_go: Callable[[], bool], judge: Judge
    ) -> None:
        loop = asyncio.get_running_loop()
        self.envelope = envelope
        self.data = data
        self.may_go = may_go
        self.judge = judge
        self.begun = False
        self.stages: tuple[Stage, ...] = _STAGES
        self.replies: list[Reply] = []
        #: the first refusal, when a body of nothing was asked for all the same
        self.refused: Reply | None = None
        #: the body may be with the server
        self.written = False
        #: the next message may begin: the body is written, or there is nothing to write
        self.decided: asyncio.Future[None] = loop.create_future()
        #: made of the reply that decides (of the final dot, or the first refusal before it) or of the loss
        self.outcome: asyncio.Future[Outcome] = loop.create_future()


class Session(asyncio.Protocol):
    """One message at a time, and with PIPELINING the next one's envelope. Nothing is ever cancelled in the middle:
    every wait has its own time-out."""

    def __init__(self, transport: asyncio.Transport, *, pipelining: bool, timeout_s: float) -> None:
        self._transport = transport
        self._pipelining = pipelining
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._lines: list[str] = []
        self._current: Exchange | None = None
        self._next: Exchange | None = None
        self._out: list[bytes] = []
        self._lost: str | None = None
        self._reset_first = False
        self._closing = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether the next message can go this way."""
        return self._lost is None and not self._closing and not self._transport.is_closing()

    def begin(
        self, sender: bytes, recipient: bytes, data: bytes, may_go: Callable[[], bool], judge: Judge
    ) -> Exchange:
        """Starts one message; the one before must be decided, or answered where the server does not pipeline.

        `data` has its dots stuffed and ends with CRLF. `may_go` is asked right before the body goes out: the last
        moment at which nothing has been sent.
        """
        envelope = b"MAIL FROM:<%b>\r\n" % sender, b"RCPT TO:<%b>\r\n" % recipient
        exchange = Exchange(envelope, data, may_go, judge)
        if not self.is_usable:
            self._end(exchange, SessionLost(self._lost or "closed"))
        elif self._current is None:
            self._current = exchange
            self._begin(exchange)
        else:
            assert self._pipelining
            assert self._next is None
            assert self._current.decided.done()
            self._next = exchange
            self._begin(exchange)
        return exchange

    @property
    def pipelines(self) -> bool:
        """Whether the next message may begin as soon as one is decided."""
        return self._pipelining

    def quit(self) -> None:
        """Says goodbye after the last reply and closes; does not wait for the answer."""
        self._closing = True
        if self._current is None and not self._transport.is_closing():
            if self._lost is None:
                self._transport.write(b"QUIT\r\n")
            self._transport.close()

    def _begin(self, exchange: Exchange) -> None:
        exchange.begun = True
        if self._reset_first:
            exchange.stages = (Stage.RSET, *_STAGES)
            self._reset_first = False
        if not self._pipelining:
            self._write(_command(exchange, exchange.stages[0]))
        else:
            reset = b"RSET\r\n" if exchange.stages is not _STAGES else b""
            self._write(b"%b%b%bDATA\r\n" % (reset, *exchange.envelope))
        self._wait()

    def _write(self, data: bytes) -> None:
        """At the end of this turn of the loop, so that a body and the envelope behind it are one write."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _wait(self) -> None:
        self._deadline = self._loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """One timer for all waits: it goes off too early, and is set again for what is left."""
        self._timer = None
        if self._current is None or self._lost is not None:
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_the_clock)
        else:
            self._fail("timeout")

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.rfind(b"\n") + 1
        self._buffer = data[end:]
        for line in data[:end].decode("utf-8", "replace").split("\n")[:-1]:
            if not line[:3].isdigit():
                self._fail("malformed_reply")
                return
            if line[3:4] == "-":
                self._lines.append(line[4:].rstrip("\r"))
                continue
            text = line[4:].rstrip("\r")
            if self._lines:
                text = "\n".join((*self._lines, text))
                self._lines.clear()
            self._answered(int(line[:3]), text)
            if self._lost is not None:
                return
        if self._current is not None:
            self._wait()
        if len(self._buffer) + sum(map(len, self._lines)) > _LONGEST_REPLY:
            self._fail("endless_reply")

    def _answered(self, code: int, text: str) -> None:
        exchange = self._current
        if exchange is None:
            # A reply nobody asked for (a server that says goodbye) must not be taken for the next answer.
            self._fail("unexpected_reply")
            return
        place = len(exchange.replies)
        if place == len(exchange.stages):
            self._finish(exchange, exchange.refused or Reply(code, text))
            return
        stage = exchange.stages[place]
        reply = Reply(code, text, stage)
        exchange.replies.append(reply)
        if stage is Stage.DATA:
            self._decide(exchange)
        elif not self._pipelining:
            if stage is not Stage.RSET and not 200 <= code < 300:
                self._refuse(exchange, reply)
            else:
                self._write(_command(exchange, exchange.stages[place + 1]))

    def _decide(self, exchange: Exchange) -> None:
        """All of the envelope is answered: the body, an empty one, or nothing."""
        *_, mail, rcpt, data = exchange.replies
        refused = next((reply for reply in (mail, rcpt) if not 200 <= reply.code < 300), None)
        if data.code < 300:
            self._fail("unexpected_reply")  # somebody counts differently: no reply can be trusted
        elif data.code != 354:
            self._refuse(exchange, refused or data)
        elif refused is not None:
            # Nobody is left to send to, but the server asks for a body: it gets an empty one (RFC 2920 §3.1).
            exchange.refused = refused
            self._write(b".\r\n")
        elif exchange.may_go():
            exchange.written = True
            # First: who waits for this comes before the write, and adds the next envelope to it.
            exchange.decided.set_result(None)
            self._write(exchange.data + b".\r\n")
        else:
            # An end of the body would be a message: to have sent nothing, hang up.
            self._fail("stopped", stopped=True)

    def _refuse(self, exchange: Exchange, reply: Reply) -> None:
        self._reset_first = True
        self._finish(exchange, reply)

    def _finish(self, exchange: Exchange, reply: Reply) -> None:
        self._current, self._next = self._next, None
        if not exchange.decided.done():
            exchange.decided.set_result(None)
        exchange.outcome.set_result(exchange.judge(reply))
        if self._closing and self._current is None:
            self.quit()

    def eof_received(self) -> bool:
        self._fail("closed")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(type(error).__name__ if error else "closed")

    def _fail(self, reason: str, *, stopped: bool = False) -> None:
        self._lost = self._lost or reason
        current, following, self._current, self._next = self._current, self._next, None, None
        if current is not None:
            last = current.replies[-1] if current.replies else None
            # A refusal that came before the end still counts: the server said it and hung up.
            if reason != "timeout" and not current.written and last is not None and last.code >= 400:
                self._end(current, current.refused or last)
            else:
                self._end(current, SessionLost(reason, may_be_out=current.written, stopped=stopped))
        if following is not None:
            self._end(following, SessionLost(reason))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What was to be written is not: its exchange has just ended as not sent.
        self._out.clear()
        if not self._transport.is_closing():
            self._transport.close()

    def _end(self, exchange: Exchange, end: Reply | SessionLost) -> None:
        if not exchange.decided.done():
            exchange.decided.set_result(None)
        exchange.outcome.set_result(exchange.judge(end))


def _command(exchange: Exchange, stage: Stage) -> bytes:
    match stage:
        case Stage.RSET:
            return b"RSET\r\n"
        case Stage.MAIL:
            return exchange.envelope[0]
        case Stage.RCPT:
            return exchange.envelope[1]
        case _:
            return b"DATA\r\n"


def take_over(transport: asyncio.BaseTransport, *, pipelining: bool, timeout_s: float) -> Session:
    """Makes a session of a transport on which nothing is under way."""
    return Session(cast(asyncio.Transport, transport), pipelining=pipelining, timeout_s=timeout_s)
