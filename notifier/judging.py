"""One row of a list, judged: a person with contacts, or why it is none; what is doubtful, what is suggested. Pure.

Forgiving in form, strict in meaning: a contact is used only where it can be nobody else's. No database, no clock.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import NamedTuple

import orjson

from notifier import countries, importers, postal, states
from notifier.addresses import (
    Reason,
    check_email,
    check_phone,
    folded,
    is_role,
    plain_email,
    plain_phone,
    split_emails,
    split_phones,
    tidy,
    unaccented,
)
from notifier.importers import Column, RawRow
from notifier.states import Channel

#: languages a notice can be composed in; others fall back to the first
LANGUAGES = ("fr", "en")
#: Code civil, article 388: under eighteen; the holder of parental authority is written to
MAJORITY = 18


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
    #: doubt: two patient ids with one name and birth date and no contact in common; kept as two people
    POSSIBLE_DOUBLE = "possible_double"
    INVALID_DATE = "invalid_date"
    #: 12/03/15 may be 1915 or 2015
    AMBIGUOUS_YEAR = "ambiguous_year"
    #: the national identifier is misspelt, or its year and month are another person's (a parent's)
    NATIONAL_ID = "national_id_not_theirs"
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
    #: a list without ids: a new person with the name of one of an earlier list whom this one does not name,
    #: perhaps the same with another contact; both are kept and told
    PERHAPS_KNOWN = "perhaps_known_with_another_contact"
    #: a message went to a contact that this list has taken away from the person; it is not sent again
    TOLD_ELSEWHERE = "told_at_a_contact_since_replaced"
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
    RowReason.POSSIBLE_DOUBLE: (
        "Même nom et même naissance qu'un autre identifiant : peut-être une seule personne ; deux sont gardées.",
        "Same name and birth date as another id: perhaps one person; kept as two.",
    ),
    RowReason.INVALID_DATE: ("La date n'existe pas.", "There is no such date."),
    RowReason.AMBIGUOUS_YEAR: ("L'année peut être de deux siècles.", "The year may be of two centuries."),
    RowReason.NATIONAL_ID: (
        "Identifiant national faux, ou celui d'une autre personne : il n'est pas utilisé.",
        "The national identifier is wrong, or another person's: it is not used.",
    ),
    RowReason.UNKNOWN_LANGUAGE: ("Langue inconnue : le français est pris.", "Unknown language: French is taken."),
    RowReason.UNCLEAR: ("Ni oui ni non : la personne sera prévenue.", "Neither yes nor no: the person is told."),
    RowReason.ANOTHER_PERSON: ("La note désigne une autre personne.", "The note names another person."),
    RowReason.SERVICE_NUMBER: ("Numéro de service, pas d'une personne.", "A service number, not a person's."),
    RowReason.SHARED_BY_MANY: (
        "Trop de personnes ont ce contact : il n'est à personne en propre.",
        "Too many people have this contact: it is nobody's own.",
    ),
    RowReason.PRACTICE_CONTACT: ("Le contact du cabinet lui-même.", "The practice's own contact."),
    RowReason.PERHAPS_KNOWN: (
        "Même nom qu'une personne d'une liste précédente, absente de celle-ci : peut-être la même, avec un autre "
        "contact ; les deux sont gardées.",
        "Same name as a person of an earlier list who is not in this one: perhaps the same, with another contact; "
        "both are kept.",
    ),
    RowReason.TOLD_ELSEWHERE: (
        "Un message est déjà parti à un contact que cette liste a remplacé : il n'est pas renvoyé au nouveau.",
        "A message went to a contact that this list has replaced: it is not sent again to the new one.",
    ),
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


@functools.lru_cache(maxsize=16)
def _came_of_age(today: date) -> str:
    """The birth date (ISO 8601) of whoever comes of age today; who was born later is a minor."""
    return f"{today.year - MAJORITY:04}{today:-%m-%d}"


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
    #: "m" or "f" by the title before a name, kept only where it may be all that tells a couple of one file apart:
    #: without a first name and a birth date
    title: str | None = None

    @property
    def has_postal(self) -> bool:
        """Whether a letter can be addressed."""
        return bool(self.address and self.postal_code and self.town)

    def is_minor(self, today: date) -> bool:
        """Whether the person is known to be under eighteen: the holder of parental authority is written to."""
        # ISO dates compare as texts
        return self.birth_date is not None and self.birth_date > _came_of_age(today)

    def to_json(self) -> bytes:
        # as orjson writes the dataclass itself, at half the cost
        return orjson.dumps(
            {
                "patient_id": self.patient_id,
                "last_name": self.last_name,
                "birth_name": self.birth_name,
                "first_name": self.first_name,
                "birth_date": self.birth_date,
                "address": self.address,
                "postal_code": self.postal_code,
                "town": self.town,
                "country": self.country,
                "phones": self.phones,
                "title": self.title,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Identity:
        values = orjson.loads(data)
        return cls(**values | {"address": tuple(values["address"]), "phones": tuple(values["phones"])})

    def merged_with(self, other: Identity) -> Identity:
        """Own values first; what is missing comes from the other, a postal address only as a whole."""
        postal_ = self if self.has_postal or not other.has_postal else other
        return Identity(
            patient_id=self.patient_id or other.patient_id,
            last_name=self.last_name or other.last_name,
            birth_name=self.birth_name or other.birth_name,
            first_name=self.first_name or other.first_name,
            birth_date=self.birth_date or other.birth_date,
            address=postal_.address,
            postal_code=postal_.postal_code,
            town=postal_.town,
            country=postal_.country,
            phones=tuple(dict.fromkeys(self.phones + other.phones)),
            title=self.title or other.title,
        )

    @property
    def family_names(self) -> set[str]:
        """Folded: the name used and the birth name."""
        return {folded(name) for name in (self.last_name, self.birth_name) if name and folded(name)}

    def contradicts(self, other: Identity) -> bool:
        """Whether two rows with one patient id are two people: birth dates differ, or first names, or no family
        name is common. What one of them does not say contradicts nothing."""
        if self.birth_date and other.birth_date and self.birth_date != other.birth_date:
            return True
        mine, theirs = folded(self.first_name or ""), folded(other.first_name or "")
        if mine and theirs and mine != theirs:
            return True
        return bool(self.family_names and other.family_names) and self.family_names.isdisjoint(other.family_names)

    def is_corrected_by(self, other: Identity) -> bool:
        """Whether two of first name, family name and birth date are known and agree, and the third may be the same
        one corrected: another family name, a longer or shorter first name, a date mistyped in one of its parts.

        Twins have different first names, and father and son different dates: they stay two.
        """
        mine, theirs = _name_parts(self.first_name), _name_parts(other.first_name)
        if not (mine and theirs and _is_shortened(mine, theirs)):
            return False
        if self.birth_date is not None and self.birth_date == other.birth_date:
            return True
        has_family = not self.family_names.isdisjoint(other.family_names)
        return has_family and mine == theirs and self._is_slip(other)

    def _is_slip(self, other: Identity) -> bool:
        """Whether the birth dates are the same but for one part, or day and month in the other order."""
        mine, theirs = (self.birth_date or "").split("-"), (other.birth_date or "").split("-")
        different = [one for one in zip(mine, theirs, strict=False) if one[0] != one[1]]
        return len(mine) == len(theirs) == 3 and (len(different) <= 1 or [mine[0], mine[2], mine[1]] == theirs)

    @property
    def is_a_family(self) -> bool:
        """Whether neither a first name nor a birth date is known: a family name may be a couple's."""
        return bool(self.family_names) and not folded(self.first_name or "") and self.birth_date is None

    def shares_a_name(self, other: Identity) -> bool:
        """Whether a family name or the first name is common."""
        first = folded(self.first_name or "")
        return not self.family_names.isdisjoint(other.family_names) or (
            bool(first) and first == folded(other.first_name or "")
        )


