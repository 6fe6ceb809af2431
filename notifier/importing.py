"""Step 1: a list file becomes patients and contacts, and a report of every refused or doubtful row.

The first half is pure (`judge`, `People`, `check_list`), the second saves (`import_list`). Memory stays bounded:
rows are judged one by one, sealed, copied to the database by thousands, and merged there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import psycopg
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import importers, models, states
from notifier.addresses import Reason, check_email, check_phone, split_emails, split_phones, tidy, unaccented
from notifier.errors import ConflictError, ListError
from notifier.importers import Column, Doubt, RawRow
from notifier.importers.csv import MAX_BYTES, ListReader, open_list
from notifier.sealing import DataKey
from notifier.states import Channel

IDENTITY_PURPOSE = b"patient.identity"
CONTACT_PURPOSE = b"contact.value"
#: languages a notice can be composed in; others fall back to the first
LANGUAGES = ("fr", "en")
_ROWS_AT_ONCE = 5000


class RowReason(StrEnum):
    """What is wrong or doubtful with a row; reasons about one contact are `addresses.Reason`."""

    #: refused: no patient id, no name, no contact
    NO_IDENTITY = "no_identity"
    #: refused: a sum below the table, not a person
    TOTALS_LINE = "totals_line"
    #: doubt: only a contact is known, so the person is told without a name
    NO_NAME = "no_name"
    #: doubt: one patient id with two names or birth dates, in this list or an earlier one; kept as two people
    SAME_ID = "same_id_other_person"
    INVALID_DATE = "invalid_date"
    #: 12/03/15 may be 1915 or 2015
    AMBIGUOUS_YEAR = "ambiguous_year"
    UNKNOWN_LANGUAGE = "unknown_language"
    #: neither yes nor no: taken as "the person is to be told"
    UNCLEAR = "unclear_yes_or_no"
    #: used, but the note beside it names somebody else
    ANOTHER_PERSON = "contact_of_another_person"
    #: premium, shared-cost and service numbers belong to no patient
    SERVICE_NUMBER = "service_number"
    #: more people have it than live in a household: a home's, a company's, or a filler
    SHARED_BY_MANY = "shared_by_many"
    #: the doctor's own number or address
    PRACTICE_CONTACT = "practice_contact"
    #: two rows of one person differ on whether their data was taken: the person is told
    YES_AND_NO = "yes_and_no"
    #: the column's name is not known, but its cells look like email addresses or telephone numbers
    COLUMN_NOT_READ = "contact_column_not_read"
    #: accents were read with the wrong encoding by an earlier program ("RenÃ©")
    MOJIBAKE = "damaged_accents"


#: (French, English)
_WORDS: dict[RowReason, tuple[str, str]] = {
    RowReason.NO_IDENTITY: ("Ni identifiant, ni nom, ni contact.", "Neither id, nor name, nor contact."),
    RowReason.TOTALS_LINE: ("Ligne de total, pas une personne.", "A totals line, not a person."),
    RowReason.NO_NAME: ("Aucun nom : la personne est prévenue sans être nommée.", "No name: told without a name."),
    RowReason.SAME_ID: (
        "Même identifiant qu'une autre personne : deux personnes sont gardées.",
        "Same id as another person: kept as two people.",
    ),
    RowReason.INVALID_DATE: ("La date n'existe pas.", "There is no such date."),
    RowReason.AMBIGUOUS_YEAR: ("L'année peut être de deux siècles.", "The year may be of two centuries."),
    RowReason.UNKNOWN_LANGUAGE: ("Langue inconnue : le français est pris.", "Unknown language: French is taken."),
    RowReason.UNCLEAR: ("Ni oui ni non : la personne sera prévenue.", "Neither yes nor no: the person is told."),
    RowReason.ANOTHER_PERSON: ("La note désigne une autre personne.", "The note names another person."),
    RowReason.SERVICE_NUMBER: ("Numéro de service, pas d'une personne.", "A service number, not a person's."),
    RowReason.SHARED_BY_MANY: (
        "Trop de personnes ont ce contact : il n'est à personne en propre.",
        "Too many people have this contact: it is nobody's own.",
    ),
    RowReason.PRACTICE_CONTACT: ("Le contact du cabinet lui-même.", "The practice's own contact."),
    RowReason.YES_AND_NO: (
        "Oui sur une ligne, non sur une autre : la personne sera prévenue.",
        "Yes on one row, no on another: the person is told.",
    ),
    RowReason.COLUMN_NOT_READ: (
        "Colonne de contacts non lue : nommez-la par exemple « email 2 » ou « téléphone 2 ».",
        "A column with contacts was not read: name it for instance 'email 2' or 'phone 2'.",
    ),
    RowReason.MOJIBAKE: ("Accents abîmés par un autre logiciel.", "Accents damaged by another program."),
}
#: what people read about rows, a reader's doubts included
WORDS: dict[str, tuple[str, str]] = {
    str(code): words for table in (_WORDS, importers.WORDS) for code, words in table.items()
}

#: a contact of more people than this is not personal; a family is smaller
MOST_SHARING = 6


@dataclass(slots=True)  # not frozen: that would cost 2 µs a row
class Identity:
    """Who a patient is: what is sealed in `patient.identity_sealed`, as JSON."""

    patient_id: str | None = None
    #: the name used, or else the birth name
    last_name: str | None = None
    birth_name: str | None = None
    first_name: str | None = None
    #: ISO 8601
    birth_date: str | None = None
    address: tuple[str, ...] = ()
    postal_code: str | None = None
    town: str | None = None
    country: str | None = None
    #: E.164 numbers that take no SMS: for the call list
    phones: tuple[str, ...] = ()

    @property
    def has_postal(self) -> bool:
        """Whether a letter can be addressed."""
        return bool(self.address and self.postal_code and self.town)

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Identity:
        values = orjson.loads(data)
        return cls(**values | {"address": tuple(values["address"]), "phones": tuple(values["phones"])})

    def merged_with(self, other: Identity) -> Identity:
        """Own values first; what is missing comes from the other, a postal address only as a whole."""
        postal = self if self.has_postal or not other.has_postal else other
        return Identity(
            patient_id=self.patient_id or other.patient_id,
            last_name=self.last_name or other.last_name,
            birth_name=self.birth_name or other.birth_name,
            first_name=self.first_name or other.first_name,
            birth_date=self.birth_date or other.birth_date,
            address=postal.address,
            postal_code=postal.postal_code,
            town=postal.town,
            country=postal.country,
            phones=tuple(dict.fromkeys(self.phones + other.phones)),
        )

    @property
    def family_names(self) -> set[str]:
        """Folded: the name used and the birth name."""
        return {_folded(name) for name in (self.last_name, self.birth_name) if name and _folded(name)}

    def contradicts(self, other: Identity) -> bool:
        """Whether two rows with one patient id are two people: birth dates differ, or first names, or no family
        name is common. What one of them does not say contradicts nothing."""
        if self.birth_date and other.birth_date and self.birth_date != other.birth_date:
            return True
        mine, theirs = _folded(self.first_name or ""), _folded(other.first_name or "")
        if mine and theirs and mine != theirs:
            return True
        return bool(self.family_names and other.family_names) and self.family_names.isdisjoint(other.family_names)

    def agrees(self, other: Identity) -> bool:
        """Whether a name is common and nothing contradicts."""
        first = _folded(self.first_name or "")
        common = not self.family_names.isdisjoint(other.family_names) or (
            bool(first) and first == _folded(other.first_name or "")
        )
        return common and not self.contradicts(other)


@dataclass(slots=True)
class Judged:
    """One row, understood. `key` is equal for rows of one person and None for a refused row."""

    row: int
    identity: Identity = field(default_factory=Identity)
    key: str | None = None
    emails: list[str] = field(default_factory=list)
    #: E.164, fit for SMS, in the order of the row
    numbers: list[str] = field(default_factory=list)
    language: str = LANGUAGES[0]
    excluded: str | None = None
    #: whether the row says that the person's data was taken; None: it does not say
    affected: bool | None = None
    #: None: the row does not say
    comment: bool | None = None
    comment_sensitive: bool | None = None
    #: (column, reason); never a value
    problems: list[tuple[str, str]] = field(default_factory=list)
    #: the key of whoever in this list has the patient id first
    id_key: str | None = None
    #: the key of this person if the patient id is also somebody else's
    apart_key: str | None = None

    def contacts(self) -> Iterator[tuple[Column, Channel, str]]:
        """Email addresses and numbers for SMS."""
        yield from ((Column.EMAIL, Channel.EMAIL, email) for email in self.emails)
        yield from ((Column.PHONE, Channel.SMS, number) for number in self.numbers)

    def doubt(self, column: str, reason: StrEnum) -> None:
        self.problems.append((str(column), str(reason)))


def judge(
    raw: RawRow,
    region: str = "FR",
    today: date | None = None,
    names_people: bool = True,
    practice: Collection[str] = (),
) -> Judged:
    """Turns a raw row into a person with contacts, or says why it is none.

    `region` is where the practice dials from; `today` bounds birth dates (none given: no date is in the future).
    `names_people` says whether the list has columns for names, so that a missing one is a doubt. `practice` holds
    the doctor's own contacts as `own_keys` gives them: they are nobody else's.
    A row with a name is never refused, however bad its contacts: somebody must still be told, by letter.
    """
    cells = raw.cells
    judged = Judged(raw.number, problems=[("row", str(doubt)) for doubt in raw.doubts])
    if Doubt.HEADER_AGAIN in raw.doubts:
        return judged
    postal_code = _postal_code(_first(cells, Column.POSTAL_CODE), region)
    _judge_emails(judged, cells.get(Column.EMAIL, ()), practice)
    landlines = _judge_phones(judged, cells.get(Column.PHONE, ()), region, postal_code, practice)
    birth_date, birth_key = _judge_birth_date(judged, cells, today)
    judged.identity = _identity(judged, cells, birth_date, postal_code, tuple(landlines))
    _judge_flags(judged, cells)
    judged.key = _person_key(judged, birth_key)
    if _is_totals_line(judged, cells):
        return Judged(raw.number, problems=[("row", str(RowReason.TOTALS_LINE))])
    if judged.key is None:
        judged.doubt("row", RowReason.NO_IDENTITY)
    elif names_people and judged.key.startswith("contact:"):
        judged.doubt("row", RowReason.NO_NAME)
    return judged


def _first(cells: dict[Column, list[str]], column: Column) -> str | None:
    return cells[column][0] if column in cells else None


def own_keys(contacts: Iterable[str], region: str) -> frozenset[str]:
    """A doctor's own email addresses and numbers, in a form that `judge` compares with."""
    keys = [
        check_email(contact).key if "@" in contact else check_phone(contact, region).e164 for contact in contacts
    ]
    return frozenset(key for key in keys if key)


