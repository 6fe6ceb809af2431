"""What every provider is to the rest: a message goes in, one of three outcomes comes out, receipts follow.

A provider module knows one vendor's wire format and nothing of our database.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

from notifier.notices import Frozen
from notifier.states import Channel


class Kind(StrEnum):
    """How a hand-over ended."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    #: it may have been sent: never resent blindly
    UNKNOWN = "unknown"


class Blame(StrEnum):
    """Whose matter a refusal is, which decides the next step (RFC 3463 classes, vendors' tables)."""

    #: this contact does not work: fall back to the next channel
    PERSON = "person"
    #: try again later; counts as a try
    LATER = "later"
    #: not now, and not because of this message: wait `retry_after`; does not count as a try
    THROTTLED = "throttled"
    #: our account, sender or content: hold the provider, tell operations, never blame the person
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Message:
    """One notice for one contact. `reference` is the delivery's: the same at every try."""

    reference: str
    recipient: str
    content: Frozen
    language: str
    #: the patient's display name as the list has it; empty for an SMS, which names nobody
    name: str = ""
    #: display name of the sender (email only), e.g. "Dr Claire Martin, Cabinet des Lilas"
    sender_name: str = ""
    reply_to: str = ""

    @property
    def text(self) -> str:
        return self.content.fill(self.name)[0]

    @property
    def html(self) -> str:
        return self.content.fill(self.name)[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one hand-over. `raw` is the provider's own answer; it may name the person: it is sealed."""

    kind: Kind
    #: short, stable, free of personal data: "accepted", "smtp_550_5.1.1", "http_429", "timeout_after_request"
    code: str
    blame: Blame | None = None
    retry_after: timedelta | None = None
    provider_message_id: str | None = None
    raw: str = ""
    #: the answer concerns the whole account, not this message: everybody waits
    hold: bool = False
    #: surely not sent, and refused for some message of its batch, maybe another one: hand it over by itself now
    alone: bool = False


#: a number or a short word, or digits at a relay: anything else could hold a person
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}|<[0-9.]{1,60}@[A-Za-z0-9.-]{1,100}>")


def message_id(value: object) -> str | None:
    """A provider's name of a message as people may see it; None if it has a form that could hold a person."""
    known = isinstance(value, int | str) and _MESSAGE_ID.fullmatch(str(value))
    return str(value) if known else None


#: given up before a byte of the message went out, because it was stopped meanwhile
STOPPED = Outcome(Kind.REFUSED, "not_sent", Blame.THROTTLED)


class Event(StrEnum):
    """What a receipt says, in our words."""

    #: handed to the operator or the next server
    SENT = "sent"
    DELIVERED = "delivered"
    #: not now; the provider gave up on this try
    SOFT_FAILED = "soft_failed"
    #: this contact does not work
    HARD_FAILED = "hard_failed"
    #: recorded, changes nothing (opens, replies, events we have never seen)
    NOTED = "noted"


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event a provider reports about one delivery; several may come in one request."""

    reference: str
    event: Event
    #: the provider's own word for it
    code: str
    at: datetime
    provider_message_id: str | None = None


class Provider(Protocol):
    """A carrier of one channel. `send` never raises for what a network or vendor can do: that is an Outcome."""

    name: str
    channel: Channel
    #: hand-overs in flight per process
    concurrency: int

    async def open(self) -> None:
        """Prepares connections on the running loop."""

    async def close(self) -> None:
        """Lets go of connections; never cancels a hand-over in flight."""

    async def send(self, message: Message) -> Outcome:
        """Hands one message over. Takes at most a few of its own time-outs."""


@runtime_checkable
class OverlappingProvider(Provider, Protocol):
    """A carrier that can begin a message before the one before is answered."""

    async def start(self, message: Message, may_go: Callable[[], bool]) -> asyncio.Future[Outcome]:
        """Returns once the next message may begin, with what will tell how this one ended.

        `may_go` is asked at the last moment at which nothing has been sent; False ends it as `STOPPED`.
        """


@runtime_checkable
class BatchProvider(Provider, Protocol):
    """A carrier that takes many messages in one request."""

    #: most messages in one request; 1 means that batches are switched off
    batch_size: int

    async def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Hands over messages of one sender; their outcomes stand in the same order, each true by itself."""


@runtime_checkable
class RepeatableProvider(Provider, Protocol):
    """A carrier that knows a request again, so that one whose end is unknown can be settled by asking."""

    #: how long after the first request it surely still knows it
    idempotent_for: timedelta

    async def ask_again(self, messages: Sequence[Message]) -> list[Outcome]:
        """The very request again: of one message, or the same batch in the same order.

        Accepted means that it was taken, now or before. Everything else stays unknown: a refusal of the
        second request says nothing about the first.
        """


class ReceiptParser(Protocol):
    """The receiving side of a provider that calls back. The caller has checked that the request is genuine."""

    name: str
    channel: Channel

    def parse_receipts(self, reference: str, body: bytes) -> Sequence[Receipt]:
        """Raises ValueError if the body is not in the provider's form."""


class AccountReceiptParser(Protocol):
    """The receiving side of a provider that reports about a whole account to one address."""

    name: str
    channel: Channel

    def verify(self, authorization: str | None) -> bool:
        """Whether the request's `Authorization` proves that it comes from the provider."""

    def parse_events(self, body: bytes) -> Sequence[tuple[Receipt, bytes]]:
        """Each event with its own part of the body: the rest is about other people, maybe another doctor's.

        `Receipt.reference` is what the message carried, unchecked; empty if the event names the message only by
        the provider's id. Raises ValueError if the body is not in the provider's form.
        """
