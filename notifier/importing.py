"""Step 1: a list file becomes patients and contacts, and a report of every refused or doubtful row.

The first half is pure (`judge`, `People`, `check_list`), the second saves (`import_list`). Memory stays bounded:
rows are judged one by one, sealed, copied to the database by thousands, and merged there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
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
from notifier.importers import Column, RawRow
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
    #: refused: this patient id belongs to somebody else in an earlier list of the campaign
    ID_OF_ANOTHER = "patient_id_of_another_person"
    #: doubt: only a contact is known, so the person is told without a name
    NO_NAME = "no_name"
    #: doubt: one patient id with two birth dates or first names; kept as two people
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
    #: accents were read with the wrong encoding by an earlier program ("RenÃ©")
    MOJIBAKE = "damaged_accents"


#: (French, English)
_WORDS: dict[RowReason, tuple[str, str]] = {
    RowReason.NO_IDENTITY: ("Ni identifiant, ni nom, ni contact.", "Neither id, nor name, nor contact."),
    RowReason.TOTALS_LINE: ("Ligne de total, pas une personne.", "A totals line, not a person."),
    RowReason.ID_OF_ANOTHER: (
        "Cet identifiant désigne une autre personne dans une liste précédente.",
        "This id is another person's in an earlier list.",
    ),
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
    RowReason.MOJIBAKE: ("Accents abîmés par un autre logiciel.", "Accents damaged by another program."),
}
#: what people read about rows, a reader's doubts included
WORDS: dict[str, tuple[str, str]] = {
    str(code): words for table in (_WORDS, importers.WORDS) for code, words in table.items()
}

#: a list may mark people whose data was not taken; they get no notice
NOT_AFFECTED = "not_affected"


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

    def contradicts(self, other: Identity) -> bool:
        """Whether two rows with one patient id are two people: birth dates differ, or, where those are not
        both known, first names."""
        if self.birth_date and other.birth_date:
            return self.birth_date != other.birth_date
        mine, theirs = _folded(self.first_name or ""), _folded(other.first_name or "")
        return bool(mine and theirs) and mine != theirs


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
    comment: bool = False
    comment_sensitive: bool = False
    #: (column, reason); never a value
    problems: list[tuple[str, str]] = field(default_factory=list)

    def doubt(self, column: str, reason: StrEnum) -> None:
        self.problems.append((str(column), str(reason)))


def judge(raw: RawRow, region: str = "FR", today: date | None = None, names_people: bool = True) -> Judged:
    """Turns a raw row into a person with contacts, or says why it is none.

    `region` is where the practice dials from; `today` bounds birth dates (none given: no date is in the future).
    `names_people` says whether the list has columns for names, so that a missing one is a doubt.
    A row with a name is never refused, however bad its contacts: somebody must still be told, by letter.
    """
    cells = raw.cells
    judged = Judged(raw.number, problems=[("row", str(doubt)) for doubt in raw.doubts])
    postal_code = _postal_code(_first(cells, Column.POSTAL_CODE), region)
    _judge_emails(judged, cells.get(Column.EMAIL, ()))
    landlines = _judge_phones(judged, cells.get(Column.PHONE, ()), region, postal_code)
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


def _judge_emails(judged: Judged, values: list[str] | tuple[()]) -> None:
    keys = set()
    for value in values:
        for piece in split_emails(value):
            email = check_email(piece.text)
            if piece.do_not_use:
                judged.doubt(Column.EMAIL, Reason.DO_NOT_USE)
            elif not email.ok or email.address is None:
                judged.doubt(Column.EMAIL, email.reason or Reason.SYNTAX)
            elif email.key not in keys:
                keys.add(email.key)
                judged.emails.append(email.address)
                if piece.note and piece.is_of_another:
                    judged.doubt(Column.EMAIL, RowReason.ANOTHER_PERSON)


def _judge_phones(
    judged: Judged, values: list[str] | tuple[()], region: str, postal_code: str | None
) -> dict[str, None]:
    """Fills the numbers for SMS; returns those for calls, in order."""
    landlines: dict[str, None] = {}
    for value in values:
        for piece in split_phones(value):
            if piece.do_not_use:
                judged.doubt(Column.PHONE, Reason.DO_NOT_USE)
                continue
            phone = check_phone(piece.text, region, postal_code)
            if not phone.ok or phone.e164 is None:
                judged.doubt(Column.PHONE, phone.reason or Reason.NOT_ASSIGNED)
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
    elif Column.AFFECTED in cells and _says_yes(judged, Column.AFFECTED, cells) is False:
        judged.excluded = NOT_AFFECTED
    judged.comment = Column.COMMENT in cells
    if Column.COMMENT_SENSITIVE in cells:
        judged.comment_sensitive = _says_yes(judged, Column.COMMENT_SENSITIVE, cells) is not False
        judged.comment = judged.comment or judged.comment_sensitive
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
        return f"id:{identity.patient_id.casefold()}"
    last, first = _folded(identity.birth_name or identity.last_name or ""), _folded(identity.first_name or "")
    if last or first:
        if birth_key:
            return f"name:{last}|{first}|{birth_key}"
        place = "".join([*identity.address, identity.postal_code or ""])
        return f"name:{last}|{first}||{contact or _folded(place)}"
    return f"contact:{contact}" if contact else None


@functools.lru_cache(maxsize=65536)
def _folded(name: str) -> str:
    plain = unaccented(name).casefold()
    return "".join(character for character in plain if character.isalnum())


_TOTALS = re.compile(r"(?:sous[- ]?)?tota(?:l|ux)\b|nombre (?:de|total)|somme\b", re.IGNORECASE)


def _is_totals_line(judged: Judged, cells: dict[Column, list[str]]) -> bool:
    if judged.emails or judged.numbers or judged.identity.birth_date:
        return False
    if not cells:
        return False
    values = [values[0] for values in cells.values()]
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

_EMAIL, _SMS, _LETTER, _EXCLUDED = 1, 2, 4, 8
_MASK_BITS, _BIRTH_BITS = 4, 24


class People:
    """Who has been named so far, in about 130 bytes each: tells first rows from further ones."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def place(self, judged: Judged) -> bool:
        """Whether this row is the first of its person. Gives a row that shares its patient id with somebody
        else a key of its own, with a doubt. The row must not be refused."""
        assert judged.key is not None
        facts = _facts(judged)
        known = self._known.get(hash(judged.key))
        if known is not None and judged.key.startswith("id:") and _contradict(known, facts):
            judged.doubt(Column.PATIENT_ID, RowReason.SAME_ID)
            judged.key += f"|{judged.identity.birth_date or _folded(judged.identity.first_name or '')}"
            known = self._known.get(hash(judged.key))
        mask = (1 << _MASK_BITS) - 1
        if known is None:
            self._known[hash(judged.key)] = facts
        else:
            self._known[hash(judged.key)] = (
                (known if known > mask else facts & ~mask) | known & mask | facts & mask
            )
        return known is None

    def reach(self) -> dict[str, int]:
        """Of the people who are to be told, how many by which channel first."""
        counts = {"email": 0, "sms": 0, "letter": 0, "none": 0}
        for facts in self._known.values():
            if not facts & _EXCLUDED:
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
        return sum(bool(facts & _EXCLUDED) for facts in self._known.values())