def _judge_emails(judged: Judged, values: list[str] | tuple[()], practice: Collection[str]) -> None:
    keys = set()
    for value in values:
        for piece in split_emails(value):
            email = check_email(piece.text)
            if piece.refusal:
                judged.doubt(Column.EMAIL, piece.refusal)
            elif not email.ok or email.address is None:
                judged.doubt(Column.EMAIL, email.reason or Reason.SYNTAX)
            elif email.key in practice:
                judged.doubt(Column.EMAIL, RowReason.PRACTICE_CONTACT)
            elif email.key not in keys:
                keys.add(email.key)
                judged.emails.append(email.address)
                if piece.note and piece.is_of_another:
                    judged.doubt(Column.EMAIL, RowReason.ANOTHER_PERSON)


def _judge_phones(
    judged: Judged,
    values: list[str] | tuple[()],
    region: str,
    postal_code: str | None,
    practice: Collection[str],
) -> dict[str, None]:
    """Fills the numbers for SMS; returns those for calls, in order."""
    landlines: dict[str, None] = {}
    for value in values:
        for piece in split_phones(value):
            if piece.refusal:
                judged.doubt(Column.PHONE, piece.refusal)
                continue
            phone = check_phone(piece.text, region, postal_code)
            if not phone.ok or phone.e164 is None:
                judged.doubt(Column.PHONE, phone.reason or Reason.NOT_ASSIGNED)
            elif phone.e164 in practice:
                judged.doubt(Column.PHONE, RowReason.PRACTICE_CONTACT)
            elif phone.sms_capable:
                if phone.e164 not in judged.numbers:
                    judged.numbers.append(phone.e164)
                    if piece.note and piece.is_of_another:
                        judged.doubt(Column.PHONE, RowReason.ANOTHER_PERSON)
            elif phone.kind in ("landline", "voip"):
                landlines[phone.e164] = None
            else:
                judged.doubt(Column.PHONE, RowReason.SERVICE_NUMBER)
    return landlines


def _judge_birth_date(
    judged: Judged, cells: dict[Column, list[str]], today: date | None
) -> tuple[str | None, str | None]:
    """(ISO date or None, what the person key takes): an unreadable date still tells people apart."""
    written = _first(cells, Column.BIRTH_DATE)
    if written is None:
        return None, None
    birth_date, reason = parse_birth_date(written, today)
    if reason:
        judged.doubt(Column.BIRTH_DATE, reason)
    return birth_date, birth_date or re.sub(r"\D", "", written) or None


_WHOLE = re.compile(r"(?<=\d)\.0$")  # a spreadsheet's number
_CIVILITY = re.compile(
    r"^(?:m|mr|mme|mlle|melle|monsieur|madame|mademoiselle|mrs|ms|miss)(?:\.\s*|\s+)", re.IGNORECASE
)


