"""The rehearsal's own pair of servers, and servers that misbehave in ways no simulator should."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

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


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next HTTP request. Raises asyncio.IncompleteReadError if there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = re.findall(rb"\r\ncontent-length: (\d+)\r\n", head)
    return await reader.readexactly(int(length))


@dataclass
class Brevo:
    """A server that gives these answers in turn, the last one for good, and what it was asked."""

    answers: list[tuple[int, object, dict[str, str]]]
    base_url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        status, body, headers = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(
            {"path": request.path, "key": request.headers.get("api-key"), "body": await request.json()}
        )
        content = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=content, headers=headers)


@asynccontextmanager
async def brevo(*answers: tuple[int, object] | tuple[int, object, dict[str, str]]) -> AsyncIterator[Brevo]:
    """Answers are (status, body) or (status, body, headers); a body that is no text becomes JSON."""
    server = Brevo([(*one, {}) if len(one) == 2 else one for one in answers])
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post("/v3/{path:.*}", server.answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v3"
    yield server
    await runner.cleanup()