class Problem(NamedTuple):
    """One thing wrong or doubtful in one row. Only `column` and `reason` are ever stored."""

    column: str
    reason: str
    #: the part of the cell it is about, for a report that is made while the list is at hand
    read: str = ""
    #: what was probably meant; never used by itself, a person accepts it
    suggestion: str | None = None


class Keys(NamedTuple):
    """What a person is known again by, strongest first; None where the row does not say."""

    #: the patient id
    id: str | None = None
    #: the national identifier; only its keyed hash is ever stored
    national: str | None = None
    #: names and birth date
    name: str | None = None
    #: with neither: what else is known keeps namesakes apart
    other: str | None = None

    @property
    def first(self) -> str | None:
        """The strongest one; None for a row that names nobody."""
        return self.id or self.national or self.name or self.other


_NO_KEYS = Keys()
_NOBODY = Identity()

# An enum looks its members up at 0.07 µs each, and a row names thirty of them.
_EMAIL, _PHONE = Column.EMAIL, Column.PHONE
_ID, _NATIONAL_ID, _BIRTH_DATE = Column.PATIENT_ID, Column.NATIONAL_ID, Column.BIRTH_DATE
_LAST_NAME, _FIRST_NAME = Column.LAST_NAME, Column.FIRST_NAME
_BIRTH_NAME, _USED_NAME = Column.BIRTH_NAME, Column.USED_NAME
_ADDRESS, _POSTAL_CODE, _TOWN, _COUNTRY = Column.ADDRESS, Column.POSTAL_CODE, Column.TOWN, Column.COUNTRY
_FLAGS = (Column.DECEASED, Column.AFFECTED, Column.COMMENT, Column.COMMENT_SENSITIVE, Column.LANGUAGE)
#: of a column that holds nothing
_NONE = (None,)