def _identity(
    judged: Judged,
    cells: dict[Column, list[str]],
    birth_date: str | None,
    postal_code: str | None,
    landlines: tuple[str, ...],
) -> Identity:
    last, first = _first(cells, Column.LAST_NAME), _first(cells, Column.FIRST_NAME)
    born, used = _first(cells, Column.BIRTH_NAME), _first(cells, Column.USED_NAME)
    patient_id = _first(cells, Column.PATIENT_ID)
    town = _first(cells, Column.TOWN)
    address = tuple(
        tidy(line) for value in cells.get(Column.ADDRESS, ()) for line in value.split("\n") if line.strip()
    )
    if address and not postal_code and not town:
        address, postal_code, town = _postal_parts(address)
    return Identity(
        patient_id=_WHOLE.sub("", tidy(patient_id)) if patient_id else None,
        last_name=_name(judged, used or last or born),
        birth_name=_name(judged, born) if born and (used or last) else None,
        first_name=_name(judged, first),
        birth_date=birth_date,
        address=address,
        postal_code=postal_code,
        town=tidy(town) if town else None,
        country=_first(cells, Column.COUNTRY),
        phones=landlines,
    )


def _lines(values: list[str]) -> tuple[str, ...]:
    return tuple([tidy(line) for value in values for line in value.split("\n") if line.strip()])


def _name(judged: Judged, value: str | None) -> str | None:
    if value is None:
        return None
    value = _CIVILITY.sub("", tidy(value))
    if "Ã" in value or "Â" in value:
        try:
            value = value.encode("cp1252").decode("utf-8")
        except UnicodeError:
            return value or None  # a real Ã: "JOÃO" is a name
        judged.doubt(Column.LAST_NAME, RowReason.MOJIBAKE)
    return value or None


def _postal_parts(address: tuple[str, ...]) -> tuple[tuple[str, ...], str | None, str | None]:
    """Postal code and town from the end of an address written in one cell."""
    found = re.search(r"[\s,]*\b(\d{5})\s+([^\W\d].*)$", address[-1])
    if not found:
        return address, None, None
    street = address[-1][: found.start()].strip(" ,")
    return (*address[:-1], street) if street else address[:-1], found[1], found[2].strip()


def _postal_code(written: str | None, region: str) -> str | None:
    if written is None:
        return None
    code = written.replace(" ", "").removesuffix(".0")
    # Excel takes the zero of 01000; no French code has four digits
    return code.zfill(5) if region in ("FR", "MC") and len(code) == 4 and code.isdigit() else code


_YES = frozenset("oui o yes y true vrai 1 x".split())  # noqa: SIM905 - words read better in a row
_NO = frozenset("non n no false faux 0 -".split())  # noqa: SIM905 - words read better in a row
_DEAD = frozenset("decede decedee dcd dc deceased dead mort morte †".split())  # noqa: SIM905 - as above
_ALIVE = frozenset("vivant vivante alive".split())  # noqa: SIM905 - as above
_LANGUAGE_NAMES = {
    **dict.fromkeys(("fr", "fra", "fre", "francais", "french", "francaise"), "fr"),
    **dict.fromkeys(("en", "eng", "anglais", "english", "anglaise", "gb", "uk"), "en"),
}


def _judge_flags(judged: Judged, cells: dict[Column, list[str]]) -> None:
    if Column.DECEASED in cells and _says_yes(judged, Column.DECEASED, cells):
        judged.excluded = states.Exclusion.DECEASED
    if Column.AFFECTED in cells and re.search(r"[^\W_]|\?", cells[Column.AFFECTED][0]):
        judged.affected = _says_yes(judged, Column.AFFECTED, cells) is not False
        if not judged.affected and judged.excluded is None:
            judged.excluded = states.Exclusion.NOT_AFFECTED
    if Column.COMMENT in cells:
        # several columns: any comment counts; the reader says "none" for a cell that says so
        judged.comment = any(value != "none" for value in cells[Column.COMMENT])
    if Column.COMMENT_SENSITIVE in cells:
        judged.comment_sensitive = _says_yes(judged, Column.COMMENT_SENSITIVE, cells) is not False
        judged.comment = True if judged.comment_sensitive else judged.comment
    if language := _first(cells, Column.LANGUAGE):
        plain = unaccented(language).casefold().strip()
        known = _LANGUAGE_NAMES.get(plain) or _LANGUAGE_NAMES.get(re.split(r"[-_ ]", plain)[0])
        if known is None:
            judged.doubt(Column.LANGUAGE, RowReason.UNKNOWN_LANGUAGE)
        judged.language = known or LANGUAGES[0]


def _says_yes(judged: Judged, column: Column, cells: dict[Column, list[str]]) -> bool | None:
    """True, False, or None with a doubt reported. A date in a column about death says yes."""
    word = unaccented(cells[column][0]).casefold().strip(" .()")
    if word in _YES:
        return True
    if word in _NO:
        return False
    if column is Column.DECEASED:
        if word in _DEAD or re.match(r"(decede|dcd|le )", word) or parse_birth_date(word, None)[0]:
            return True
        if word in _ALIVE:
            return False
    judged.doubt(column, RowReason.UNCLEAR)
    return None


def _person_key(judged: Judged, birth_key: str | None) -> str | None:
    """Patient id, else names and birth date; with less, what else is known keeps namesakes apart.

    Two namesakes without a birth date must not become one: the second would never be told.
    """
    identity = judged.identity
    contact = next(iter([*(email.casefold() for email in judged.emails), *judged.numbers, *identity.phones]), None)
    if identity.patient_id:
        judged.id_key = f"id:{identity.patient_id.casefold()}"
        judged.apart_key = f"{judged.id_key}|{_who(judged, birth_key)}"
        return judged.id_key
    last, first = _folded(identity.birth_name or identity.last_name or ""), _folded(identity.first_name or "")
    if last or first:
        if birth_key:
            return f"name:{last}|{first}|{birth_key}"
        place = "".join([*identity.address, identity.postal_code or ""])
        return f"name:{last}|{first}||{contact or _folded(place)}"
    return f"contact:{contact}" if contact else None


def _who(judged: Judged, birth_key: str | None) -> str:
    """Tells people apart who share a patient id: all that `_contradict` looks at."""
    identity = judged.identity
    names = [_folded(name or "") for name in (identity.last_name, identity.birth_name, identity.first_name)]
    contacts = [] if any(names) else [*(email.casefold() for email in judged.emails[:1]), *judged.numbers[:1]]
    return "|".join([*names, birth_key or "", *contacts])


@functools.lru_cache(maxsize=65536)
def _folded(name: str) -> str:
    plain = unaccented(name).casefold()
    return "".join(character for character in plain if character.isalnum())


_TOTALS = re.compile(
    r"(?:sous[- ]?)?tota(?:l|ux)\b|nombre (?:de|total)|somme\b"
    r"|(?:fin|end) (?:de|du|of) (?:la |the )?(?:liste?|fichier|document|file)\b"
    r"|(?:nombre|nb|count)\.?(?: (?:de )?patients?)? ?:|patients? ?: ?\d+$"
    r"|\d+ ?(?:patients?(?: ?\(s\))?|lignes?|rows?)$",
    re.IGNORECASE,
)


