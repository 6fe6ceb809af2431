"""A client for one HTTP address that is asked many thousand times: POST over kept HTTP/1.1 connections.

Its own because of what it costs and what it tells. All of a request but its body is prepared once, and nothing
is built for an answer but the answer: a call takes 20 µs of processor time where aiohttp takes 66 and httpx over
aiohttp 130 (uvloop, loopback, 2 kB). And a caller learns what decides whether a person may be told again:
`NotSent` if no byte of the request can have arrived, `NoAnswer` if it may have. Nothing is ever sent twice here.

One request at a time on a connection (no pipelining), no redirects, no cookies, no compression.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import httpx

from notifier.errors import SettingsError
from notifier.providers.http_answer import Answer, Response

#: shorter than most servers keep an idle connection (nginx: 75 s), so that they seldom close one under a request
IDLE_S = 15.0


class NotSent(Exception):
    """No byte of the request has left: there is no connection. The message is the kind of the error."""


class NoAnswer(Exception):
    """The request may have arrived, and no whole answer came back.

    `idle` says that the server closed a connection which it had kept open, without a byte of an answer: most
    likely it never read the request. Only who can ask again without harm may build on that (RFC 9110 §9.2.2).
    """

    def __init__(self, reason: str, *, idle: bool = False) -> None:
        super().__init__(reason)
        self.idle = idle


class _Connection(asyncio.Protocol):
    """One kept connection: at most one request is on it."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._asked_before = False
        self._waiter: asyncio.Future[Response] | None = None
        self._answer = Answer()
        self._touched = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # it is one: a stream's

    async def ask(self, request: bytes, timeout_s: float) -> Response:
        loop = asyncio.get_running_loop()
        self._waiter, self._answer, self._touched = loop.create_future(), Answer(), False
        timer = loop.call_later(timeout_s, self._fail, "timeout")
        self.transport.write(request)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            # An answer that came before its request had left whole, or a caller that went away: nobody can
            # tell what the next bytes on this connection would belong to.
            if not self._answer.keep or self.transport.get_write_buffer_size():
                self.transport.abort()
            self._waiter, self._asked_before = None, True

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.transport.abort()  # nothing was asked: a late answer, or a server that is about to close
            return
        self._touched = True
        try:
            response = self._answer.feed(data)
        except ValueError as error:
            self._fail(f"unreadable: {error}")
            return
        if response is not None:
            self._waiter.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if error is None:
            try:
                self._waiter.set_result(self._answer.end())
            except ValueError:
                pass
            else:
                return
        self._fail(type(error).__name__ if error else "closed", idle=self._asked_before and not self._touched)

    def _fail(self, reason: str, *, idle: bool = False) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._answer.keep = False
            self._waiter.set_exception(NoAnswer(reason, idle=idle))


class HttpClient:
    """POSTs to one address, on one loop. Connects when first needed; `close` comes after the last request."""

    def __init__(self, url: str, headers: Mapping[str, str], *, connections: int, timeout_s: float) -> None:
        """`timeout_s` is for connecting, and again for the whole answer. Raises SettingsError for an unfit URL or
        header."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise SettingsError("The provider's base_url is not an address.") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise SettingsError("The provider's base_url must start with https:// (or http:// on one machine).")
        tls = parsed.scheme == "https"
        self._host, self._port = parsed.host, parsed.port or (443 if tls else 80)
        self._context = ssl.create_default_context() if tls else None
        lines = {"host": parsed.netloc.decode("ascii"), "user-agent": "patient-notifier", **headers}
        if not all(value.isascii() and value.isprintable() for value in lines.values()):
            raise SettingsError("The provider's key holds a character that cannot stand in a header.")
        self._head = (
            f"POST {parsed.raw_path.decode('ascii')} HTTP/1.1\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            + "content-length: "
        ).encode("ascii")
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []
        self._closed = False

    async def close(self) -> None:
        """Closes what is idle now, and what is in use when its answer is there."""
        self._closed = True
        while self._idle:
            self._idle.pop().transport.close()

    async def post(self, body: bytes, *, fresh: bool = False) -> Response:
        """The answer, whatever its status; `fresh` wants a new connection. Raises NotSent or NoAnswer."""
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        async with self._free:
            connection = (None if fresh else self._kept()) or await self._connect()
            try:
                return await connection.ask(request, self._timeout_s)
            finally:
                self._give_back(connection)

    def _kept(self) -> _Connection | None:
        # The one used last is the likeliest to be alive; those below it are older.
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                if connection.idle_since > oldest:
                    return connection
                connection.transport.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._context
                )
        except (OSError, TimeoutError) as error:
            raise NotSent(type(error).__name__) from error
        if connection.transport.is_closing():
            raise NotSent("closed at once")
        return connection

    def _give_back(self, connection: _Connection) -> None:
        if connection.transport.is_closing():
            return
        if self._closed:
            connection.transport.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