@dataclass(slots=True)
class Judged:
    """One row, understood; `key` is None for a refused row."""

    row: int
    identity: Identity = field(default_factory=Identity)
    keys: Keys = _NO_KEYS
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
    problems: list[Problem] = field(default_factory=list)

    #: the birth date as far as it can be read
    birth_key: str | None = None

    @property
    def key(self) -> str | None:
        """Equal for rows that surely are one person's."""
        return self.keys.first

    @property
    def apart(self) -> str | None:
        """Tells people apart who share a patient id (or a national identifier): that, and all that
        `matching.is_another` looks at."""
        strong = self.keys.id or self.keys.national
        if strong is None:
            return None
        identity = self.identity
        names = [folded(name or "") for name in (identity.last_name, identity.birth_name, identity.first_name)]
        if identity.is_a_family:
            names.append(identity.title or "")
        known_by_name = any(names) and not (identity.is_a_family and " " not in (identity.last_name or ""))
        contacts = [] if known_by_name else [*(email.casefold() for email in self.emails[:1]), *self.numbers[:1]]
        return "|".join([strong, *names, self.birth_key or "", *contacts])

    def contacts(self) -> Iterator[tuple[Column, Channel, str]]:
        """Email addresses and numbers for SMS."""
        yield from ((Column.EMAIL, Channel.EMAIL, email) for email in self.emails)
        yield from ((Column.PHONE, Channel.SMS, number) for number in self.numbers)

    def doubt(self, column: str, reason: StrEnum, read: str = "", suggestion: str | None = None) -> None:
        self.problems.append(Problem(str(column), str(reason), read, suggestion))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is true for a whole list."""

    #: where the practice dials from (ISO 3166-1)
    region: str = "FR"
    #: bounds birth dates; None: no date is in the future
    today: date | None = None
    #: the list has columns for names, so that a missing one is a doubt
    names_people: bool = True
    #: the doctor's own contacts as `own_keys` gives them: they are nobody else's
    practice: Collection[str] = frozenset()
    #: domains that take no mail, as a check of the whole list found them (`domains.check`)
    dead_domains: Collection[str] = frozenset()


def own_keys(contacts: Iterable[str], region: str) -> frozenset[str]:
    """A doctor's own email addresses and numbers, in a form that `judge` compares with."""
    keys = [
        check_email(contact).key if "@" in contact else check_phone(contact, region).e164 for contact in contacts
    ]
    return frozenset(key for key in keys if key)


