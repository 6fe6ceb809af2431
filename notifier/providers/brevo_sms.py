"""SMS by Brevo's transactional API: one request a message, receipts by a webhook address of its own.

Brevo has no idempotency key for SMS (read 2026-11-25). So the webhook address of each message carries our
signed reference: it proves where a receipt comes from and names the delivery, even when the answer to our
request was lost. An uncertain request is never repeated here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import orjson

from notifier import sms
from notifier.providers import brevo
from notifier.providers.base import Event, Message, Outcome, Receipt
from notifier.providers.http import NoAnswer, NotSent
from notifier.settings import BrevoSms
from notifier.states import Channel

#: Brevo's words (API enum and webhook names, see `brevo.plain`) in ours. Unknown words are noted.
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


class BrevoSmsReceipts:
    """See `providers.base.ReceiptParser`."""

    name = "brevo-sms"
    channel = Channel.SMS

    def parse_receipts(self, reference: str, body: bytes) -> Sequence[Receipt]:
        return [brevo.receipt(reference, event, _EVENTS) for event in brevo.events(body)]


class BrevoSmsProvider:
    """See `providers.base.Provider`. One instance per process, used on one loop."""

    name = BrevoSmsReceipts.name
    channel = Channel.SMS

    def __init__(self, settings: BrevoSms, webhook: Callable[[str], str]) -> None:
        """`webhook` makes the address for a reference's receipts."""
        self.concurrency = settings.concurrency
        self._settings = settings
        self._webhook = webhook
        self._client = brevo.client(
            settings.base_url,
            "/transactionalSMS/sms",
            settings.api_key,
            connections=settings.concurrency,
            timeout_s=settings.timeout_s,
        )

    async def open(self) -> None:
        """Connections are made when first needed, so that a provider that is down fails no start."""

    async def close(self) -> None:
        await self._client.close()

    async def send(self, message: Message) -> Outcome:
        try:
            response = await self._client.post(self._body(message))
        except (NotSent, NoAnswer) as error:
            return brevo.broken(error)
        return brevo.read(response, _is_persons)

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


@functools.lru_cache(maxsize=512)
def _measured(text: str) -> tuple[str, bool]:
    """All SMS of one notice share one text, so measuring it is paid once."""
    measured = sms.measure(text)
    return measured.text, measured.encoding != "GSM-7"


def _is_persons(about: str) -> bool:
    # The one thing in the request that is the person's is the number.
    return any(word in about for word in ("recipient", "phone", "mobile", "number"))