def _is_totals_line(judged: Judged, cells: dict[Column, list[str]]) -> bool:
    if judged.emails or judged.numbers or judged.identity.phones or judged.identity.birth_date:
        return False
    values = [values[0] for column, values in cells.items() if column is not Column.COMMENT]
    return (
        any(_TOTALS.match(value) for value in values) and sum(not any(c.isdigit() for c in v) for v in values) <= 1
    )


# --- birth dates ------------------------------------------------------------------------------------

_DATE = re.compile(r"(\d{1,2})[/.\- ](\d{1,2})[/.\- ](\d{4}|\d{2})")
_ISO_DATE = re.compile(r"(\d{4})[/.\-](\d{1,2})[/.\-](\d{1,2})")
_TIME = re.compile(r"[T ]00:00(?::00(?:\.0+)?)?Z?$")
_OLDEST = 120


@functools.lru_cache(maxsize=65536)
def parse_birth_date(written: str, today: date | None = None) -> tuple[str | None, RowReason | None]:
    """An ISO date, or None and why. Days come before months; spreadsheets' serial numbers are read.

    Births "00/00/1950" and in month 20 or more (unknown dates in French civil registers) are no dates.
    """
    text = _TIME.sub("", tidy(written)).removesuffix(".0")
    if found := _ISO_DATE.fullmatch(text):
        return _date(int(found[1]), int(found[2]), int(found[3]), today)
    if found := _DATE.fullmatch(text):
        day, month, year = found.groups()
        return _date_of_short_year(day, month, year, today) if len(year) == 2 else _date(year, month, day, today)
    if re.fullmatch(r"\d{8}", text):
        if text[:2] in ("18", "19", "20") and (iso := _date(text[:4], text[4:6], text[6:], today))[0]:
            return iso
        return _date(text[4:], text[2:4], text[:2], today)
    if re.fullmatch(r"\d{4,5}", text) and int(text) > 366:
        # Excel's 1900 system counts from 1899-12-30 after its false leap day
        serial = date(1899, 12, 30) + timedelta(days=int(text))
        return _date(serial.year, serial.month, serial.day, today)
    return None, RowReason.INVALID_DATE


def _date(
    year: int | str, month: int | str, day: int | str, today: date | None
) -> tuple[str | None, RowReason | None]:
    try:
        born = date(int(year), int(month), int(day))
    except ValueError:
        return None, RowReason.INVALID_DATE
    if born.year < 1880 or (today and born > today):
        return None, RowReason.INVALID_DATE
    return born.isoformat(), None


def _date_of_short_year(
    day: str, month: str, year: str, today: date | None
) -> tuple[str | None, RowReason | None]:
    """Only where one century is possible: 60 is 1960, but 15 may be 1915 or 2015."""
    this_year = today.year if today else 2100
    centuries = [c for c in (1900, 2000) if this_year - _OLDEST <= c + int(year) <= this_year]
    if len(centuries) == 1:
        return _date(centuries[0] + int(year), month, day, today)
    valid = _date(2000 + int(year), month, day, None)
    return None, RowReason.AMBIGUOUS_YEAR if valid[0] else RowReason.INVALID_DATE


# --- the people of one list -------------------------------------------------------------------------

_EMAIL, _SMS, _LETTER, _LATE, _SPARED, _AFFECTED = (1 << bit for bit in range(6))
_SAYS = _SPARED | _AFFECTED
_FLAGS = (1 << 6) - 1
_FLAG_BITS, _FIELD_BITS = 6, 24
_FIELD = (1 << _FIELD_BITS) - 1
#: birth date, first name, name, birth name, email, number
_BIRTH, _FIRST, _LAST, _BORN, _MAIL, _NUMBER = range(6)
#: so many people of one patient id are compared with a row; further ones are told apart by all of their data
_COMPARED = 8


class People:
    """Who has been named so far, in about 150 bytes each: tells first rows from further ones."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        #: keys of the further people of a patient id
        self._others: dict[str, list[str]] = {}

    def place(self, judged: Judged) -> bool:
        """Whether this row is the first of its person. Gives a row that shares its patient id with somebody
        else a key of its own, with a doubt. The row must not be refused."""
        assert judged.key is not None
        facts = _facts(judged)
        if judged.id_key:
            judged.key = self._whose(judged, facts)
            if judged.key != judged.id_key:
                judged.doubt(Column.PATIENT_ID, RowReason.SAME_ID)
        known = self._known.get(hash(judged.key))
        if known is not None and {known & _SAYS, facts & _SAYS} in ({_SPARED, _AFFECTED}, {_SPARED, _SAYS}):
            judged.doubt(Column.AFFECTED, RowReason.YES_AND_NO)
        self._known[hash(judged.key)] = facts if known is None else _joined(known, facts)
        return known is None

    def _whose(self, judged: Judged, facts: int) -> str:
        """The key of the first person of this patient id whom the row does not contradict."""
        assert judged.id_key
        assert judged.apart_key
        first = self._known.get(hash(judged.id_key))
        if first is None or not _contradict(first, facts):
            return judged.id_key
        others = self._others.setdefault(judged.id_key, [])
        if hash(judged.apart_key) in self._known:
            return judged.apart_key
        for key in others:
            if not _contradict(self._known[hash(key)], facts):
                return key
        if len(others) < _COMPARED:
            others.append(judged.apart_key)
        return judged.apart_key

    def add_reach(self, judged: Judged) -> None:
        """Counts the contacts of a placed row."""
        self._known[hash(judged.key)] |= (
            (_EMAIL if judged.emails else 0)
            | (_SMS if judged.numbers else 0)
            | (_LETTER if judged.identity.has_postal else 0)
        )

    def reach(self) -> dict[str, int]:
        """Of the people who are to be told, how many by which channel first."""
        counts = {"email": 0, "sms": 0, "letter": 0, "none": 0}
        for facts in self._known.values():
            if not _is_excluded(facts):
                channel = (
                    "email"
                    if facts & _EMAIL
                    else "sms"
                    if facts & _SMS
                    else "letter"
                    if facts & _LETTER
                    else "none"
                )
                counts[channel] += 1
        return counts

    @property
    def excluded(self) -> int:
        return sum(map(_is_excluded, self._known.values()))


def _is_excluded(facts: int) -> bool:
    return bool(facts & _LATE) or facts & _SAYS == _SPARED


def _facts(judged: Judged) -> int:
    """Flags and, where a patient id could be shared, what tells its people apart, packed into one integer."""
    facts = (
        (_LATE if judged.excluded == states.Exclusion.DECEASED else 0)
        | (_SPARED if judged.affected is False else 0)
        | (_AFFECTED if judged.affected else 0)
    )
    identity = judged.identity
    if identity.patient_id:
        birth = date.fromisoformat(identity.birth_date).toordinal() if identity.birth_date else 0
        fields = [
            birth,
            *(
                hash(folded) & _FIELD if name and (folded := _folded(name)) else 0
                for name in (identity.first_name, identity.last_name, identity.birth_name)
            ),
            hash(judged.emails[0].casefold()) & _FIELD if judged.emails else 0,
            hash(judged.numbers[0]) & _FIELD if judged.numbers else 0,
        ]
        for place, value in enumerate(fields):
            facts |= value << (_FLAG_BITS + place * _FIELD_BITS)
    return facts


def _fields(facts: int) -> list[int]:
    return [facts >> (_FLAG_BITS + place * _FIELD_BITS) & _FIELD for place in range(6)]


def _joined(known: int, facts: int) -> int:
    """What is known first stays; what was not known is added."""
    joined = (known | facts) & _FLAGS
    for place, (old, new) in enumerate(zip(_fields(known), _fields(facts), strict=True)):
        joined |= (old or new) << (_FLAG_BITS + place * _FIELD_BITS)
    return joined


def _contradict(known: int, facts: int) -> bool:
    """As `Identity.contradicts`, on packed facts. Where no name agrees, two addresses or two numbers are two
    people's: nothing else says that one id means one person."""
    one, other = _fields(known), _fields(facts)
    if any(one[place] and other[place] and one[place] != other[place] for place in (_BIRTH, _FIRST)):
        return True
    mine, theirs = {one[_LAST], one[_BORN]} - {0}, {other[_LAST], other[_BORN]} - {0}
    if mine and theirs and mine.isdisjoint(theirs):
        return True
    if not mine.isdisjoint(theirs) or (one[_FIRST] and one[_FIRST] == other[_FIRST]):
        return False
    both = [(one[place], other[place]) for place in (_MAIL, _NUMBER) if one[place] and other[place]]
    return bool(both) and all(a != b for a, b in both)