def judge(raw: RawRow, setting: Setting) -> Judged:
    """Turns a raw row into a person with contacts, or says why it is none.

    A row with a name is never refused, however bad its contacts: somebody must still be told, by letter.
    """
    cells = raw.cells
    judged = Judged(raw.number, _NOBODY)
    if raw.doubts:
        for reader_doubt in raw.doubts:
            judged.doubt("row", reader_doubt)
        if raw.is_refused:
            return judged
    get = cells.get
    country = tidy(cells[_COUNTRY][0]) if _COUNTRY in cells else None
    place = postal.place(get(_POSTAL_CODE, _NONE)[0], get(_TOWN, _NONE)[0], setting.region, country)
    if _EMAIL in cells:
        _judge_emails(judged, cells[_EMAIL], setting)
    calls = _judge_phones(judged, cells[_PHONE], setting, place.code, country) if _PHONE in cells else ()
    birth_date = _judge_birth_date(judged, cells[_BIRTH_DATE][0], setting.today) if _BIRTH_DATE in cells else None
    judged.identity = _identity(judged, cells, birth_date, place, country, calls)
    if not cells.keys().isdisjoint(_FLAGS):
        _judge_flags(judged, cells, setting.today)
    judged.keys = _keys(judged, _national(judged, cells, birth_date) if _NATIONAL_ID in cells else None)
    if _may_be_totals(judged) and _is_totals_line(cells, judged.identity.patient_id):
        return Judged(raw.number, problems=[Problem("row", str(RowReason.TOTALS_LINE))])
    if judged.keys.first is None:
        judged.doubt("row", RowReason.NO_IDENTITY)
    elif setting.names_people and judged.keys.first.startswith("contact:"):
        judged.doubt("row", RowReason.NO_NAME)
    return judged


def _first(cells: dict[Column, list[str]], column: Column) -> str | None:
    return cells[column][0] if column in cells else None


# --- contacts ---------------------------------------------------------------------------------------


def _judge_emails(judged: Judged, values: list[str], setting: Setting) -> None:
    keys: set[str] = set()
    for value in values:
        if (address := plain_email(value)) is not None:
            _take_email(judged, address, value, keys, setting)
            continue
        for piece in split_emails(value):
            email = check_email(piece.text)
            if piece.refusal:
                judged.doubt(Column.EMAIL, piece.refusal, piece.text)
            elif not email.ok or email.address is None:
                judged.doubt(Column.EMAIL, email.reason or Reason.SYNTAX, piece.text, email.suggestion)
            elif _take_email(judged, email.address, piece.text, keys, setting, piece.is_personal) and (
                piece.note and piece.is_of_another
            ):
                judged.doubt(Column.EMAIL, RowReason.ANOTHER_PERSON, piece.text)


def _take_email(
    judged: Judged, address: str, read: str, keys: set[str], setting: Setting, is_personal: bool = False
) -> bool:
    """Whether it is a further address of this person."""
    key = address.casefold()
    if key in keys:
        return False
    if key in setting.practice:
        judged.doubt(Column.EMAIL, RowReason.PRACTICE_CONTACT, read)
    elif not is_personal and is_role(address):
        judged.doubt(Column.EMAIL, Reason.ROLE, read, f"{address} (perso)")
    elif setting.dead_domains and key.partition("@")[2] in setting.dead_domains:
        judged.doubt(Column.EMAIL, Reason.NO_MAIL, read)
    else:
        keys.add(key)
        judged.emails.append(address)
        return True
    return False


def _judge_phones(
    judged: Judged, values: list[str], setting: Setting, postal_code: str | None, country: str | None
) -> tuple[str, ...]:
    """Fills the numbers for SMS; returns those for calls, in order."""
    calls: dict[str, None] = {}
    abroad = countries.abroad(country)
    for value in values:
        if abroad is None and (plain := plain_phone(value, setting.region)) is not None:
            e164, takes_sms = plain
            if e164 in setting.practice:
                judged.doubt(Column.PHONE, RowReason.PRACTICE_CONTACT, value)
            elif not takes_sms:
                calls[e164] = None
            elif e164 not in judged.numbers:
                judged.numbers.append(e164)
            continue
        for piece in split_phones(value):
            if piece.refusal:
                judged.doubt(Column.PHONE, piece.refusal, piece.text)
                continue
            phone = check_phone(piece.text, setting.region, postal_code, abroad)
            if not phone.ok or phone.e164 is None:
                judged.doubt(Column.PHONE, phone.reason or Reason.NOT_ASSIGNED, piece.text)
            elif phone.e164 in setting.practice:
                judged.doubt(Column.PHONE, RowReason.PRACTICE_CONTACT, piece.text)
            elif phone.sms_capable:
                if phone.e164 not in judged.numbers:
                    judged.numbers.append(phone.e164)
                    if piece.note and piece.is_of_another:
                        judged.doubt(Column.PHONE, RowReason.ANOTHER_PERSON, piece.text)
            elif phone.kind in ("landline", "voip"):
                calls[phone.e164] = None
            else:
                judged.doubt(Column.PHONE, RowReason.SERVICE_NUMBER, piece.text)
    return tuple(calls)


