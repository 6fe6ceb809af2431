"""The rehearsal's SMS provider: speaks Brevo's transactional SMS API, sends nothing, keeps its own count.

`POST /v3/transactionalSMS/sms` and `/send`, as in Brevo's published definition (`sendTransacSms`, `sendSms`,
`errorModel`) and its pages on limits; then receipts are posted to the message's `webUrl`, each as one object:

    {"id": 26527, "status": "OK", "msg_status": "delivered", "description": "delivered", "to": "33639980001",
     "ts_event": 1764036000, "date": "2025-11-25 03:00:00", "messageId": 1511882900176220,
     "reference": {"1": "ab1cde2fgh3i4jklmno"}, "tag": ["…"], "type": "transactional"}

`ts_event` is UTC in seconds, `date` Central European Time. `sent` also carries `sms_count`, `credits_used` and
`remaining_credit`; bounces also `error_code` and `bounce_type`. `msg_status` is one of sent, delivered,
soft_bounce, hard_bounce.

Source: https://developers.brevo.com/docs/transactional-webhooks (read 2026-11-25: the field table of "Sent"
and the statement on time zones), and a public summary of that page for `delivered`, with `reference` as an object.
The page's table calls `reference` a string, so a reader must take both. Not confirmed: `error_code`,
`bounce_type`, and whether receipts also use the names of the events report (softBounces, hardBounces, accepted,
rejected, …).

A receipt our side does not take (no answer, 429 or 5xx) is posted again; any other 4xx discards it, as at Brevo.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp import web

from notifier.rehearsal.faults import (
    Fate,
    Faults,
    PlannedReceipt,
    Trouble,
    fate,
    latency_s,
    plan_receipts,
    trouble,
)
from notifier.rehearsal.ledger import Ledger
from notifier.states import Channel

MAX_BODY_BYTES = 64 * 1024
RECEIPT_TRIES = 8
#: doubled after each try: a restart of our side takes seconds, so all tries fit in about a minute
RECEIPT_RETRY_S = 0.25
RECEIPT_TIMEOUT_S = 5.0
PRICE_PER_PART = 0.045
CENTRAL_EUROPE = timezone(timedelta(hours=1))
ERROR_CODES = {"soft_bounce": 27, "hard_bounce": 1}

# 3GPP TS 23.038 §6.2.1: the basic alphabet, and the characters that take two places.
_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_DOUBLE = frozenset("^{}\\[~]|€\f")
_RECIPIENT = re.compile(r"[1-9]\d{6,14}")
_SENDER = re.compile(r"[A-Za-z0-9 ]{1,11}|\d{1,15}")
# French numbers that are no mobiles: geographic and 09. No SMS reaches them.
_LANDLINE = re.compile(r"33[1-589]\d{8}")


@dataclass(frozen=True, slots=True)
class _Sms:
    recipient: str
    parts: int
    message_id: int
    reference: str
    web_url: str
    tag: str
    kind: str


class SmsSimulator:
    """The two routes and the calls back. `faults` may be replaced at any moment; `close` ends pending receipts."""

    def __init__(self, ledger: Ledger, faults: Faults, seed: int, api_key: str) -> None:
        self.ledger = ledger
        self.faults = faults
        self.seed = seed
        self.api_key = api_key
        self.credits = 1_000_000.0
        #: receipts posted and taken by our side, for the page
        self.receipts_posted = 0
        #: requests seen, whatever became of them
        self.tries = 0
        self.receipts_given_up = 0
        self._dice = random.Random(f"{seed} sms")
        self._window = (0, 0)
        # As Brevo's: microseconds since 1970, so that two runs do not share one.
        self._ids = itertools.count(time.time_ns() // 1000)
        self._client: aiohttp.ClientSession | None = None
        self._pending: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.post(f"/v3/transactionalSMS/{name}", self.send) for name in ("sms", "send")]

    async def close(self) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def send(self, request: web.Request) -> web.StreamResponse:
        """One SMS. Counts it before answering: an answer that is lost does not undo the count."""
        self.tries += 1
        await asyncio.sleep(latency_s(self.faults, self._dice))
        kind = trouble(self.faults, self._dice)
        if kind is Trouble.CLOSED:
            return _hang_up(request)
        if request.headers.get("api-key") != self.api_key:
            return _problem(401, "unauthorized", "Key not found")
        limit, remaining = self._take_place()
        if kind is Trouble.THROTTLED or remaining < 0:
            return _too_many(limit)
        if kind is Trouble.BROKEN:
            status = self._dice.choice((500, 502, 503))
            return web.Response(status=status, text="<html><body>Service unavailable</body></html>")
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            return _problem(400, "bad_request", "Input must be a valid JSON object")
        if wrong := _check(body):
            return _problem(400, *wrong)
        if self.faults.sender_refused:
            return _problem(402, "not_enough_credits", "You don't have enough credit to send your SMS")
        end = self._fate(body["recipient"])
        if end is Fate.REFUSED:
            return _problem(400, "invalid_parameter", "Invalid telephone number")
        return await self._take(request, body, end, kind)

    async def _take(
        self, request: web.Request, body: dict[str, Any], end: Fate, kind: Trouble | None
    ) -> web.StreamResponse:
        recipient, parts = body["recipient"], count_parts(body["content"])
        is_first = self.ledger.count(Channel.SMS, recipient) == 0
        arrived = end is not Fate.HARD_BOUNCES and not (end is Fate.SOFT_BOUNCES_ONCE and is_first)
        self.ledger.add(
            Channel.SMS,
            recipient,
            body["content"],
            at=time.time(),
            sender=body["sender"],
            arrived=arrived,
            reference=body.get("webUrl", "").rpartition("/")[2],
        )
        self.credits -= parts * PRICE_PER_PART
        sms = _Sms(
            recipient=recipient,
            parts=parts,
            message_id=next(self._ids),
            reference=f"{self._dice.getrandbits(96):019x}"[:19],
            web_url=body.get("webUrl", ""),
            tag=body.get("tag", ""),
            kind=body.get("type", "transactional"),
        )
        plan = plan_receipts(self.faults, end, is_first, self._dice) if sms.web_url else []
        if plan and plan[0].early and await self._post_one(plan[0], sms, time.time(), tries=1):
            plan = plan[1:]
        self._spawn(plan, sms)
        if kind is Trouble.LOST_REPLY:
            await asyncio.sleep(self.faults.lost_reply_hangs_s)
            return _hang_up(request)
        answer = {
            "reference": sms.reference,
            "messageId": sms.message_id,
            "smsCount": parts,
            "usedCredits": round(parts * PRICE_PER_PART, 3),
            "remainingCredits": round(self.credits, 3),
        }
        return web.Response(status=201, body=orjson.dumps(answer), content_type="application/json")

    def _fate(self, recipient: str) -> Fate:
        end = fate(self.faults, self.seed, recipient)
        return Fate.HARD_BOUNCES if _LANDLINE.fullmatch(recipient) and end is not Fate.REFUSED else end

    def _take_place(self) -> tuple[int, int]:
        """(limit, places left in this second); a limit of 0 never runs out."""
        limit = self.faults.rate_per_s
        second, used = int(time.monotonic()), self._window[1] + 1
        self._window = (second, used if second == self._window[0] else 1)
        return limit, limit - self._window[1] if limit else 0

    def _spawn(self, plan: list[PlannedReceipt], sms: _Sms) -> None:
        if plan:
            task = asyncio.create_task(self._post_all(plan, sms))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _post_all(self, plan: list[PlannedReceipt], sms: _Sms) -> None:
        start = time.time()
        for one in plan:
            await asyncio.sleep(max(0.0, start + one.comes_s - time.time()))
            if not await self._post_one(one, sms, start, RECEIPT_TRIES):
                self.receipts_given_up += 1

    async def _post_one(self, one: PlannedReceipt, sms: _Sms, start: float, tries: int) -> bool:
        return await self._post(receipt(sms, one.status, start + one.happens_s, self.credits), sms.web_url, tries)

    async def _post(self, payload: dict[str, Any], url: str, tries: int) -> bool:
        """Whether our side took it within so many tries, the wait doubled after each."""
        if self._client is None:
            timeout = aiohttp.ClientTimeout(total=RECEIPT_TIMEOUT_S)
            self._client = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=50))
        wait = RECEIPT_RETRY_S
        for _ in range(tries):
            try:
                async with self._client.post(
                    url, data=orjson.dumps(payload), headers={"Content-Type": "application/json"}
                ) as answer:
                    if answer.status < 400:
                        self.receipts_posted += 1
                        return True
                    if answer.status < 500 and answer.status != 429:
                        return False
            except (aiohttp.ClientError, TimeoutError, OSError):
                # Our side is down or slow: the same as a 5xx.
                pass
            await asyncio.sleep(wait)
            wait *= 2
        return False


def receipt(sms: _Sms, status: str, happened_at: float, left: float) -> dict[str, Any]:
    """One receipt as Brevo posts it: see the head of this module."""
    local = datetime.fromtimestamp(happened_at, UTC).astimezone(CENTRAL_EUROPE)
    payload: dict[str, Any] = {
        "id": 26527,
        "status": "OK",
        "msg_status": status,
        "description": status,
        "to": sms.recipient,
        "ts_event": int(happened_at),
        "date": local.strftime("%Y-%m-%d %H:%M:%S"),
        "messageId": sms.message_id,
        "reference": {"1": sms.reference},
        "type": sms.kind,
    }
    if sms.tag:
        payload["tag"] = [sms.tag]
    if status == "sent":
        used = round(sms.parts * PRICE_PER_PART, 3)
        payload |= {"sms_count": sms.parts, "credits_used": used, "remaining_credit": round(left, 3)}
    if status in ERROR_CODES:
        payload |= {"error_code": ERROR_CODES[status], "bounce_type": status}
    return payload


def count_parts(text: str) -> int:
    """Parts an operator bills: 160 or 153 places of the GSM alphabet, else 70 or 67 UTF-16 units.

    Counts by division, as a bill does; a split character pair may cost a part more on the air.
    """
    if all(sign in _GSM or sign in _GSM_DOUBLE for sign in text):
        units, single, several = len(text) + sum(sign in _GSM_DOUBLE for sign in text), 160, 153
    else:
        units, single, several = len(text.encode("utf-16-le")) // 2, 70, 67
    return 1 if units <= single else -(-units // several)


def _check(body: Any) -> tuple[str, str] | None:
    """(code, message) of the first thing wrong, in Brevo's words for it; None if the request is good."""
    if not isinstance(body, dict):
        return "bad_request", "Input must be a valid JSON object"
    for name in ("sender", "recipient", "content"):
        if not body.get(name):
            return "missing_parameter", f"{name} is missing"
    for name in ("sender", "recipient", "content", "tag", "webUrl", "type"):
        if not isinstance(body.get(name, ""), str):
            return "invalid_parameter", f"{name} must be a string"
    if not _SENDER.fullmatch(body["sender"]):
        return "invalid_parameter", "Sender must be at most 11 letters or digits, or 15 digits"
    if not _RECIPIENT.fullmatch(body["recipient"]):
        return "invalid_parameter", "Invalid telephone number"
    if body.get("type", "transactional") not in ("transactional", "marketing"):
        return "invalid_parameter", "type must be transactional or marketing"
    if not isinstance(body.get("unicodeEnabled", False), bool):
        return "invalid_parameter", "unicodeEnabled must be a boolean"
    url = urlsplit(body.get("webUrl") or "http://none.example")
    if url.scheme not in ("http", "https") or not url.netloc:
        return "invalid_parameter", "webUrl is not a valid URL"
    return None


def _problem(status: int, code: str, message: str) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps({"code": code, "message": message}), content_type="application/json"
    )


def _too_many(limit: int) -> web.Response:
    """429 with Brevo's three headers and, as there, no Retry-After. `reset` is in seconds."""
    answer = _problem(429, "too_many_requests", "Rate limit exceeded")
    answer.headers.update(
        {
            "x-sib-ratelimit-limit": str(limit or 150),
            "x-sib-ratelimit-remaining": "0",
            "x-sib-ratelimit-reset": "1",
        }
    )
    return answer


def _hang_up(request: web.Request) -> web.Response:
    """Ends the connection so that the answer is never read."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
