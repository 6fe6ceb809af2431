"""The rehearsal's own pair of servers, and servers that misbehave in ways no simulator should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from notifier.rehearsal.faults import Faults
from notifier.rehearsal.inbox import Inbox
from notifier.rehearsal.ledger import Ledger

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def inbox(**faults: object) -> AsyncIterator[tuple[Inbox, int]]:
    """A real SMTP server and its port."""
    server = Inbox(Ledger(), Faults.model_validate(faults), seed=1)
    listening = await server.start()
    yield server, listening.sockets[0].getsockname()[1]
    listening.close()
    server.ledger.close()


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[int]:
    """A TCP server that does what the test says; yields its port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