# --- who it is --------------------------------------------------------------------------------------

_WHOLE = re.compile(r"(?<=\d)\.0$")  # a spreadsheet's number
_CIVILITY = re.compile(
    r"^(?:(?:m|mr|mme|mlle|melle|monsieur|madame|mademoiselle|mrs|ms|miss)(?:\.\s*|\s+))+", re.IGNORECASE
)


def _identity(
    judged: Judged,
    cells: dict[Column, list[str]],
    birth_date: str | None,
    place: postal.Place,
    country: str | None,
    calls: tuple[str, ...],
) -> Identity:
    get = cells.get
    last, first = get(_LAST_NAME, _NONE)[0], get(_FIRST_NAME, _NONE)[0]
    born, used = get(_BIRTH_NAME, _NONE)[0], get(_USED_NAME, _NONE)[0]
    patient_id = get(_ID, _NONE)[0]
    address: tuple[str, ...] = ()
    if _ADDRESS in cells:
        address = _lines(cells[_ADDRESS])
        if address and not place.code and not place.town:
            address, place = postal.from_lines(address)
    # by place: by name it costs 0.3 µs more
    return Identity(
        _patient_id(patient_id) if patient_id else None,
        _name(judged, used or last or born),
        _name(judged, born) if born and (used or last) else None,
        _name(judged, first),
        birth_date,
        address,
        place.code,
        place.town,
        country,
        calls,
        None if first or birth_date else _title(used or last or born or ""),
    )


#: written where a file has no number
_NO_ID = re.compile(r"[\W_]*|0+|n[\W_]?a|nc|nr|neant|aucune?|null|none|nan|inconnue?|x+", re.IGNORECASE)


def _patient_id(written: str) -> str | None:
    patient_id = _WHOLE.sub("", tidy(written))
    return None if _NO_ID.fullmatch(unaccented(patient_id)) else patient_id


@functools.lru_cache(maxsize=65536)
def _title(name: str) -> str | None:
    found = _CIVILITY.match(tidy(name))
    words = re.findall(r"[a-z]+", found[0].casefold()) if found else []
    kinds = {"m" if word in ("m", "mr", "monsieur") else "f" for word in words}
    return kinds.pop() if len(kinds) == 1 else None


def _lines(values: list[str]) -> tuple[str, ...]:
    if len(values) == 1 and values[0].isascii() and values[0].isprintable():
        line = values[0].strip()
        return (line,) if line else ()
    return tuple(line for value in values for line in map(tidy, value.split("\n")) if line)


def _name(judged: Judged, value: str | None) -> str | None:
    if value is None:
        return None
    name, was_damaged = clean_name(value)
    if was_damaged:
        judged.doubt(Column.LAST_NAME, RowReason.MOJIBAKE, value)
    return name


@functools.lru_cache(maxsize=65536)
def clean_name(value: str) -> tuple[str | None, bool]:
    """Without the title before it; True if accents damaged by an earlier program were mended."""
    value = _CIVILITY.sub("", tidy(value))
    if "Ã" in value or "Â" in value:
        try:
            return value.encode("cp1252").decode("utf-8") or None, True
        except UnicodeError:
            pass  # a real Ã: "JOÃO" is a name
    return value or None, False


def _name_parts(name: str | None) -> list[str]:
    """The parts of a first name: "Anne-Marie" has two."""
    return re.findall(r"\w+", unaccented(name or "").casefold())


def _is_shortened(one: list[str], other: list[str]) -> bool:
    """Whether a first name is another with parts left out at its end, or with a first letter instead of a part."""
    return all(
        mine == theirs or (1 in (len(mine), len(theirs)) and mine[0] == theirs[0])
        for mine, theirs in zip(one, other, strict=False)
    )


