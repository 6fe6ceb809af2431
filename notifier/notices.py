"""What a notice is, between composing, approving and sending: its text, its hash, and the one place for a name.

Pure: no template, no database. The frozen text of an email holds one span where the patient's name goes: two
private-use characters with the words that stand there for a patient without a name. Such characters are taken
out of every input, so that nobody can type a span.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import NamedTuple

from notifier.errors import ConflictError, IncompleteNotice, InputError
from notifier.states import Channel, Variant

NAME_OPEN, NAME_CLOSE = "\ue000", "\ue001"
MAX_NAME = 120
MAX_SUBJECT = 300
#: characters of a sender's display name
MAX_SENDER = 120
#: channel, language, variant
Key = tuple[Channel, str, Variant]

_SPAN = re.compile(f"{NAME_OPEN}([^{NAME_OPEN}{NAME_CLOSE}]*){NAME_CLOSE}")
_SPACES = re.compile(r"[^\S\n]+")
_TITLE = re.compile(
    r"(?:(?:dre?|docteure?|pre?|professeure?|doctor|prof|mme|madame|monsieur)\b|m\.(?=\s))\.?\s*", re.IGNORECASE
)
# What a mail program would turn into a link: a list must not be able to put one into a doctor's letter.
_LINK_LIKE = re.compile(r"://|www\.|@", re.IGNORECASE)


class Problem(StrEnum):
    """What is wrong with a part of a notice."""

    ABSENT = "absent"
    TOO_SHORT = "too_short"
    #: wording that says nothing ("all necessary measures")
    EMPTY_WORDS = "empty_words"
    #: something that may stand nowhere
    FORBIDDEN = "forbidden"
    #: more parts than an SMS may have
    TOO_LONG = "too_long"
    #: not in the plain SMS alphabet: more than twice the parts
    ALPHABET = "alphabet"


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing wrong with one notice. `words` says it to a doctor, in each language of the profile."""

    part: str
    channel: Channel
    language: str
    variant: Variant
    problem: Problem
    words: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DraftNotice:
    """One composed text. `text` and `html` of an email hold the name's span; an SMS holds none.

    `parts` are SMS parts, which is what it costs; 0 for an email. `encoding` is "GSM-7" or "UCS-2", or empty.
    Raises InputError if the subject could break out of its header line, or a span stands where none may.
    """

    channel: Channel
    language: str
    variant: Variant
    subject: str
    text: str
    html: str
    parts: int = 0
    encoding: str = ""
    #: characters that were replaced to stay in the SMS alphabet
    replaced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.subject.isprintable() or len(self.subject) > MAX_SUBJECT:
            raise InputError(
                f"The subject of the {self.channel} notice ({self.language}) must be one plain line "
                f"of at most {MAX_SUBJECT} characters: look at the doctor's name."
            )
        if self.channel is Channel.SMS and has_span(self.text):
            raise InputError("An SMS may serve several people of one household: it must not name one of them.")

    @property
    def key(self) -> Key:
        return (self.channel, self.language, self.variant)


def digest(channel: str, language: str, variant: str, subject: str, text: str, html: str) -> bytes:
    """SHA-256 of one notice over a JSON list of its six fields in this order, as UTF-8 without white space."""
    fields = ["notice/1", channel, language, variant, subject, text, html]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()).digest()


def digest_of(notice: DraftNotice) -> bytes:
    return digest(notice.channel, notice.language, notice.variant, notice.subject, notice.text, notice.html)


def combined_digest(digests: Mapping[Key, bytes]) -> bytes:
    """SHA-256 over the notices' hashes, in the order of channel, language and variant by name."""
    ordered = (digests[key] for key in sorted(digests, key=lambda key: tuple(map(str, key))))
    return hashlib.sha256(b"notices/1" + b"".join(ordered)).digest()


def hash_of(notices: Iterable[DraftNotice]) -> bytes:
    """The hash an approver sees and approves."""
    return combined_digest({notice.key: digest_of(notice) for notice in notices})


class Stored(NamedTuple):
    """A frozen text as the table `notice` has it: its columns by these names."""

    id: int
    channel: str
    language: str
    variant: str
    subject: str
    text: str
    html: str
    sha256: bytes


def approved(campaign_id: int, stored: Iterable[Stored], notice_hash: bytes | None) -> dict[Key, Stored]:
    """A campaign's newest texts by channel, language and variant, if they are what was approved as `notice_hash`.

    Raises ConflictError if nothing is approved, or if any text, or the set of them, is not what was approved.
    """
    if notice_hash is None:
        raise ConflictError(f"Campaign {campaign_id} has no approved text.")
    texts: dict[Key, Stored] = {}
    for row in stored:
        if digest(row.channel, row.language, row.variant, row.subject, row.text, row.html) != row.sha256:
            named = f"notice {row.id} ({row.channel}/{row.language}/{row.variant})"
            raise _altered(campaign_id, named)
        texts[Channel(row.channel), row.language, Variant(row.variant)] = row
    if combined_digest({key: row.sha256 for key, row in texts.items()}) != notice_hash:
        raise _altered(campaign_id, "the set of notices")
    return texts