class _Sharing:
    """Counts the people of each contact up to `MOST_SHARING`, by hashes alone."""

    def __init__(self) -> None:
        self._one: dict[int, int] = {}
        self._several: dict[int, set[int]] = {}

    def add(self, judged: Judged) -> None:
        person = hash(judged.key)
        for _, channel, address in judged.contacts():
            contact = hash((channel, address.casefold()))
            if self._one.setdefault(contact, person) != person:
                people = self._several.setdefault(contact, {self._one[contact]})
                if len(people) <= MOST_SHARING:
                    people.add(person)

    def is_by_many(self, channel: Channel, address: str) -> bool:
        return len(self._several.get(hash((channel, address.casefold())), ())) > MOST_SHARING


def _read(
    reader: ListReader,
    region: str,
    today: date | None,
    doctor: str | Collection[str] | None,
    practice: Collection[str] = (),
) -> Iterator[Judged]:
    """Every data row judged, with people who share a patient id told apart."""
    people = People()
    accepted = None if doctor is None else _Accepted(doctor)
    for raw in reader:
        if accepted is not None:
            accepted.check(raw)
        judged = judge(raw, region, today, reader.names_people, practice)
        if judged.key is not None:
            people.place(judged)
        yield judged


class _Accepted:
    """How the doctor of a list may be written in its doctor column: reference or name."""

    def __init__(self, spellings: str | Collection[str]) -> None:
        spellings = [spellings] if isinstance(spellings, str) else list(spellings)
        #: the reference, which errors name
        self._first = next(iter(spellings), "")
        self._keys = {key for spelling in spellings for key in _doctor_keys(spelling)}

    def check(self, raw: RawRow) -> None:
        """Raises ListError if the row belongs to another doctor."""
        for value in raw.cells.get(Column.DOCTOR, ()):
            if self._keys.isdisjoint(_doctor_keys(value)):
                raise ListError(
                    f"Row {raw.number} belongs to another doctor than {self._first!r}, for whom this list was "
                    "handed in. Nothing was saved. Hand in one list per doctor."
                )


_TITLES = frozenset({"dr", "docteur", "doctor", "pr", "prof", "professeur", "m", "mr", "mme", "mlle"})


@functools.lru_cache(maxsize=1024)
def _doctor_keys(written: str) -> frozenset[str]:
    """Without blanks, for a reference; its words in any order without titles, for a name."""
    compact = re.sub(r"\s+", "", written).removesuffix(".0").casefold()
    words = [word for word in re.findall(r"[^\W_]+", unaccented(written).casefold()) if word not in _TITLES]
    return frozenset(key for key in (compact, " ".join(sorted(words))) if key)