def _facts(judged: Judged) -> int:
    """Reach and, where a patient id could be shared, birth date and first name, packed into one integer."""
    facts = (
        (_EMAIL if judged.emails else 0)
        | (_SMS if judged.numbers else 0)
        | (_LETTER if judged.identity.has_postal else 0)
        | (_EXCLUDED if judged.excluded else 0)
    )
    if judged.identity.patient_id:
        birth_date, first = judged.identity.birth_date, _folded(judged.identity.first_name or "")
        facts |= (date.fromisoformat(birth_date).toordinal() if birth_date else 0) << _MASK_BITS
        facts |= (hash(first) & 0xFFFFFF if first else 0) << (_MASK_BITS + _BIRTH_BITS)
    return facts


def _contradict(known: int, facts: int) -> bool:
    """As `Identity.contradicts`, on packed facts."""
    births = [value >> _MASK_BITS & (1 << _BIRTH_BITS) - 1 for value in (known, facts)]
    if all(births):
        return births[0] != births[1]
    names = [value >> (_MASK_BITS + _BIRTH_BITS) for value in (known, facts)]
    return all(names) and names[0] != names[1]


def _read(reader: ListReader, region: str, today: date | None, doctor: str | None) -> Iterator[Judged]:
    """Every data row judged, with people who share a patient id told apart."""
    people = People()
    for raw in reader:
        if doctor is not None:
            _check_doctor(raw, doctor)
        judged = judge(raw, region, today, reader.names_people)
        if judged.key is not None:
            people.place(judged)
        yield judged