def _altered(campaign_id: int, what: str) -> ConflictError:
    return ConflictError(
        f"Campaign {campaign_id}: {what} is not what was approved. Nothing of it is sent; "
        "cancel the campaign and find out who changed the database."
    )


class Frozen:
    """An approved text, split once at the name, so that a send only joins strings (about 1 µs)."""

    __slots__ = ("_nameless", "html_segments", "subject", "text_segments")

    def __init__(self, subject: str, text: str, html: str) -> None:
        self.subject = subject
        self.text_segments = _segments(text)
        self.html_segments = _segments(html)
        self._nameless = (readable(text), readable(html))

    def fill(self, name: str) -> tuple[str, str]:
        """The text and HTML for one patient. A name that cleans to nothing leaves the notice's own words there."""
        name = self.clean(name)
        if not name:
            return self._nameless
        return name.join(self.text_segments), escape(name).join(self.html_segments)

    def clean(self, name: str) -> str:
        """The name as it will stand in the notice, empty if the notice's own words stand there."""
        return name if not name or _is_clean(name) else clean_name(name)


def span(fallback: str) -> str:
    """Where the name goes, with the words for a patient who has none."""
    return f"{NAME_OPEN}{fallback}{NAME_CLOSE}"


def has_span(text: str) -> bool:
    return NAME_OPEN in text or NAME_CLOSE in text


def readable(text: str) -> str:
    """A frozen text as a person without a name would read it."""
    return _SPAN.sub(r"\1", text)


def _segments(text: str) -> tuple[str, ...]:
    return tuple(_SPAN.split(text)[::2])


def clean_name(name: str) -> str:
    """A patient's display name, fit for a message: one line, nothing invisible, at most 120 characters.

    Empty if it looks like a link, because a list must not be able to put one into a doctor's message.
    """
    # Cut first: a cell of a list may hold megabytes.
    name = name[: 4 * MAX_NAME].replace("\u00a0", " ").replace("\u202f", " ")
    name = clean_line(name)[:MAX_NAME].strip()
    return "" if _LINK_LIKE.search(name) else name


def _is_clean(name: str) -> bool:
    # The common case by C code alone. `isprintable` is false for every control, format (so BiDi), private-use
    # and separator character except the space.
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME or name != name.strip():
        return False
    return not _LINK_LIKE.search(name)


def clean_line(value: str) -> str:
    """One line without control, invisible or BiDi characters; line breaks and tabs become spaces."""
    return " ".join(filter(None, clean_text(value).split("\n")))


def clean_text(value: str) -> str:
    """Text in NFC with line breaks as LF, without control, invisible, BiDi or private-use characters.

    Categories Cc, Cf, Cs, Co and Cn of Unicode go, except the line break; runs of spaces become one, and the
    no-break spaces of French typography stay.
    """
    value = unicodedata.normalize("NFC", value).replace("\r\n", "\n")
    value = "".join(_clean_character(character) for character in value)
    lines = (_SPACES.sub(_one_space, line).strip() for line in value.split("\n"))
    return "\n".join(lines).strip()


def _clean_character(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    if character in "\r\v\f\x85\u2028\u2029":
        return "\n"
    return {"\t": " ", "\u00a0": "\u00a0", "\u202f": "\u202f"}.get(character) or (
        " " if unicodedata.category(character) == "Zs" else ""
    )


def _one_space(run: re.Match[str]) -> str:
    # a no-break space in a run was meant; otherwise a plain one
    return next((character for character in run[0] if character in "\u00a0\u202f"), " ")


def titled(name: str) -> str:
    """A doctor's name with its title; "Dr" is put before a name that has none."""
    return name if not name or _TITLE.match(name) else f"Dr {name}"


def signature(name: str, practice: str) -> str:
    """Doctor and practice in one line; the practice alone where it names the doctor; empty without a name."""
    if not name or _names(practice, name):
        return practice if name else ""
    return f"{name}, {practice}" if practice else name


def sender_name(name: str, practice: str) -> str:
    """Who an email is from, for its From line: doctor and practice, or the practice where it names the doctor.

    One clean line of at most 120 characters; the doctor alone if both do not fit.
    """
    name, practice = titled(clean_line(name)), clean_line(practice)
    line = signature(name, practice) or practice
    if len(line) > MAX_SENDER:
        line = name or practice
    return line[:MAX_SENDER].strip()


def _names(practice: str, name: str) -> bool:
    # A surname alone proves nothing: "Clinique Saint-Martin" does not name Dr Martin.
    bare = _TITLE.sub("", name, count=1)
    wanted = {name, bare} if " " in bare else {name}
    return any(re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", practice, re.IGNORECASE) for one in wanted)


def check_complete(missing: Iterable[Gap]) -> None:
    """Raises IncompleteNotice naming each gap, once over all variants, if there is any."""
    gaps = tuple(missing)
    if not gaps:
        return
    lines = dict.fromkeys(gap.words.get("en") or f"{gap.channel}/{gap.language}: {gap.part}" for gap in gaps)
    raise IncompleteNotice(
        "The notice is not complete:\n  " + "\n  ".join(lines),
        tuple(dict.fromkeys((gap.part, str(gap.channel), gap.language) for gap in gaps)),
    )