def check_list(
    source: Path | BinaryIO,
    region: str = "FR",
    *,
    show: bool = False,
    today: date | None = None,
    own_contacts: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """What an import of this file would take, without a database.

    `rows` = `accepted` + `merged` + `refused`; `reach` counts accepted people who are not excluded, by the
    first channel that works; `problems` name row, column and reason; `columns` says what each header was read as.
    With `show`, also `patients`, one for every data row. `own_contacts` are the doctor's own email addresses and
    numbers. The file is read twice: a contact that many share is known only at its end. Raises ListError if the
    file cannot be read at all or has no row.
    """
    counts = {"rows": 0, "accepted": 0, "merged": 0, "refused": 0}
    problems: list[dict[str, Any]] = []
    patients: list[dict[str, Any]] = []
    people, sharing, practice = People(), _Sharing(), own_keys(own_contacts, region)
    with open_list(source, max_bytes) as reader:
        for judged in _read(reader, region, today, None, practice):
            sharing.add(judged)
        for raw in reader:
            judged = judge(raw, region, today, reader.names_people, practice)
            is_first = judged.key is not None and people.place(judged)
            if judged.key is not None:
                _drop_shared(judged, sharing)
                people.add_reach(judged)
            counts["rows"] += 1
            counts["refused" if judged.key is None else "accepted" if is_first else "merged"] += 1
            problems += [{"row": judged.row, "column": column, "reason": why} for column, why in judged.problems]
            if show:
                patients.append(_shown(judged))
            if progress and counts["rows"] % _ROWS_AT_ONCE == 0:
                progress(counts["rows"])
        if not counts["rows"]:
            raise ListError(_NO_ROW)
        unread = [
            {"row": row, "column": column, "reason": str(why)} for row, column, why in _unread_columns(reader)
        ]
        columns = {header: None if column is None else str(column) for header, column in reader.columns.items()}
    answer: dict[str, Any] = {
        **counts,
        "excluded": people.excluded,
        "reach": people.reach(),
        "problems": unread + problems,
        "columns": columns,
    }
    return answer | {"patients": patients} if show else answer


_NO_ROW = "No row: the list has a header and nothing below it."


def _unread_columns(reader: ListReader) -> list[tuple[int, str, RowReason]]:
    """Problems of the whole list, once its rows were read."""
    return [(reader.header_number, header, RowReason.COLUMN_NOT_READ) for header in reader.unread_contact_columns]


def _drop_shared(judged: Judged, sharing: _Sharing) -> None:
    """Takes contacts away that are not personal."""
    for column, channel, address in list(judged.contacts()):
        if sharing.is_by_many(channel, address):
            (judged.emails if channel is Channel.EMAIL else judged.numbers).remove(address)
            judged.doubt(column, RowReason.SHARED_BY_MANY)


def _shown(judged: Judged) -> dict[str, Any]:
    return {
        "row": judged.row,
        "patient_id": judged.identity.patient_id,
        "email": judged.emails[0] if judged.emails else None,
        "phones": judged.numbers,
        "language": judged.language,
        "birth_date": judged.identity.birth_date,
        "excluded": judged.excluded,
    }


# --- saving -----------------------------------------------------------------------------------------

_OPEN_STATES = (states.Campaign.DRAFT, states.Campaign.READY, states.Campaign.APPROVED)


def contact_blind(data_key: DataKey, channel: Channel, address: str) -> bytes:
    """The blind index of an email address (whatever its case) or of a number in E.164."""
    return data_key.blind(f"{channel}:{address.casefold()}".encode())


def import_list(
    session: Session,
    campaign: models.Campaign,
    data_key: DataKey,
    source: Path | BinaryIO,
    *,
    region: str,
    actor: str,
    now: datetime,
    expected_doctor: str | Collection[str] | None = None,
    own_contacts: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
) -> models.ListFile:
    """Saves the people of a list, in the caller's transaction; the caller commits, or rolls back on any error.

    The same file again changes nothing and returns its first import. A further file adds new people and corrects
    those already known: what it has a column for replaces what an earlier list said, contacts and exclusion
    included; who is not in it stays as they are. `expected_doctor` is what a doctor column may hold: the
    reference, or several spellings, the reference first. `own_contacts` are the doctor's own email addresses and
    numbers, used for no patient. Moving the campaign's state, and the journal, are the caller's.

    Raises ListError for a file that cannot be read, holds no patient or is another doctor's; ConflictError
    if the campaign has started or ended.
    """
    session.flush()
    state = session.scalar(
        select(models.Campaign.state).where(models.Campaign.id == campaign.id).with_for_update()
    )
    if state not in _OPEN_STATES:
        raise ConflictError(f"A campaign that is {state} takes no further list.")
    with open_list(source, max_bytes) as reader:
        earlier = session.scalar(
            select(models.ListFile).where(
                models.ListFile.campaign_id == campaign.id, models.ListFile.sha256 == reader.sha256
            )
        )
        if earlier is not None:
            return earlier
        list_file = models.ListFile(
            campaign_id=campaign.id,
            doctor_id=campaign.doctor_id,
            sha256=reader.sha256,
            rows=0,
            accepted=0,
            merged=0,
            refused=0,
            imported_by=actor,
            imported_at=now,
        )
        session.add(list_file)
        session.flush()
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        saving = _Saving(connection, data_key, campaign.id, campaign.doctor_id, list_file.id, now, reader.meanings)
        practice = own_keys(own_contacts, region)
        saving.stage(_read(reader, region, now.date(), expected_doctor, practice), progress)
        saving.add_problems(_unread_columns(reader))
    if not saving.rows:
        raise ListError(_NO_ROW)
    if saving.rows == saving.refused:
        raise ListError(f"No row of the list is a patient ({saving.rows} rows read, all refused).")
    list_file.accepted, list_file.merged, list_file.refused = saving.save()
    list_file.rows = saving.rows
    session.flush()
    return list_file


_TABLES = """
    SET LOCAL work_mem = '64MB';
    DROP TABLE IF EXISTS pg_temp.staged_person, pg_temp.merged_person, pg_temp.moved_row, pg_temp.shared_contact;
    DROP TABLE IF EXISTS pg_temp.known_person;
    DROP TABLE IF EXISTS pg_temp.staged_contact, pg_temp.staged_problem;
    CREATE TEMPORARY TABLE staged_person (
        row int, person bytea, identity bytea, has_postal bool, language text, comment bool, sensitive bool,
        excluded text, affected bool, family bytea, apart bytea
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE merged_person (
        row int, person bytea, identity bytea, has_postal bool, language text, comment bool, sensitive bool,
        excluded text, rows int, known_id bigint
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE moved_row (row int, person bytea) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_contact (
        row int, rank int2, person bytea, channel text, blind bytea, sealed bytea
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_problem (row int, "column" text, reason text) ON COMMIT DROP;
"""
_TYPES = {
    "staged_person": ["int4", "bytea", "bytea", "bool", "text", "bool", "bool", "text", "bool", "bytea", "bytea"],
    "merged_person": ["int4", "bytea", "bytea", "bool", "text", "bool", "bool", "text", "int4", "int8"],
    "moved_row": ["int4", "bytea"],
    "staged_contact": ["int4", "int2", "bytea", "text", "bytea", "bytea"],
    "staged_problem": ["int4", "text", "text"],
}

#: the planner knows nothing of rows that were just imported, and we may not ANALYZE the table itself
_KNOWN = """
    CREATE TEMPORARY TABLE known_person ON COMMIT DROP AS
        SELECT id, person_blind AS person, identity_sealed AS identity FROM patient WHERE campaign_id = %s
"""
#: rows that share a person among themselves or with an earlier list: by patient id (its first person first), then
#: in the order they came. Known are the person of that key, the first of the patient id, and the one of that id
#: with the row's own names and birth date.
_SHARED = """
    SELECT s.row, s.person, s.identity, s.language, s.comment, s.sensitive, s.excluded, s.affected,
        s.family, s.apart,
        first.id, first.identity, apart.id, apart.identity
    FROM staged_person s
    LEFT JOIN known_person first ON first.person = s.family
    LEFT JOIN known_person apart ON apart.person = s.apart
    WHERE first.id IS NOT NULL OR apart.id IS NOT NULL
       OR s.person IN (SELECT person FROM staged_person GROUP BY person HAVING count(*) > 1)
    ORDER BY s.family, s.person <> s.family, s.person, s.row
"""
_MOVE = """
    ANALYZE moved_row;
    UPDATE staged_person s SET person = m.person FROM moved_row m WHERE s.row = m.row;
    UPDATE staged_contact s SET person = m.person FROM moved_row m WHERE s.row = m.row;
"""
#: contacts of more people of this list than a household has go, with a problem for each row
_DROP_SHARED = f"""
    CREATE TEMPORARY TABLE shared_contact ON COMMIT DROP AS
        SELECT channel, blind FROM staged_contact GROUP BY channel, blind
        HAVING count(DISTINCT person) > {MOST_SHARING};
    INSERT INTO staged_problem
        SELECT s.row, CASE s.channel WHEN 'email' THEN 'email' ELSE 'phone' END, '{RowReason.SHARED_BY_MANY}'
        FROM staged_contact s JOIN shared_contact USING (channel, blind) ORDER BY s.row, s.rank;
    DELETE FROM staged_contact s USING shared_contact c WHERE c.channel = s.channel AND c.blind = s.blind;
    ANALYZE staged_contact;
"""  # noqa: S608 - put together from constants

_OUTCOME = """
    CASE WHEN excluded IS NOT NULL THEN 'excluded' WHEN reachable THEN 'on_the_way' ELSE 'unreached' END,
    CASE WHEN excluded IS NOT NULL THEN excluded WHEN reachable THEN NULL ELSE 'no_contact' END,
    CASE WHEN excluded IS NULL AND reachable THEN NULL ELSE %(now)s::timestamptz END
"""
_INSERT_PEOPLE = f"""
    INSERT INTO patient (
        campaign_id, doctor_id, list_file_id, row, merged, person_blind, identity_sealed, has_postal, language,
        variant, comment_sensitive, outcome, outcome_reason, outcome_at
    )
    SELECT %(campaign_id)s, %(doctor_id)s, %(list_file_id)s, row, rows - 1, person, identity, has_postal, language,
        CASE WHEN comment THEN 'comment' ELSE 'standard' END, coalesce(sensitive, false), {_OUTCOME}
    FROM (
        SELECT new.*, contact.person IS NOT NULL AS reachable
        FROM (
            SELECT row, person, identity, has_postal, language, comment, sensitive, excluded, 1 AS rows
            FROM staged_person s WHERE NOT EXISTS (SELECT FROM merged_person m WHERE m.person = s.person)
            UNION ALL
            SELECT row, person, identity, has_postal, language, comment, sensitive, excluded, rows
            FROM merged_person WHERE known_id IS NULL
        ) new
        LEFT JOIN (SELECT DISTINCT person FROM staged_contact) contact ON contact.person = new.person
    ) person
    ORDER BY row
"""  # noqa: S608 - put together from the constant above
#: a further list replaces the contacts of the channels it has columns for
_UNLINK_KNOWN = """
    DELETE FROM patient_contact k USING merged_person m, contact c
    WHERE k.patient_id = m.known_id AND c.id = k.contact_id AND c.channel = ANY(%(channels)s)
"""
#: what a further list has columns for comes from it; a comment stays one unless the list says that there is none
_UPDATE_KNOWN = """
    UPDATE patient p
    SET merged = p.merged + m.rows, identity_sealed = m.identity, has_postal = m.has_postal,
        language = CASE WHEN %(has_language)s THEN m.language ELSE p.language END,
        variant = CASE WHEN m.comment THEN 'comment' WHEN NOT m.comment THEN 'standard' ELSE p.variant END,
        comment_sensitive = coalesce(m.sensitive, p.comment_sensitive AND m.comment IS NOT FALSE),
        (outcome, outcome_reason, outcome_at) = (
            SELECT outcome, reason, CASE
                WHEN outcome = 'on_the_way' THEN NULL
                WHEN (outcome, reason) = (p.outcome, p.outcome_reason) THEN p.outcome_at
                ELSE %(now)s::timestamptz
            END
            FROM (VALUES
                (1, 'excluded', m.excluded, m.excluded IS NOT NULL),
                (2, 'excluded', p.outcome_reason,
                    p.outcome = 'excluded' AND NOT p.outcome_reason = ANY(%(exclusions)s)),
                (3, 'on_the_way', NULL, EXISTS (SELECT FROM patient_contact k WHERE k.patient_id = p.id)),
                (4, 'unreached', 'no_contact', true)
            ) AS choice (place, outcome, reason, applies)
            WHERE applies ORDER BY place LIMIT 1
        )
    FROM merged_person m WHERE p.id = m.known_id
"""
_INSERT_CONTACTS = """
    INSERT INTO contact (campaign_id, doctor_id, channel, value_blind, value_sealed)
    SELECT %(campaign_id)s, %(doctor_id)s, channel, blind, sealed
    FROM (SELECT DISTINCT ON (channel, blind) * FROM staged_contact ORDER BY channel, blind, row, rank) contact
    ORDER BY row, rank
    ON CONFLICT (campaign_id, channel, value_blind) DO NOTHING
"""
_LINK_CONTACTS = """
    INSERT INTO patient_contact (patient_id, contact_id, doctor_id, rank)
    SELECT patient_id, contact_id, %(doctor_id)s,
        least(32767, row_number() OVER (PARTITION BY patient_id, channel ORDER BY row, rank) - 1)
    FROM (
        SELECT DISTINCT ON (p.id, c.id) p.id AS patient_id, c.id AS contact_id, s.channel, s.row, s.rank
        FROM staged_contact s
        JOIN patient p ON p.campaign_id = %(campaign_id)s AND p.person_blind = s.person
        JOIN contact c ON c.campaign_id = %(campaign_id)s AND c.channel = s.channel AND c.value_blind = s.blind
        ORDER BY p.id, c.id, s.row, s.rank
    ) new
"""
_INSERT_PROBLEMS = """
    INSERT INTO list_problem (list_file_id, doctor_id, row, "column", reason)
    SELECT %(list_file_id)s, %(doctor_id)s, row, "column", reason FROM staged_problem ORDER BY row
"""


class _Saving:
    """Stages judged rows in temporary tables (COPY refuses tables with row-level security for our roles),
    merges those of one person, and moves all into place by a few statements."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        data_key: DataKey,
        campaign_id: int,
        doctor_id: int,
        list_file_id: int,
        now: datetime,
        columns: Collection[Column],
    ) -> None:
        self.rows = self.refused = 0
        self._columns = columns
        self._connection = connection
        self._data_key = data_key
        channels = {Column.EMAIL: Channel.EMAIL, Column.PHONE: Channel.SMS}
        exclusions = {
            Column.DECEASED: states.Exclusion.DECEASED,
            Column.AFFECTED: states.Exclusion.NOT_AFFECTED,
        }
        self._ids: dict[str, Any] = {
            "channels": [str(channel) for column, channel in channels.items() if column in columns],
            "exclusions": [str(reason) for column, reason in exclusions.items() if column in columns],
            "has_language": Column.LANGUAGE in columns,
            "campaign_id": campaign_id,
            "doctor_id": doctor_id,
            "list_file_id": list_file_id,
            "now": now,
        }
        connection.execute(_TABLES)

    def stage(self, judged_rows: Iterator[Judged], progress: Callable[[int], None] | None) -> None:
        people: list[tuple[Any, ...]] = []
        contacts: list[tuple[Any, ...]] = []
        problems: list[tuple[Any, ...]] = []
        for judged in judged_rows:
            self.rows += 1
            problems += [(judged.row, column, reason) for column, reason in judged.problems]
            if judged.key is None:
                self.refused += 1
            else:
                person = self._blind(judged.key)
                people.append(self._person(judged, person))
                contacts += self._contacts(judged, person)
            if self.rows % _ROWS_AT_ONCE == 0:
                self._copy("staged_person", people)
                self._copy("staged_contact", contacts)
                self._copy("staged_problem", problems)
                if progress:
                    progress(self.rows)
        self._copy("staged_person", people)
        self._copy("staged_contact", contacts)
        self._copy("staged_problem", problems)

    def add_problems(self, problems: list[tuple[int, str, RowReason]]) -> None:
        """Problems of the list as a whole."""
        self._copy("staged_problem", list(problems))

    def _blind(self, key: str) -> bytes:
        return self._data_key.blind(f"person:{key}".encode())

    def _person(self, judged: Judged, person: bytes) -> tuple[Any, ...]:
        identity = judged.identity
        is_first_of_id = judged.id_key is None or judged.key == judged.id_key
        return (
            judged.row,
            person,
            self._data_key.seal(identity.to_json(), IDENTITY_PURPOSE),
            identity.has_postal,
            judged.language,
            judged.comment,
            judged.comment_sensitive,
            judged.excluded,
            judged.affected,
            person if is_first_of_id else self._blind(judged.id_key or ""),
            self._blind(judged.apart_key) if judged.apart_key else None,
        )

    def _contacts(self, judged: Judged, person: bytes) -> Iterator[tuple[Any, ...]]:
        for channel, addresses in ((Channel.EMAIL, judged.emails), (Channel.SMS, judged.numbers)):
            for rank, address in enumerate(addresses):
                sealed = self._data_key.seal(address.encode(), CONTACT_PURPOSE)
                blind = contact_blind(self._data_key, channel, address)
                yield judged.row, min(rank, 32767), person, str(channel), blind, sealed

    def _copy(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        """Sends the rows and empties the list."""
        if not rows:
            return
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as copy,
        ):
            copy.set_types(_TYPES[table])
            for row in rows:
                copy.write_row(row)
        rows.clear()

    def save(self) -> tuple[int, int, int]:
        """Returns how many rows were accepted, merged and refused."""
        execute = self._connection.execute
        execute(_KNOWN, (self._ids["campaign_id"],))
        execute("ANALYZE staged_person, staged_contact, known_person")
        self._merge()
        execute(_DROP_SHARED)
        execute("ANALYZE merged_person")
        accepted = execute(_INSERT_PEOPLE, self._ids).rowcount
        execute(_UNLINK_KNOWN, self._ids)
        execute(_INSERT_CONTACTS, self._ids)
        execute(_LINK_CONTACTS, self._ids)
        execute(_UPDATE_KNOWN, self._ids)
        execute(_INSERT_PROBLEMS, self._ids)
        return accepted, self.rows - self.refused - accepted, self.refused

    def _merge(self) -> None:
        """Makes one person of the rows that share one, opening their identities; memory stays bounded."""
        merged: list[tuple[Any, ...]] = []
        moved: list[tuple[Any, ...]] = []
        problems: list[tuple[Any, ...]] = []
        group: _Group | None = None
        taken: bytes | None = None

        def finish(group: _Group) -> None:
            nonlocal taken
            is_moved = group.settle(first_is_taken=taken == group.family)
            if group.person == group.family:
                taken = group.family
            if is_moved:
                moved.extend((row, group.person) for row in group.rows)
                if group.person != group.family:
                    problems.extend((row, Column.PATIENT_ID, RowReason.SAME_ID) for row in group.rows)
            merged.append(group.sealed(self._data_key, replaces_phones=Column.PHONE in self._columns))

        with self._connection.cursor(name="shared_people") as cursor:
            cursor.execute(_SHARED, self._ids)
            while batch := cursor.fetchmany(_ROWS_AT_ONCE):
                for row in batch:
                    if group is None or group.came_as != row[1]:
                        if group:
                            finish(group)
                        group = _Group(row, *self._known(row))
                    group.add(row, self._opened(row[2]))
                for table, rows in (("merged_person", merged), ("moved_row", moved), ("staged_problem", problems)):
                    self._copy(table, rows)
        if group:
            finish(group)
        for table, rows in (("merged_person", merged), ("moved_row", moved), ("staged_problem", problems)):
            self._copy(table, rows)
        self._connection.execute(_MOVE)

    def _known(self, row: tuple[Any, ...]) -> tuple[_Known | None, _Known | None]:
        """The first person of this patient id in earlier lists, and the one with this row's names."""
        first, apart = row[10:12], row[12:14]
        return (
            _Known(first[0], self._opened(first[1])) if first[0] else None,
            _Known(apart[0], self._opened(apart[1])) if apart[0] else None,
        )

    def _opened(self, sealed: bytes) -> Identity:
        return Identity.from_json(self._data_key.open(sealed, IDENTITY_PURPOSE))


@dataclass(frozen=True, slots=True)
class _Known:
    """A patient of an earlier list of the campaign."""

    id: int
    identity: Identity


class _Group:
    """The rows of one person of this list, merged as they come, then matched with an earlier list."""

    def __init__(self, row: tuple[Any, ...], first: _Known | None, apart: _Known | None) -> None:
        self.came_as: bytes = row[1]
        self.person: bytes = row[1]
        self.family: bytes = row[8]
        self.rows: list[int] = []
        self.identity: Identity | None = None
        self._apart_blind: bytes | None = row[9]
        self._first, self._apart = first, apart
        self._known: _Known | None = None
        self._language = row[3]
        self._comment: bool | None = None
        self._sensitive: bool | None = None
        self._exclusions: set[str] = set()
        self._is_affected = False

    def add(self, row: tuple[Any, ...], identity: Identity) -> None:
        comment, sensitive, excluded, affected = row[4:8]
        self.identity = self.identity.merged_with(identity) if self.identity else identity
        self.rows.append(row[0])
        self._comment = _either(self._comment, comment)
        self._sensitive = _either(self._sensitive, sensitive)
        self._exclusions |= {excluded} - {None}
        self._is_affected |= affected is True

    def settle(self, first_is_taken: bool) -> bool:
        """Decides who this is of the people of the patient id in earlier lists; True if the key changes.

        The order of people who share an id may differ between lists. `first_is_taken` says that another group
        of this list is the first person of the id.
        """
        assert self.identity is not None
        first, apart = self._first, self._apart
        if self.came_as == self.family:
            if first and first.identity.contradicts(self.identity):
                assert self._apart_blind is not None
                self.person, self._known = self._apart_blind, apart
            else:
                self._known = first
        elif apart:
            self._known = apart
        elif first and not first_is_taken and first.identity.agrees(self.identity):
            self.person, self._known = self.family, first
        return self.person != self.came_as

    def sealed(self, data_key: DataKey, replaces_phones: bool) -> tuple[Any, ...]:
        """A row for `merged_person`: this list's values first, then the earlier ones."""
        assert self.identity is not None
        identity = self.identity.merged_with(self._known.identity) if self._known else self.identity
        if replaces_phones:
            identity.phones = self.identity.phones
        sealed = data_key.seal(identity.to_json(), IDENTITY_PURPOSE)
        return (
            self.rows[0],
            self.person,
            sealed,
            identity.has_postal,
            self._language,
            self._comment,
            self._sensitive,
            self._excluded(),
            len(self.rows),
            self._known.id if self._known else None,
        )

    def _excluded(self) -> str | None:
        if states.Exclusion.DECEASED in self._exclusions:
            return states.Exclusion.DECEASED
        # yes on one row and no on another: told
        return None if self._is_affected else next(iter(self._exclusions), None)


def _either(one: bool | None, other: bool | None) -> bool | None:
    """True if one says so, else False if one says so, else None."""
    return (one or other) if None not in (one, other) else other if one is None else one
