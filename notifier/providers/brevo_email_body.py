"""Writes emails as the JSON Brevo's API takes, one or a batch.

Built by splicing, as in `mime`: all that the people of one notice share is escaped once, and each email joins it
with the few values that differ (about 7 µs).
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import orjson

from notifier.errors import InputError
from notifier.notices import Frozen
from notifier.providers import mime
from notifier.providers.base import Blame, Kind, Message, Outcome

#: characters of a display name (API description, 2024-11)
_MAX_NAME = 70
_NAMESPACE = uuid.UUID("5f0c2f1e-6f5b-4d5e-9a55-6d1e0f7c2b61")
#: Brevo's template language would act on these in a text …
_TEMPLATE = re.compile(r"\{[{%#]")
#: … and on parts of them in a name: nobody is called so, and the notice's own words stand there
_MARKS = re.compile(r"[{}%#]")


@dataclass(frozen=True, slots=True)
class Frame:
    """All that the emails of one notice share, as JSON."""

    #: `"sender":{…}` and, if there is one, `"replyTo":{…}`
    sender: bytes
    #: `"subject":"…"`
    subject: bytes
    #: the texts, open where the name goes
    html: tuple[bytes, ...]
    text: tuple[bytes, ...]
    #: both texts, for a patient without a name
    nameless: bytes

    def single(self, message: Message) -> bytes:
        headers = {"X-Mailin-custom": message.reference, "idempotencyKey": _key(message.reference)}
        return b"{%b,%b}" % (self.sender, self._fields(message, headers))

    def version(self, message: Message) -> bytes:
        return b"{%b}" % self._fields(message, {"X-Mailin-custom": message.reference})

    def batch(self, key: str, versions: Sequence[bytes]) -> bytes:
        """Brevo takes own texts per version only if there is one above them; nobody gets that one."""
        headers = orjson.dumps({"idempotencyKey": _key(key)})
        return b'{%b,%b,%b,"headers":%b,"messageVersions":[%b]}' % (
            self.sender,
            self.subject,
            self.nameless,
            headers,
            b",".join(versions),
        )

    def _fields(self, message: Message, headers: dict[str, str]) -> bytes:
        name = message.content.clean(message.name)
        texts = self.nameless
        if name and not _MARKS.search(name):
            texts = b'"htmlContent":"%b","textContent":"%b"' % (
                _escaped(escape(name)).join(self.html),
                _escaped(name).join(self.text),
            )
        # The address alone: a name beside it would tell Brevo more than it needs to know.
        return b'"to":[{"email":%b}],"headers":%b,%b,%b' % (
            orjson.dumps(message.recipient),
            orjson.dumps(headers),
            self.subject,
            texts,
        )


def frame_of(message: Message, sender: str) -> Frame | Outcome:
    """The frame, or why there is none."""
    try:
        mime.plain_address(message.recipient)
    except InputError as error:
        return Outcome(Kind.REFUSED, "unfit_address", Blame.PERSON, raw=error.message)
    return _frame(message.content, message.sender_name, sender, message.reply_to)


@functools.lru_cache(maxsize=512)
def _frame(content: Frozen, sender_name: str, sender: str, reply_to: str) -> Frame | Outcome:
    if not all(value.isprintable() for value in (sender_name, sender, reply_to, content.subject)):
        return Outcome(Kind.REFUSED, "unfit_header", Blame.OURS)
    texts = (content.subject, *content.text_segments, *content.html_segments, *content.fill(""))
    if any(_TEMPLATE.search(text) for text in texts):
        return Outcome(Kind.REFUSED, "unfit_text", Blame.OURS, raw="The text holds a mark of Brevo's templates.")
    name = display_name(sender_name)
    mailbox = {"name": name, "email": sender} if name else {"email": sender}
    reply = b',"replyTo":%b' % orjson.dumps({"email": reply_to}) if reply_to else b""
    nameless_text, nameless_html = content.fill("")
    return Frame(
        sender=b'"sender":%b%b' % (orjson.dumps(mailbox), reply),
        subject=b'"subject":%b' % orjson.dumps(content.subject),
        html=tuple(_escaped(segment) for segment in content.html_segments),
        text=tuple(_escaped(segment) for segment in content.text_segments),
        nameless=b'"htmlContent":%b,"textContent":%b' % (orjson.dumps(nameless_html), orjson.dumps(nameless_text)),
    )


def display_name(name: str) -> str:
    """A sender's name as Brevo will show it: the doctor alone where both do not fit into 70 characters.

    Brevo drops a name that has both letters outside ASCII and punctuation of RFC 5322 §3.2.3 (django-anymail
    14.0, read 2026-11-25): there the punctuation goes, "Dr Éve Lys, Cabinet" becomes "Dr Éve Lys - Cabinet".
    """
    if len(name) > _MAX_NAME:
        name = name.partition(", ")[0]
    if not name.isascii():
        name = " ".join(name.replace(",", " -").translate(_SPECIALS).split())
    return name[:_MAX_NAME].strip()


_SPECIALS = str.maketrans(dict.fromkeys('()<>[]:;@\\,."', " "))


def _escaped(text: str) -> bytes:
    """As it stands between the quotes of a JSON string."""
    return orjson.dumps(text)[1:-1]


def _key(reference: str) -> str:
    """The same for the same delivery, or the same batch, at every try."""
    return str(uuid.uuid5(_NAMESPACE, reference))