def _keys(judged: Judged, national: str | None) -> Keys:
    """Two namesakes without a birth date must not become one: the second would never be told."""
    identity = judged.identity
    id_key = f"id:{identity.patient_id.casefold()}" if identity.patient_id else None
    national_key = f"national:{national}" if national else None
    strong = id_key or national_key
    last, first = folded(identity.birth_name or identity.last_name or ""), folded(identity.first_name or "")
    name = other = None
    if last or first:
        # one column may hold both names; one word alone may be a whole family's
        is_full = (last and first) or " " in (identity.last_name or identity.first_name or "")
        if identity.birth_date and is_full:
            name = f"name:{last}{first}|{identity.birth_date}"
        elif strong is None:
            known = _contact(judged) or _place_and_refused(judged)
            other = f"name:{last}|{first}|{judged.birth_key or ''}|{known}"
    elif strong is None and (contact := _contact(judged)):
        other = f"contact:{contact}|{judged.birth_key}" if judged.birth_key else f"contact:{contact}"
    return Keys(id_key, national_key, name, other)


def _contact(judged: Judged) -> str | None:
    if judged.emails:
        return judged.emails[0].casefold()
    return next(iter([*judged.numbers, *judged.identity.phones]), None)


def _place_and_refused(judged: Judged) -> str:
    """What keeps namesakes without a usable contact apart: where they live, and what was written for a contact."""
    identity = judged.identity
    place = "".join([*identity.address, identity.postal_code or "", identity.town or ""])
    refused = [
        folded(problem.read)
        for problem in judged.problems
        if problem.column in (_EMAIL, _PHONE) and problem.reason != Reason.FILLER
    ]
    return "|".join([folded(place), *sorted(refused)])


_NATIONAL = re.compile(r"([12])(\d\d)(\d\d)(\d[\dAB])(\d{6})(\d\d)?", re.ASCII)


def national_id(written: str, birth_date: str | None) -> str | None:
    """A French national identifier (INS, NIR) that is this person's own, as 13 signs, or None.

    Its check digits must be right (97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18), and
    its year and month those of the birth date: on children's files often stands a parent's number.
    """
    found = _NATIONAL.fullmatch(re.sub(r"[\s.-]", "", tidy(written)).upper().removesuffix(".0"))
    if found is None or birth_date is None:
        return None
    _, year, month, department, _, check = found.groups()
    digits = found[0][:13].replace("2A", "19", 1) if department == "2A" else found[0][:13]
    digits = digits.replace("2B", "18", 1) if department == "2B" else digits
    if not digits.isdigit() or (check and int(check) != 97 - int(digits) % 97):
        return None
    # months above 12 mean that the month was not known when the number was given
    is_theirs = year == birth_date[2:4] and (int(month) > 12 or month == birth_date[5:7])
    return found[0][:13] if is_theirs else None


def _may_be_totals(judged: Judged) -> bool:
    identity = judged.identity
    return not (judged.emails or judged.numbers or identity.phones or identity.birth_date)


def _national(judged: Judged, cells: dict[Column, list[str]], birth_date: str | None) -> str | None:
    found = national_id(cells[Column.NATIONAL_ID][0], birth_date)
    if found is None:
        judged.doubt(Column.NATIONAL_ID, RowReason.NATIONAL_ID)
    return found


_TOTALS = re.compile(
    r"(?:sous[- ]?)?tota(?:l|ux)\b|nombre (?:de|total)|somme\b"
    r"|(?:fin|end) (?:de|du|of) (?:la |the )?(?:liste?|fichier|document|file)\b"
    r"|(?:nombre|nb|count)\.?(?: (?:de )?patients?)? ?:|patients? ?: ?\d+$"
    r"|\d+ ?(?:patients?(?: ?\(s\))?|lignes?|rows?)$",
    re.IGNORECASE,
)


#: beside "total", in a line of sums; with any other word it is somebody's name
_OF_TOTALS = re.compile(
    r"(?:[\W\d_]|(?:total|somme|generale?|patients?|lignes?|rows?|pages?|liste|nombre|nb|de|des|du|la|le|les|of)\b)+",
    re.IGNORECASE,
)
_NAMES = frozenset({_LAST_NAME, _FIRST_NAME, _BIRTH_NAME, _USED_NAME})


def _is_totals_line(cells: dict[Column, list[str]], patient_id: str | None) -> bool:
    """Never a row with an id of its own, or with a name that only begins so: "Somme Jean"."""
    if patient_id and not _TOTALS.match(patient_id):
        return False
    values = {column: values[0] for column, values in cells.items() if column is not Column.COMMENT}
    if not any(_TOTALS.match(value) and not _is_name(column, value) for column, value in values.items()):
        return False
    return sum(not any(c.isdigit() for c in value) for value in values.values()) <= 1


