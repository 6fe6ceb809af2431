"""Writes one notice as an email: RFC 5322 headers, multipart/alternative of text and HTML in UTF-8.

Built by splicing, not with `EmailMessage` (about 1 ms a message): all that the people of one notice share is
encoded once, and each message joins it with the few values that differ (about 5 µs). Quoted-printable
(RFC 2045 §6.7) keeps lines short; lines that start with a full stop are stuffed for SMTP (RFC 5321 §4.5.2).
"""

from __future__ import annotations

import binascii
import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime, formataddr
from html import escape

from notifier.errors import InputError
from notifier.notices import Frozen
from notifier.providers.base import Message

CRLF = "\r\n"
#: no quoted-printable line can hold this: "=" is always followed by two digits or a line end
BOUNDARY = b"=_notice_=_alternative"
#: characters of an encoded line (RFC 2045 §6.7 rule 5), the soft line break's "=" included
_LINE = 76


def build(message: Message, *, sender: str, domain: str, now: datetime) -> bytes:
    """The message ready for DATA: CRLF line ends, dots stuffed, without the final dot.

    Raises InputError for a line break in a header value, or a recipient that could change the envelope.
    """
    frame = _frame(message.content, message.sender_name, sender, message.reply_to, message.language)
    name = message.content.clean(message.name)
    in_text = _name(name) if name else b""
    escaped = escape(name)
    in_html = in_text if escaped == name else _name(escaped)
    return b"".join(
        (
            frame.head,
            plain_address(message.recipient),
            b"\r\nDate: ",
            _date(int(now.timestamp())),
            b"\r\nMessage-ID: <",
            message.reference.encode(),
            b"@",
            domain.encode(),
            frame.before_text,
            in_text.join(frame.text) if name else frame.nameless_text,
            frame.between,
            in_html.join(frame.html) if name else frame.nameless_html,
            frame.end,
        )
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """All that the messages of one notice share, encoded."""

    head: bytes
    before_text: bytes
    text: tuple[bytes, ...]
    nameless_text: bytes
    between: bytes
    html: tuple[bytes, ...]
    nameless_html: bytes
    end: bytes


@functools.lru_cache(maxsize=512)
def _frame(content: Frozen, sender_name: str, sender: str, reply_to: str, language: str) -> _Frame:
    subject = content.subject
    for value in (sender_name, sender, reply_to, subject, language):
        if not value.isprintable():
            raise InputError("A header of the notice holds a line break or control character.")
    if not (sender + reply_to + language).isascii():
        raise InputError("The sender's or the doctor's address has letters outside ASCII.")
    # The display name is encoded alone, never the whole mailbox (RFC 2047 §5).
    mailbox = formataddr((sender_name, sender))
    if not sender_name.isascii():
        mailbox = f"{_folded(sender_name, 'From')}{CRLF} <{sender}>"
    lines = [
        f"From: {mailbox}",
        f"Subject: {_folded(subject, 'Subject')}",
        "MIME-Version: 1.0",
        f"Content-Language: {language}",
        # no answer by a robot is wanted (RFC 3834 §5)
        "Auto-Submitted: auto-generated",
    ]
    if reply_to:
        lines.insert(1, f"Reply-To: {reply_to}")
    part = (
        b"--" + BOUNDARY + b"\r\nContent-Type: text/%b; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    nameless_text, nameless_html = content.fill("")
    return _Frame(
        head=(CRLF.join(lines) + CRLF + "To: ").encode("ascii"),
        before_text=b'>\r\nContent-Type: multipart/alternative; boundary="'
        + BOUNDARY
        + b'"\r\n\r\n'
        + part % b"plain",
        text=_segments(content.text_segments),
        nameless_text=_quoted(nameless_text + CRLF),
        between=part % b"html",
        html=_segments(content.html_segments),
        nameless_html=_quoted(nameless_html + CRLF),
        end=b"--" + BOUNDARY + b"--\r\n",
    )


def _folded(value: str, header: str) -> str:
    """As encoded words of at most 75 characters each, folded (RFC 2047 §2)."""
    return Header(value, "utf-8", maxlinelen=76, header_name=header).encode(linesep=CRLF)


@functools.lru_cache(maxsize=4)
def _date(second: int) -> bytes:
    return format_datetime(datetime.fromtimestamp(second, UTC)).encode()


def plain_address(address: str) -> bytes:
    """The address as it may stand in a command. Raises InputError for what could end or extend it."""
    try:
        encoded = address.encode("ascii")
    except UnicodeEncodeError as error:
        raise InputError("The recipient's address has letters outside ASCII.") from error
    if not address.isprintable() or encoded.translate(None, b" <>,;") != encoded:
        raise InputError("The recipient's address holds a character that could change the envelope.")
    return encoded


def _segments(segments: tuple[str, ...]) -> tuple[bytes, ...]:
    """Encoded so that an encoded name can be put between two: each but the last ends in a soft line break."""
    *before, last = segments
    return (*(_soft_end(_quoted(segment)) for segment in before), _quoted(last + CRLF))


def _name(name: str) -> bytes:
    """A name on a line, or several, of its own: soft line breaks join it with the text around it."""
    return _soft_end(_quoted(name))


def _soft_end(encoded: bytes) -> bytes:
    """Ends with a soft line break, whatever stands in the last line."""
    last = len(encoded) - (encoded.rfind(b"\n") + 1)
    if last == 0:
        return encoded
    if last >= _LINE:
        # The "=" needs a place: move the last character, or the last escape, to a line of its own.
        cut = len(encoded) - (3 if encoded[-3:-2] == b"=" else 1)
        encoded = encoded[:cut] + b"=\r\n" + encoded[cut:]
    return encoded + b"=\r\n"


def _quoted(text: str) -> bytes:
    """Quoted-printable with CRLF and stuffed dots."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", CRLF)
    # The encoder breaks long lines with the line end it sees first: there has to be one.
    encoded = binascii.b2a_qp((CRLF + lines).encode("utf-8"), istext=True)[2:]
    if encoded.startswith(b"."):
        encoded = b"." + encoded
    return encoded.replace(b"\n.", b"\n..")
