"""SMS by Brevo's transactional API: one request a message, receipts by a webhook address of its own.

Brevo signs nothing and has no idempotency key for SMS (read 2026-11-25). So the webhook address of each
message carries our signed reference: it proves where a receipt comes from and names the delivery, even
when the answer to our request was lost. An uncertain request is never repeated here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from notifier import sms
from notifier.providers.base import Blame, Event, Kind, Message, Outcome, Receipt
from notifier.settings import BrevoSms
from notifier.states import Channel

_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,60}")
_WORD = re.compile(r"[A-Za-z][A-Za-z_ ]{0,39}")
_RETRY_CONNECT = timedelta(seconds=5)

#: Brevo's words (API enum and webhook names, lower case without `_`) in ours. Unknown words are noted.
_EVENTS = {
    "accepted": Event.NOTED,
    "request": Event.NOTED,
    "sent": Event.SENT,
    "delivered": Event.DELIVERED,
    "softbounce": Event.SOFT_FAILED,
    "softbounces": Event.SOFT_FAILED,
    "hardbounce": Event.HARD_FAILED,
    "hardbounces": Event.HARD_FAILED,
    "rejected": Event.SOFT_FAILED,
    "skipped": Event.SOFT_FAILED,
    # Brevo blocks a number after a STOP or a hard bounce: no SMS will reach it through this account
    "blocked": Event.HARD_FAILED,
    "blacklisted": Event.HARD_FAILED,
}


class BrevoSmsProvider:
    """See `providers.base.Provider`. One instance per process, used on one loop."""

    name = "brevo-sms"
    channel = Channel.SMS

    def __init__(self, settings: BrevoSms, webhook: Callable[[str], str]) -> None:
        """`webhook` makes the address for a reference's receipts."""
        self.concurrency = settings.concurrency
        self._settings = settings
        self._webhook = webhook
        # Parsed once: httpx spends more on an address and its merging than on the whole rest of a request.
        self._url = httpx.URL(settings.base_url.rstrip("/") + "/transactionalSMS/sms")
        self._transport: AiohttpTransport | None = None
        self._headers = httpx.Headers()
        self._extensions = {"timeout": httpx.Timeout(settings.timeout_s).as_dict()}

    async def open(self) -> None:
        key = self._settings.api_key.get_secret_value() if self._settings.api_key else ""
        self._headers = httpx.Headers(
            {"api-key": key, "content-type": "application/json", "accept": "application/json"}
        )
        # As many connections as hand-overs: nothing ever waits in the pool, so nothing times out there.
        limits = httpx.Limits(
            max_connections=self.concurrency, max_keepalive_connections=self.concurrency, keepalive_expiry=15
        )
        self._transport = AiohttpTransport(limits=limits, trust_env=False)

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def send(self, message: Message) -> Outcome:
        assert self._transport is not None, "open() comes first"
        # Straight to the transport: redirects, cookies and authentication of a client are of no use here, and
        # cost as much as the request itself.
        request = httpx.Request(
            "POST", self._url, headers=self._headers, content=self._body(message), extensions=self._extensions
        )
        try:
            response = await self._transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            return _broken(error)
        return _read(response)

    def _body(self, message: Message) -> bytes:
        text, unicode = _measured(message.text)
        return orjson.dumps(
            {
                "sender": self._settings.sender,
                "recipient": message.recipient.removeprefix("+"),
                "content": text,
                "type": "transactional",
                "tag": "notice",
                "unicodeEnabled": unicode,
                "webUrl": self._webhook(message.reference),
            }
        )

    def parse_receipts(self, reference: str, body: bytes) -> Sequence[Receipt]:
        """One event, or several in a list (`batched` webhooks). Raises ValueError for anything else."""
        data = orjson.loads(body)
        events = data if isinstance(data, list) else [data]
        if not events or not all(isinstance(event, dict) for event in events):
            raise ValueError("expected one event or a list of events")
        return [_receipt(reference, event) for event in events]