def _is_name(column: Column, value: str) -> bool:
    if column not in _NAMES or not re.match(r"total\b|somme\b", value, re.IGNORECASE):
        return False
    return _OF_TOTALS.fullmatch(unaccented(value)) is None


# --- yes, no, and words -----------------------------------------------------------------------------

_YES = frozenset("oui o yes y true vrai 1 x".split())  # noqa: SIM905 - words read better in a row
_NO = frozenset("non n no false faux 0 -".split())  # noqa: SIM905 - words read better in a row
_DEAD = re.compile(r"(?:decede(?:e|[(.·/-]e\)?)?|dcd|dc|deceased|dead|morte?|†)(?![^\W_])")
_ALIVE = frozenset("vivant vivante alive".split())  # noqa: SIM905 - as above
#: `décédée le : `
_BEFORE_A_DATE = re.compile(r"^[\s:,;(-]*(?:(?:le|on|en)\b[\s:]*)?")
#: 2019, mars 2019, 03/2019, 2019-03
_YEAR = re.compile(r"(?:(?:[a-z]{3,9}\.?|\d{1,2}[/.-]) ?)?(\d{4})|(\d{4})-\d\d", re.ASCII)
#: who died before has no file in a practice's software; only where the birth date is not known
_FIRST_DEATHS = "1950-01-01"
#: what databases and spreadsheets write for a date that is not known; those before 1880 are no dates at all
_DEFAULT_DATES = {"1899-12-30", "1899-12-31", "1900-01-01", "1900-01-02", "1901-01-01", "1904-01-01"}
_DEFAULT_DATES |= {"1960-01-01", "1969-12-31", "1970-01-01", "1980-01-01", "2000-01-01", "2001-01-01"}
_LANGUAGE_NAMES = {
    **dict.fromkeys(("fr", "fra", "fre", "francais", "french", "francaise"), "fr"),
    **dict.fromkeys(("en", "eng", "anglais", "english", "anglaise", "gb", "uk"), "en"),
}


def _judge_flags(judged: Judged, cells: dict[Column, list[str]], today: date | None) -> None:
    if Column.DECEASED in cells and _says_dead(judged, cells[Column.DECEASED][0], today):
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
    """True, False, or None with a doubt reported."""
    word = _plain(cells[column][0])
    if word in _YES or word in _NO:
        return word in _YES
    judged.doubt(column, RowReason.UNCLEAR)
    return None


def _plain(written: str) -> str:
    return unaccented(tidy(written)).casefold().strip(" .()")


def _says_dead(judged: Judged, written: str, today: date | None) -> bool:
    """Whether a cell about death says so clearly: yes, a word for dead, a date on which the person can have died,
    or both. Anything more may be about somebody else or say the contrary; a doubt is reported."""
    word = _plain(written)
    if word in _NO or word in _ALIVE:
        return False
    said = _DEAD.match(word)
    if word in _YES or (said and said.end() == len(word)):
        return True
    when = _BEFORE_A_DATE.sub("", word[said.end() :] if said else word)
    if _is_of_death(when, judged.identity.birth_date, today) or (
        said and _is_year_of_death(when, judged.identity.birth_date, today)
    ):
        return True
    judged.doubt(Column.DECEASED, RowReason.UNCLEAR)
    return False


def _is_of_death(written: str, born: str | None, today: date | None) -> bool:
    """From the birth to today; no date that programs write where none is known."""
    died = parse_birth_date(written)[0]
    if died is None or died in _DEFAULT_DATES or (today and died > today.isoformat()):
        return False
    return died >= (born or _FIRST_DEATHS)


def _is_year_of_death(written: str, born: str | None, today: date | None) -> bool:
    found = _YEAR.fullmatch(written)
    year = found and (found[1] or found[2])
    return bool(year) and (born or _FIRST_DEATHS)[:4] <= str(year) <= (str(today.year) if today else "9999")


# --- birth dates ------------------------------------------------------------------------------------

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "janvier janv jan january", "fevrier fevr fev february feb", "mars mar march", "avril avr april apr",
            "mai may", "juin june jun", "juillet juil july jul", "aout august aug", "septembre sept sep september",
            "octobre oct october", "novembre nov november", "decembre dec december",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_BORN = re.compile(r"(?:nee|ne\(e\)|ne|born)?\s*(?:le|on)?[\s:]*(?=\d|[a-z])")
