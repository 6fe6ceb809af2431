"""A pair of rehearsal servers on a loop in a thread of its own, with its faults in the test's hands."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import web

from notifier.rehearsal.admin import Admin, local_only
from notifier.rehearsal.faults import Both
from notifier.rehearsal.inbox import Inbox
from notifier.rehearsal.ledger import Ledger
from notifier.rehearsal.sms_simulator import SmsSimulator
from notifier.settings import ROOT

API_KEY = "made-up-key"


@dataclass
class Pair:
    """Both servers, and a receiver of receipts in our place."""

    ledger: Ledger
    inbox: Inbox
    sms: SmsSimulator
    smtp_port: int = 0
    url: str = ""
    receipts_url: str = ""
    #: how our side answers receipts, one after the other; then 200
    answers: list[int] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def set_faults(self, email: dict[str, Any] | None = None, sms: dict[str, Any] | None = None) -> None:
        both = Both.model_validate({"email": email or {}, "sms": sms or {}})
        self.inbox.faults, self.sms.faults = both.email, both.sms

    def wait_for_receipts(self, count: int) -> list[dict[str, Any]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.receipts) >= count, timeout=20), self.receipts
            return list(self.receipts)

    async def take_receipt(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        with self.changed:
            if self.answers:
                return web.Response(status=self.answers.pop(0))
            self.receipts.append(body)
            self.changed.notify_all()
        return web.Response()


async def _listen(routes: list[web.RouteDef], middlewares: list[Any]) -> tuple[web.AppRunner, str]:
    app = web.Application(middlewares=middlewares)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _serve(pair: Pair, ready: threading.Event, ended: asyncio.Event) -> None:
    smtp = await pair.inbox.start()
    admin = Admin(pair.ledger, pair.inbox, pair.sms, ROOT / "templates")
    runner, pair.url = await _listen([*pair.sms.routes(), *admin.routes()], [local_only])
    ours, base = await _listen([web.post("/receipts", pair.take_receipt)], [])
    pair.smtp_port = smtp.sockets[0].getsockname()[1]
    pair.receipts_url = f"{base}/receipts"
    ready.set()
    await ended.wait()
    smtp.close()
    await pair.sms.close()
    await runner.cleanup()
    await ours.cleanup()
    pair.ledger.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ledger = Ledger()
    faults = Both.model_validate({"sms": {"receipt_delay_s": 0.02}})
    made = Pair(ledger, Inbox(ledger, faults.email, 1), SmsSimulator(ledger, faults.sms, 1, API_KEY))
    ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(made, ready, ended),))
    thread.start()
    assert ready.wait(20)
    yield made
    loop.call_soon_threadsafe(ended.set)
    thread.join(20)
    loop.close()