@functools.lru_cache(maxsize=512)
def _measured(text: str) -> tuple[str, bool]:
    """All SMS of one notice share one text, so measuring it is paid once."""
    measured = sms.measure(text)
    return measured.text, measured.encoding != "GSM-7"


def _broken(error: Exception) -> Outcome:
    """Whether a request that ended without an answer can have arrived.

    The aiohttp transport reports almost every broken connection as `httpx.ConnectTimeout`, also one that
    broke after the request was written (httpx-aiohttp 0.2.0, read 2026-11-25). Only the error beneath
    tells them apart; remove this when the transport does.
    """
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    name = type(cause).__name__
    never_sent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx.UnsupportedProtocol)
    if isinstance(cause, never_sent):
        return Outcome(Kind.REFUSED, "connect_failed", Blame.THROTTLED, _RETRY_CONNECT, raw=name)
    return Outcome(Kind.UNKNOWN, "no_answer", raw=name)


def _read(response: httpx.Response) -> Outcome:
    raw = f"{response.status_code} {response.content[:2000].decode('utf-8', 'replace')}"
    code = f"http_{response.status_code}"
    try:
        data: Any = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        data = None
    said = data if isinstance(data, dict) else {}
    word = said.get("code")
    if isinstance(word, str) and word.replace("_", "").isalpha():
        code = f"{code}_{word[:40]}"
    match response.status_code:
        case 200 | 201 | 202:
            message_id = said.get("messageId")
            return Outcome(
                Kind.ACCEPTED,
                "accepted",
                provider_message_id=None if message_id is None else str(message_id),
                raw=raw,
            )
        case 429:
            return Outcome(Kind.REFUSED, code, Blame.THROTTLED, _reset_after(response.headers), raw=raw, hold=True)
        case 401 | 402 | 403:
            return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw, hold=True)
        case 400:
            # The one thing in the request that is the person's is the number.
            about = str(said.get("message", "")).lower()
            persons = any(word in about for word in ("recipient", "phone", "mobile", "number"))
            return Outcome(Kind.REFUSED, code, Blame.PERSON if persons else Blame.OURS, raw=raw)
        case 503:
            return Outcome(Kind.REFUSED, code, Blame.LATER, raw=raw)
        case status if status >= 500:
            # With Brevo's own error body it was refused; a gateway's page says nothing about what is behind it.
            kind = Kind.REFUSED if word else Kind.UNKNOWN
            return Outcome(kind, code, Blame.LATER if word else None, raw=raw)
        case _:
            return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw)


def _reset_after(headers: httpx.Headers) -> timedelta:
    """Brevo sends no Retry-After but the seconds until its window resets."""
    for name in ("retry-after", "x-sib-ratelimit-reset"):
        try:
            seconds = float(headers[name])
        except (KeyError, ValueError):
            continue
        return timedelta(seconds=min(max(seconds, 0.1), 3600))
    return timedelta(seconds=1)


def _receipt(reference: str, event: dict[str, Any]) -> Receipt:
    word = next((event[key] for key in ("msg_status", "event", "status") if isinstance(event.get(key), str)), None)
    if word is None:
        raise ValueError("the event has no status")
    return Receipt(
        reference=reference,
        event=_EVENTS.get(word.replace("_", "").lower(), Event.NOTED),
        code=word if _WORD.fullmatch(word) else "unreadable",
        at=_at(event),
        provider_message_id=_text(event.get("messageId", event.get("message-id"))),
    )


def _text(message_id: object) -> str | None:
    """A number or a short word; anything else could hold a person."""
    known = isinstance(message_id, int | str) and _MESSAGE_ID.fullmatch(str(message_id))
    return str(message_id) if known else None


def _at(event: dict[str, Any]) -> datetime:
    """`ts_epoch` (milliseconds, UTC) is the only time of an event without a zone in doubt."""
    for key, unit in (("ts_epoch", 1000.0), ("ts_event", 1.0), ("ts", 1.0)):
        value = event.get(key)
        if isinstance(value, int | float) and value > 0:
            return datetime.fromtimestamp(value / unit, UTC)
    raise ValueError("the event has no time (ts_epoch, ts_event or ts)")
