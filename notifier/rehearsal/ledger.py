"""The rehearsal servers' own count: what was taken, for whom, when; kept apart from whatever the product thinks.

Messages are appended to a file as JSON lines before they are confirmed; memory holds only where each one is.
With a journal path the file stays, and a killed rehearsal is recounted from it; without one it has no name and
vanishes with the process. The file holds contacts and texts: it is readable by its owner only.
"""

from __future__ import annotations

import email
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Any

import orjson

from notifier.states import Channel


@dataclass(frozen=True, slots=True)
class Taken:
    """One message a rehearsal server took. `content` is the SMS text, or the mail's bytes read as Latin-1."""

    number: int
    channel: Channel
    contact: str
    #: seconds since 1970
    at: float
    #: False where the operator then reports that it did not reach the phone
    arrived: bool
    sender: str
    content: str
    #: what an SMS was handed over with: the last part of the address for its receipts
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as its reader sees it."""

    message_id: str
    sender: str
    subject: str
    text: str
    html: str


class Ledger:
    """Append and count. Not for threads: it lives on one event loop."""

    def __init__(self, journal: Path | None = None) -> None:
        #: offset and length in the file, and the contact (one string for all messages to it)
        self._places: list[tuple[int, int, str]] = []
        self._numbers: dict[Channel, list[int]] = {channel: [] for channel in Channel}
        self._arrived: Counter[Channel] = Counter()
        self._contacts: dict[Channel, Counter[str]] = {channel: Counter() for channel in Channel}
        self._names: dict[str, str] = {}
        self._size = 0
        if journal is None:
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
            return
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._count_again(journal)

    def _count_again(self, journal: Path) -> None:
        with journal.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # Cut off by a kill, so never confirmed to anyone.
                    os.ftruncate(self._fd, self._size)
                    break
                known = orjson.loads(line)
                self._note(len(line), Channel(known["channel"]), known["contact"], known["arrived"])

    def close(self) -> None:
        os.close(self._fd)

    def add(
        self,
        channel: Channel,
        contact: str,
        content: str,
        *,
        at: float,
        sender: str = "",
        arrived: bool = True,
        reference: str = "",
    ) -> int:
        """Writes one message down and returns its number. After this it may be confirmed."""
        number = len(self._places)
        taken = Taken(number, channel, contact, at, arrived, sender, content, reference)
        line = orjson.dumps(asdict(taken)) + b"\n"
        os.pwrite(self._fd, line, self._size)
        self._note(len(line), channel, contact, arrived)
        return number

    def reset(self) -> None:
        """Forgets everything, the journal's content too."""
        os.ftruncate(self._fd, 0)
        self._size = 0
        self._places.clear()
        self._names.clear()
        self._arrived.clear()
        for channel in Channel:
            self._numbers[channel].clear()
            self._contacts[channel].clear()

    def total(self, channel: Channel) -> int:
        return len(self._numbers[channel])

    def count(self, channel: Channel, contact: str) -> int:
        """How many messages were taken for this contact."""
        return self._contacts[channel][contact]

    def counts(self) -> dict[str, Any]:
        """Totals and, per contact, the number of messages taken."""
        return {
            channel.value: {
                "taken": self.total(channel),
                "arrived": self._arrived[channel],
                "contacts": dict(self._contacts[channel]),
            }
            for channel in Channel
        }

    def repeated(self, channel: Channel, limit: int) -> list[tuple[str, int]]:
        """Contacts with more than one message, most first."""
        return [(contact, n) for contact, n in self._contacts[channel].most_common(limit) if n > 1]

    def get(self, number: int) -> Taken | None:
        if not 0 <= number < len(self._places):
            return None
        offset, length, _ = self._places[number]
        known = orjson.loads(os.pread(self._fd, length, offset))
        return Taken(**{**known, "channel": Channel(known["channel"])})

    def newest(self, channel: Channel, skip: int, limit: int) -> list[Taken]:
        """A page of one channel's messages, newest first."""
        numbers = self._numbers[channel]
        end = len(numbers) - skip
        return [taken for n in reversed(numbers[max(0, end - limit) : max(0, end)]) if (taken := self.get(n))]

    def like(self, number: int, skip: int, limit: int) -> list[Taken]:
        """A page of the messages to the contact of message `number`, newest first."""
        contact = self._places[number][2]
        same = [n for n, place in enumerate(self._places) if place[2] == contact]
        return [taken for n in same[::-1][skip : skip + limit] if (taken := self.get(n))]

    def since(self, number: int, limit: int) -> list[Taken]:
        """Messages from `number` on, oldest first."""
        stop = min(number + limit, len(self._places))
        return [taken for n in range(max(0, number), stop) if (taken := self.get(n))]

    def _note(self, length: int, channel: Channel, contact: str, arrived: bool) -> None:
        self._numbers[channel].append(len(self._places))
        self._contacts[channel][contact] += 1
        self._places.append((self._size, length, self._names.setdefault(contact, contact)))
        self._size += length
        self._arrived[channel] += arrived


def read_mail(content: str) -> Mail:
    """Takes a mail apart; whatever is malformed in it is left out rather than an error."""
    # Not policy.default: it takes every header apart by grammar, at seven times the cost.
    message = email.message_from_bytes(content.encode("latin-1"))
    headers = {name.lower(): _header(value) for name, value in message.raw_items()}
    return Mail(
        message_id=headers.get("message-id", ""),
        sender=headers.get("from", ""),
        subject=headers.get("subject", ""),
        text=_body(message, "text/plain"),
        html=_body(message, "text/html"),
    )


def described(taken: Taken) -> dict[str, Any]:
    """One message as plain data, for JSON and for `judging.judge`. A mail's reference is its id, left of the @."""
    known = {key: value for key, value in asdict(taken).items() if key != "content"}
    if taken.channel is Channel.SMS:
        return {**known, "message_id": "", "subject": "", "text": taken.content}
    mail = read_mail(taken.content)
    return {
        **known,
        "reference": mail.message_id.strip("<>").partition("@")[0],
        "message_id": mail.message_id,
        "subject": mail.subject,
        "text": mail.text or mail.html,
    }


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Every message of a journal, whether or not its process still lives. A cut-off last line is left out."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                known = orjson.loads(line)
                yield described(Taken(**{**known, "channel": Channel(known["channel"])}))


def _header(value: str) -> str:
    """Unfolded and decoded: RFC 2047 words, or raw UTF-8 (RFC 6532), which the parser hands on as surrogates."""
    plain = " ".join(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())
    if "=?" not in plain:
        return plain
    try:
        return str(make_header(decode_header(plain)))
    except (LookupError, ValueError, HeaderParseError):
        return plain


def _body(message: Message, kind: str) -> str:
    for part in message.walk():
        if part.get_content_type() == kind and part.get_content_disposition() != "attachment":
            payload = part.get_payload(decode=True)
            data = payload if isinstance(payload, bytes) else b""
            try:
                text = data.decode(part.get_content_charset("utf-8"), "replace")
            except LookupError:
                # An unknown character set: show what can be shown.
                text = data.decode("utf-8", "replace")
            return text.replace("\r\n", "\n")
    return ""
