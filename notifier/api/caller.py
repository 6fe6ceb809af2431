"""Hands changes to customers' addresses: one message at a time to each, many addresses beside one another.

An address that is slow or down delays nobody but itself. Never to an address inside our own network: where a name
leads is looked up for each call, every answer must be public, and the connection goes to what was looked at
(server-side request forgery; OWASP, read 2026-11-25). Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier import feed
from notifier.errors import NotifierError
from notifier.feed import Call
from notifier.settings import Settings
from notifier.store import Database

log = structlog.get_logger()

#: addresses called at the same time by one process
AT_A_TIME = 32
LOOK_S = 1.0
#: IPv6 addresses that stand for an IPv4 one (RFC 6052)
_NAT64 = IPv6Network("64:ff9b::/96")
#: for translation inside (RFC 8215), and for documentation (RFC 9637): older Pythons take them for public
_NOT_PUBLIC = (IPv6Network("64:ff9b:1::/48"), IPv6Network("3fff::/20"))


class Answer(NamedTuple):
    """How a call ended: "http_200", "timeout", "private_address", "connect_failed", "unknown_host"."""

    code: str
    taken: bool = False
    #: 410 Gone: nothing more is wanted
    is_over: bool = False


class Caller:
    """One task on the server's loop. Several processes may run one each."""

    def __init__(self, settings: Settings, database: Database, verify: ssl.SSLContext | bool = True) -> None:
        self.settings = settings
        self.database = database
        self._verify = verify

    async def run(self) -> None:
        """Calls for ever, until cancelled. A database that is away delays, and is logged."""
        async with httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=None) as client:  # noqa: S113
            running: set[asyncio.Task[None]] = set()
            try:
                while True:
                    try:
                        for call in await asyncio.to_thread(self._take, AT_A_TIME - len(running)):
                            running.add(asyncio.create_task(self._tell(client, call)))
                    except (SQLAlchemyError, NotifierError, OSError) as error:
                        log.warning("caller_failed", error=type(error).__name__)
                    if running:
                        done, running = await asyncio.wait(
                            running, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                        )
                        for failure in filter(None, (one.exception() for one in done)):
                            log.warning("caller_failed", error=type(failure).__name__)
                    else:
                        await asyncio.sleep(LOOK_S)
            finally:
                for one in running:
                    one.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*running, return_exceptions=True)

    async def ping(self, call: Call) -> Answer:
        """Tells one message at once, for the test button; nothing is written."""
        async with httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=None) as client:  # noqa: S113
            return await self.hand_over(client, call)

    async def _tell(self, client: httpx.AsyncClient, call: Call) -> None:
        answer = await self.hand_over(client, call)
        if not answer.taken:
            log.info("callback_not_taken", callback=call.callback_id, code=answer.code)
        await asyncio.to_thread(self._ended, call, answer)

    async def hand_over(self, client: httpx.AsyncClient, call: Call) -> Answer:
        """One POST, signed; any 2xx within the time means taken."""
        body = orjson.dumps(call.body, option=orjson.OPT_UTC_Z)
        timestamp = int(datetime.now(UTC).timestamp())
        parts = urlsplit(call.url)
        try:
            async with asyncio.timeout(self.settings.callbacks.timeout_s):
                address = await self._address(parts.hostname or "", parts.port or _port(parts.scheme))
                if address is None:
                    return Answer("private_address")
                host = f"[{address}]" if address.version == 6 else str(address)
                target = urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, *parts[2:]))
                request = client.build_request(
                    "POST",
                    target,
                    content=body,
                    headers={
                        "Host": parts.netloc,
                        "Content-Type": "application/json",
                        "User-Agent": "patient-notifier",
                        "webhook-id": call.message_id,
                        "webhook-timestamp": str(timestamp),
                        "webhook-signature": feed.signature(call.secret, call.message_id, timestamp, body),
                    },
                    # The certificate is held against the name, not the address.
                    extensions={"sni_hostname": parts.hostname},
                )
                response = await client.send(request, stream=True, follow_redirects=False)
                # What it says besides is of no interest, however long.
                await response.aclose()
        except TimeoutError:
            return Answer("timeout")
        except socket.gaierror:
            return Answer("unknown_host")
        except (httpx.HTTPError, OSError, ValueError, UnicodeError):
            return Answer("connect_failed")
        return Answer(f"http_{response.status_code}", response.is_success, response.status_code == 410)

    async def _address(self, host: str, port: int) -> IPv4Address | IPv6Address | None:
        """Where the name leads; None if any of it is not public. Raises socket.gaierror."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not self.settings.callbacks.allow_private and not all(map(is_public, addresses)):
            return None
        return addresses[0]

    def _take(self, most: int) -> list[Call]:
        if most <= 0:
            return []
        with self.database.staff() as session:
            return feed.take(session, self.settings.master, now=datetime.now(UTC), most=most)

    def _ended(self, call: Call, answer: Answer) -> None:
        scale = self.settings.time_scale
        with self.database.staff() as session:
            feed.ended(
                session,
                call,
                answer.code,
                taken=answer.taken,
                is_over=answer.is_over,
                now=datetime.now(UTC),
                give_up=timedelta(hours=self.settings.callbacks.give_up_after_h) / scale,
                scale=scale,
            )


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public Internet, also what an IPv6 address stands for (RFC 6890, 6052)."""
    if isinstance(address, IPv6Address):
        if address.is_site_local or any(address in network for network in _NOT_PUBLIC):
            return False
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner and not is_public(inner):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
