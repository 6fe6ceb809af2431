"""Email by Brevo's transactional API: one request an email, or up to 1,000 own texts in one request.

What Brevo does not let us set is the Message-ID. Our reference goes into `X-Mailin-custom`, which comes back in
every receipt (and which the recipient can see: it proves nothing). Brevo processes a request once per
`idempotencyKey`, and answers `duplicate_parameter` to the second: so an uncertain one can be asked again.
Sources, read 2026-11-25: developers.brevo.com/docs/batch-send-transactional-emails, /transactional-webhooks and
/heterogenous-versions-batch-emails (idempotency); the headers of a version as django-anymail sends them.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import orjson

from notifier.providers import brevo
from notifier.providers.base import Blame, Event, Kind, Message, Outcome, Receipt, message_id
from notifier.providers.brevo_email_body import Frame, frame_of
from notifier.providers.http import NoAnswer, NotSent
from notifier.providers.http_answer import Response
from notifier.settings import BrevoEmail
from notifier.states import Channel

#: of one request
MAX_VERSIONS = 1000
#: Brevo tells no limit of a request's size: larger batches go in several
_MAX_REQUEST_BYTES = 8 * 1024 * 1024
_DUPLICATE = ("http_400_duplicate_parameter", "http_400_duplicate_request")
_REFERENCE = re.compile(r"[0-9]{1,19}\.[A-Za-z0-9_-]{1,64}")

#: Brevo's words (see `brevo.plain`) in ours. Unknown words are noted.
_EVENTS = {
    # Brevo took it: an uncertain hand-over is then known to have arrived there
    "request": Event.SENT,
    "sent": Event.SENT,
    "delivered": Event.DELIVERED,
    # Brevo goes on trying
    "deferred": Event.NOTED,
    "softbounce": Event.SOFT_FAILED,
    "error": Event.SOFT_FAILED,
    "hardbounce": Event.HARD_FAILED,
    "invalidemail": Event.HARD_FAILED,
    # after a hard bounce or a complaint: no email will reach this address through this account
    "blocked": Event.HARD_FAILED,
    # it arrived
    "spam": Event.NOTED,
    "complaint": Event.NOTED,
}
#: reading habits: not ours to know
_NOT_KEPT = frozenset(
    {"opened", "uniqueopened", "proxyopen", "uniqueproxyopen", "uniqueproxyopened", "click", "clicked"}
)


class BrevoEmailReceipts:
    """See `providers.base.AccountReceiptParser`. Brevo signs nothing: a token agreed with it is the only proof."""

    name = "brevo-email"
    channel = Channel.EMAIL

    def __init__(self, settings: BrevoEmail) -> None:
        self._token = settings.webhook_token.get_secret_value() if settings.webhook_token else ""

    def verify(self, authorization: str | None) -> bool:
        """True for the token as `Bearer`, or as the password of `Basic`; never if no token is set."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return bool(self._token) and secrets.compare_digest(given.encode(), self._token.encode())

    def parse_events(self, body: bytes) -> Sequence[tuple[Receipt, bytes]]:
        """An event we cannot read stops none of the others; ValueError only if none can be read."""
        found, unread = [], 0
        events = brevo.events(body)
        for event in events:
            carried = event.get("X-Mailin-custom")
            reference = carried if isinstance(carried, str) and _REFERENCE.fullmatch(carried) else ""
            try:
                receipt = brevo.receipt(reference, event, _EVENTS)
            except (ValueError, OverflowError, OSError):  # the latter two: a time no calendar has
                unread += 1
                continue
            named = receipt.reference or receipt.provider_message_id
            if named and brevo.plain(receipt.code) not in _NOT_KEPT:
                found.append((receipt, orjson.dumps(event)))
        if unread == len(events):
            raise ValueError("no event can be read")
        return found