_DATE = re.compile(r"(\d{1,2})[/.\- ](\d{1,2})[/.\- ](\d{4}|\d{2})", re.ASCII)
_ISO_DATE = re.compile(r"(\d{4})[/.\-](\d{1,2})[/.\-](\d{1,2})", re.ASCII)
_DAY_MONTH = re.compile(r"(\d{1,2})(?:er|st|nd|rd|th)?[\s./-]+([a-z]{3,9})\.?[\s./,-]+(\d{4}|\d{2})", re.ASCII)
_MONTH_DAY = re.compile(r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?[\s,]+(\d{4})", re.ASCII)
# midnight, as databases write dates; any other hour may be midnight elsewhere, and so another day here
_TIME = re.compile(r"[Tt ]0?0[:h]00(?::00(?:[.,]0+)?)?(?:[Zz]|[+-]00:?00)?$")
_OLDEST = 120


def _judge_birth_date(judged: Judged, written: str, today: date | None) -> str | None:
    """The ISO date or None; an unreadable date still tells people apart."""
    birth_date, reason = parse_birth_date(written, today)
    if reason:
        judged.doubt(Column.BIRTH_DATE, reason, written)
    judged.birth_key = birth_date or re.sub(r"\D", "", written) or None
    return birth_date


@functools.lru_cache(maxsize=65536)
def parse_birth_date(written: str, today: date | None = None) -> tuple[str | None, RowReason | None]:
    """An ISO date, or None and why. Days come before months; spreadsheets' serial numbers are read.

    Births "00/00/1950" and in month 20 or more (unknown dates in French civil registers) are no dates, a year
    alone is none, and a year of two digits only where one century is possible.
    """
    text = _TIME.sub("", tidy(written)).removesuffix(".0")
    if found := _ISO_DATE.fullmatch(text):
        return _date(found[1], found[2], found[3], today)
    if found := _DATE.fullmatch(text):
        return _date_of_any_year(found[1], found[2], found[3], today)
    if re.fullmatch(r"\d{8}", text, re.ASCII):
        if text[:2] in ("18", "19", "20") and (iso := _date(text[:4], text[4:6], text[6:], today))[0]:
            return iso
        return _date(text[4:], text[2:4], text[:2], today)
    if re.fullmatch(r"\d{4,5}", text, re.ASCII):
        return _serial(int(text), today)
    return _date_in_words(unaccented(text).casefold(), today)


def _serial(days: int, today: date | None) -> tuple[str | None, RowReason | None]:
    """Excel's 1900 system counts from 1899-12-30 after its false leap day; a year alone looks like one."""
    if days <= 366 or 1800 <= days <= 2100:
        return None, RowReason.INVALID_DATE
    born = date(1899, 12, 30) + timedelta(days=days)
    return _date(born.year, born.month, born.day, today)


def _date_in_words(text: str, today: date | None) -> tuple[str | None, RowReason | None]:
    """`né le 12 mars 1975`, `1er avril 1975`, `12-MAR-75`, `March 12, 1975`."""
    text = text[found.end() :] if (found := _BORN.match(text)) else text
    if found := _DATE.fullmatch(text):
        return _date_of_any_year(found[1], found[2], found[3], today)
    if (found := _DAY_MONTH.fullmatch(text)) and (month := _MONTHS.get(found[2])):
        return _date_of_any_year(found[1], str(month), found[3], today)
    if (found := _MONTH_DAY.fullmatch(text)) and (month := _MONTHS.get(found[1])):
        return _date(found[3], month, found[2], today)
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


def _date_of_any_year(day: str, month: str, year: str, today: date | None) -> tuple[str | None, RowReason | None]:
    """Two digits only where one century is possible: 60 is 1960, but 15 may be 1915 or 2015."""
    if len(year) == 4:
        return _date(year, month, day, today)
    this_year = today.year if today else 2100
    centuries = [c for c in (1900, 2000) if this_year - _OLDEST <= c + int(year) <= this_year]
    if len(centuries) == 1:
        return _date(centuries[0] + int(year), month, day, today)
    valid = _date(2000 + int(year), month, day, None)
    return None, RowReason.AMBIGUOUS_YEAR if valid[0] else RowReason.INVALID_DATE