def _check_doctor(raw: RawRow, expected: str) -> None:
    for value in raw.cells.get(Column.DOCTOR, ()):
        written = re.sub(r"\s+", "", value).removesuffix(".0")
        if written.casefold() != re.sub(r"\s+", "", expected).casefold():
            raise ListError(
                f"Row {raw.number} belongs to another doctor than the one this list was handed in for. "
                "Nothing was saved. Hand in one list per doctor."
            )


def check_list(
    source: Path | BinaryIO,
    region: str = "FR",
    *,
    show: bool = False,
    today: date | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """What an import of this file would take, without a database.

    `rows` = `accepted` + `merged` + `refused`; `reach` counts accepted people who are not excluded, by the
    first channel that works; `problems` name row, column and reason. With `show`, also `patients`, one for
    every data row. Raises ListError if the file cannot be read at all.
    """
    counts = {"rows": 0, "accepted": 0, "merged": 0, "refused": 0}
    problems: list[dict[str, Any]] = []
    patients: list[dict[str, Any]] = []
    people = People()
    with open_list(source, max_bytes) as reader:
        for raw in reader:
            judged = judge(raw, region, today, reader.names_people)
            is_first = judged.key is not None and people.place(judged)
            counts["rows"] += 1
            counts["refused" if judged.key is None else "accepted" if is_first else "merged"] += 1
            problems += [{"row": judged.row, "column": column, "reason": why} for column, why in judged.problems]
            if show:
                patients.append(_shown(judged))
            if progress and counts["rows"] % _ROWS_AT_ONCE == 0:
                progress(counts["rows"])
    answer: dict[str, Any] = {**counts, "excluded": people.excluded, "reach": people.reach(), "problems": problems}
    return answer | {"patients": patients} if show else answer


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
    expected_doctor: str | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
) -> models.ListFile:
    """Saves the people of a list, in the caller's transaction; the caller commits, or rolls back on any error.

    The same file again changes nothing and returns its first import. A further file adds new people, and new
    contacts at the end of those of people already known. `expected_doctor` is the reference that a doctor
    column must hold. Moving the campaign's state, and the journal, are the caller's.

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
        saving = _Saving(connection, data_key, campaign.id, campaign.doctor_id, list_file.id, now)
        saving.stage(_read(reader, region, now.date(), expected_doctor), progress)
    if saving.rows == saving.refused:
        raise ListError(f"No row of the list is a patient ({saving.rows} rows read, all refused).")
    list_file.accepted, list_file.merged, list_file.refused = saving.save()
    list_file.rows = saving.rows
    session.flush()
    return list_file


_TABLES = """
    SET LOCAL work_mem = '64MB';
    DROP TABLE IF EXISTS pg_temp.staged_person, pg_temp.merged_person;
    DROP TABLE IF EXISTS pg_temp.staged_contact, pg_temp.staged_problem;
    CREATE TEMPORARY TABLE staged_person (
        row int, person bytea, identity bytea, has_postal bool, language text, comment bool, sensitive bool,
        excluded text, reachable bool
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE merged_person (LIKE staged_person, rows int, known_id bigint) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_contact (
        row int, rank int2, person bytea, channel text, blind bytea, sealed bytea
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_problem (row int, "column" text, reason text) ON COMMIT DROP;
"""
_TYPES = {
    "staged_person": ["int4", "bytea", "bytea", "bool", "text", "bool", "bool", "text", "bool"],
    "staged_contact": ["int4", "int2", "bytea", "text", "bytea", "bytea"],
    "staged_problem": ["int4", "text", "text"],
}
_TYPES["merged_person"] = [*_TYPES["staged_person"], "int4", "int8"]

#: rows that share a person among themselves or with an earlier list, in the order they came
_SHARED = """
    SELECT s.*, p.id, p.identity_sealed FROM staged_person s
    LEFT JOIN patient p ON p.campaign_id = %(campaign_id)s AND p.person_blind = s.person
    WHERE p.id IS NOT NULL
       OR s.person IN (SELECT person FROM staged_person GROUP BY person HAVING count(*) > 1)
    ORDER BY s.person, s.row
"""

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
        CASE WHEN comment THEN 'comment' ELSE 'standard' END, sensitive, {_OUTCOME}
    FROM (
        SELECT s.*, 1 AS rows FROM staged_person s
        WHERE NOT EXISTS (SELECT FROM merged_person m WHERE m.person = s.person)
        UNION ALL
        SELECT row, person, identity, has_postal, language, comment, sensitive, excluded, reachable, rows
        FROM merged_person WHERE known_id IS NULL
    ) person
    ORDER BY row
"""  # noqa: S608 - put together from the constant above
_UPDATE_KNOWN = """
    UPDATE patient p
    SET merged = p.merged + m.rows, identity_sealed = m.identity, has_postal = m.has_postal,
        variant = CASE WHEN m.comment THEN 'comment' ELSE p.variant END,
        comment_sensitive = p.comment_sensitive OR m.sensitive,
        (outcome, outcome_reason, outcome_at) = (
            SELECT outcome, reason, at FROM (VALUES
                (1, 'excluded', m.excluded, %(now)s::timestamptz, m.excluded <> '' AND p.outcome <> 'excluded'),
                (2, 'on_the_way', NULL, NULL, p.outcome_reason = 'no_contact' AND m.reachable),
                (3, p.outcome, p.outcome_reason, p.outcome_at, true)
            ) AS choice (place, outcome, reason, at, applies)
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
    SELECT new.patient_id, new.contact_id, %(doctor_id)s, least(32767, coalesce(known.ranks, 0) - 1 + row_number()
        OVER (PARTITION BY new.patient_id, new.channel ORDER BY new.row, new.rank))
    FROM (
        SELECT DISTINCT ON (p.id, c.id) p.id AS patient_id, c.id AS contact_id, s.channel, s.row, s.rank
        FROM staged_contact s
        JOIN patient p ON p.campaign_id = %(campaign_id)s AND p.person_blind = s.person
        JOIN contact c ON c.campaign_id = %(campaign_id)s AND c.channel = s.channel AND c.value_blind = s.blind
        ORDER BY p.id, c.id, s.row, s.rank
    ) new
    LEFT JOIN (
        SELECT k.patient_id, c.channel, max(k.rank) + 1 AS ranks FROM patient_contact k
        JOIN contact c ON c.id = k.contact_id AND c.campaign_id = %(campaign_id)s
        GROUP BY k.patient_id, c.channel
    ) known USING (patient_id, channel)
    WHERE NOT EXISTS (
        SELECT FROM patient_contact k WHERE k.patient_id = new.patient_id AND k.contact_id = new.contact_id
    )
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
    ) -> None:
        self.rows = self.refused = 0
        self._connection = connection
        self._data_key = data_key
        self._ids = {
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
                person = self._data_key.blind(f"person:{judged.key}".encode())
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

    def _person(self, judged: Judged, person: bytes) -> tuple[Any, ...]:
        identity = judged.identity
        return (
            judged.row,
            person,
            self._data_key.seal(identity.to_json(), IDENTITY_PURPOSE),
            identity.has_postal,
            judged.language,
            judged.comment,
            judged.comment_sensitive,
            judged.excluded,
            bool(judged.emails or judged.numbers),
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
        execute("ANALYZE staged_person, staged_contact")
        self._merge()
        if self.rows == self.refused:
            raise ListError(f"No row of the list is a patient ({self.rows} rows read, all refused).")
        execute("ANALYZE merged_person")
        accepted = execute(_INSERT_PEOPLE, self._ids).rowcount
        execute(_UPDATE_KNOWN, self._ids)
        execute(_INSERT_CONTACTS, self._ids)
        execute(_LINK_CONTACTS, self._ids)
        execute(_INSERT_PROBLEMS, self._ids)
        return accepted, self.rows - self.refused - accepted, self.refused

    def _merge(self) -> None:
        """Makes one person of the rows that share one, opening their identities; memory stays bounded."""
        merged: list[tuple[Any, ...]] = []
        group: _Group | None = None
        refused: list[int] = []
        with self._connection.cursor(name="shared_people") as cursor:
            cursor.execute(_SHARED, self._ids)
            while batch := cursor.fetchmany(_ROWS_AT_ONCE):
                for *row, known_id, known_identity in batch:
                    if group is None or group.person != row[1]:
                        if group and group.rows:
                            merged.append(group.sealed(self._data_key))
                        group = _Group(row[1], known_id, self._opened(known_identity))
                    if not group.takes(row, self._opened(row[2])):
                        refused.append(row[0])
                self._copy("merged_person", merged)
        if group and group.rows:
            self._copy("merged_person", [group.sealed(self._data_key)])
        if refused:
            self._refuse(refused)

    def _opened(self, sealed: bytes | None) -> Identity | None:
        return Identity.from_json(self._data_key.open(sealed, IDENTITY_PURPOSE)) if sealed else None

    def _refuse(self, rows: list[int]) -> None:
        """Takes rows back whose patient id belongs to somebody else in an earlier list."""
        self.refused += len(rows)
        for table in ("staged_person", "staged_contact"):
            self._connection.execute(f"DELETE FROM {table} WHERE row = ANY(%s)".encode(), (rows,))  # noqa: S608 - two literals
        self._copy("staged_problem", [(row, Column.PATIENT_ID, RowReason.ID_OF_ANOTHER) for row in rows])


class _Group:
    """The rows of one person, merged as they come; what an earlier list says comes first."""

    def __init__(self, person: bytes, known_id: int | None, known: Identity | None) -> None:
        self.person, self.known_id, self.known = person, known_id, known
        self.rows = 0
        self.identity: Identity | None = known
        self._first: list[Any] = []

    def takes(self, row: list[Any], identity: Identity | None) -> bool:
        """False if the row is somebody else's: then nothing is merged."""
        assert identity is not None
        if self.known and self.known.contradicts(identity):
            return False
        self.identity = self.identity.merged_with(identity) if self.identity else identity
        self.rows += 1
        if not self._first:
            self._first = row
            return True
        comment, sensitive, excluded, reachable = row[5:]
        self._first[5] |= comment
        self._first[6] |= sensitive
        self._first[7] = self._first[7] or excluded
        self._first[8] |= reachable
        return True

    def sealed(self, data_key: DataKey) -> tuple[Any, ...]:
        assert self.identity is not None
        first = self._first
        sealed = data_key.seal(self.identity.to_json(), IDENTITY_PURPOSE)
        return (first[0], self.person, sealed, self.identity.has_postal, *first[4:9], self.rows, self.known_id)