class BrevoEmailProvider:
    """See `providers.base`: Provider, BatchProvider, RepeatableProvider. One per process, used on one loop."""

    name = BrevoEmailReceipts.name
    channel = Channel.EMAIL
    #: Brevo's guide says 30 minutes, the note that brought keys 15
    idempotent_for = timedelta(minutes=15)

    def __init__(self, settings: BrevoEmail) -> None:
        self.concurrency = settings.concurrency
        self.batch_size = settings.batch
        self._sender = settings.sender
        self._client = brevo.client(
            settings.base_url,
            "/smtp/email",
            settings.api_key,
            connections=settings.concurrency,
            timeout_s=settings.timeout_s,
        )

    async def open(self) -> None:
        """Connections are made when first needed, so that a provider that is down fails no start."""

    async def close(self) -> None:
        await self._client.close()

    async def send(self, message: Message) -> Outcome:
        return await self._one(message, again=False)

    async def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Raises ValueError if they have not all the same sender."""
        return await self._all(messages, again=False)

    async def ask_again(self, messages: Sequence[Message]) -> list[Outcome]:
        return await self._all(messages, again=True)

    async def _one(self, message: Message, *, again: bool) -> Outcome:
        frame = frame_of(message, self._sender)
        if isinstance(frame, Outcome):
            return frame
        outcome, _ = await self._ask(frame.single(message), again=again)
        return outcome

    async def _all(self, messages: Sequence[Message], *, again: bool) -> list[Outcome]:
        if len(messages) == 1:
            return [await self._one(messages[0], again=again)]
        outcomes: dict[int, Outcome] = {}
        fit: list[tuple[int, Frame, bytes]] = []
        for place, message in enumerate(messages):
            frame = frame_of(message, self._sender)
            if isinstance(frame, Outcome):
                outcomes[place] = frame
            else:
                fit.append((place, frame, frame.version(message)))
        if len({frame.sender for _, frame, _ in fit}) > 1:
            raise ValueError("the messages of one batch have one sender")
        stopped = False
        for part in _parts(fit):
            places = [place for place, _, _ in part]
            if stopped:
                results = [_not_asked(again=again)] * len(part)
            else:
                key = "\n".join(messages[place].reference for place in places)
                outcome, response = await self._ask(
                    part[0][1].batch(key, [version for _, _, version in part]), again=again
                )
                results = _each(outcome, response, len(part))
                # A request after one that failed would most likely fail too, and take its time-out.
                stopped = outcome.kind is not Kind.ACCEPTED
            outcomes.update(zip(places, results, strict=True))
        return [outcomes[place] for place in range(len(messages))]

    async def _ask(self, body: bytes, *, again: bool) -> tuple[Outcome, Response | None]:
        response = None
        try:
            try:
                response = await self._client.post(body)
            except NoAnswer as error:
                if not error.idle:
                    raise
                # Brevo closed a kept connection as we wrote. Its key makes the request harmless to repeat.
                again = True
                response = await self._client.post(body, fresh=True)
        except (NotSent, NoAnswer) as error:
            outcome = brevo.broken(error)
        else:
            outcome = brevo.read(response, _is_persons)
        return (_settled(outcome) if again else _first(outcome)), response


def _first(outcome: Outcome) -> Outcome:
    """A key that Brevo knows already, although we did not ask again: an earlier try came through, or was
    refused and its key used up. Receipts, or the time, will tell which."""
    if outcome.code in _DUPLICATE:
        return replace(outcome, kind=Kind.UNKNOWN, blame=None)
    return outcome


def _settled(outcome: Outcome) -> Outcome:
    """What the answer to the same request says about the first one."""
    if outcome.code in _DUPLICATE:
        return replace(outcome, kind=Kind.ACCEPTED, code="accepted_before", blame=None)
    if outcome.kind is Kind.ACCEPTED:
        return outcome
    return replace(outcome, kind=Kind.UNKNOWN, blame=None)


def _each(outcome: Outcome, response: Response | None, count: int) -> list[Outcome]:
    """The outcome of a batch for each of its messages."""
    if outcome.kind is Kind.ACCEPTED:
        ids = brevo.said(response).get("messageIds") if response is not None else None
        if not isinstance(ids, list) or len(ids) != count:
            return [replace(outcome, provider_message_id=None)] * count
        # In the order of the versions, as django-anymail relies on; receipts go by the reference anyway.
        return [
            replace(outcome, provider_message_id=message_id(one), raw=f"{outcome.code} {one}"[:200]) for one in ids
        ]
    if outcome.kind is Kind.REFUSED and outcome.blame in (Blame.PERSON, Blame.OURS) and not outcome.hold:
        # Brevo checks a request as a whole, and does not say reliably which version it means.
        return [replace(outcome, blame=Blame.LATER, alone=True)] * count
    return [outcome] * count


def _not_asked(*, again: bool) -> Outcome:
    if again:
        return Outcome(Kind.UNKNOWN, "not_asked")
    return Outcome(Kind.REFUSED, "not_sent", Blame.THROTTLED, timedelta(seconds=1))


def _parts(fit: Sequence[tuple[int, Frame, bytes]]) -> Iterator[list[tuple[int, Frame, bytes]]]:
    """Runs of versions whose texts fit one request; the same for the same messages."""
    part: list[tuple[int, Frame, bytes]] = []
    size = 0
    for one in fit:
        if part and (size + len(one[2]) > _MAX_REQUEST_BYTES or len(part) == MAX_VERSIONS):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one[2])
    if part:
        yield part


def _is_persons(about: str) -> bool:
    """Whether an error is about the recipient's address. In doubt it is not: that would end a channel for them."""
    if any(word in about for word in ("sender", "reply", "from", "header", "subject", "content")):
        return False
    return any(word in about for word in ("recipient", "in to", "to is", "invalid email", "email is not valid"))
