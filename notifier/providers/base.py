"""What every provider is to the rest: a message goes in, one of three outcomes comes out, receipts follow.

A provider module knows one vendor's wire format and nothing of our database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

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


class ReceiptParser(Protocol):
    """The receiving side of a provider that calls back. The caller has checked that the request is genuine."""

    name: str
    channel: Channel

    def parse_receipts(self, reference: str, body: bytes) -> Sequence[Receipt]:
        """Raises ValueError if the body is not in the provider's form."""
