"""Reads patients in FHIR R4: Bulk Data NDJSON, a Bundle, or JSON of one or several Patient resources.

Source: https://hl7.org/fhir/R4/patient.html and .../datatypes.html (ContactPoint, HumanName, Address, Period).
A contact that must not be used (use "old", an ended period, a fax, a third person's) is left out, and the row
says so.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, BinaryIO

import orjson

from notifier.addresses import check_phone, unaccented, visible
from notifier.importers.columns import Column
from notifier.importers.cutting import Cut
from notifier.importers.rows import Asked, Code, Doubt, Format, Note, RawList, RawRow

_Object = Mapping[str, Any]
#: what a Patient resource may tell
_MEANINGS = frozenset(
    {
        Column.PATIENT_ID,
        Column.NATIONAL_ID,
        Column.LAST_NAME,
        Column.BIRTH_NAME,
        Column.USED_NAME,
        Column.FIRST_NAME,
        Column.BIRTH_DATE,
        Column.EMAIL,
        Column.PHONE,
        Column.ADDRESS,
        Column.POSTAL_CODE,
        Column.TOWN,
        Column.COUNTRY,
        Column.LANGUAGE,
        Column.DECEASED,
        Column.DOCTOR,
    }
)


def read_lines(stream: BinaryIO, asked: Asked) -> RawList:
    """Opens NDJSON: one resource in every line; a broken line is a refused row."""
    return _opened(_Resources(stream, asked), Format.FHIR_NDJSON)


def read_bundle(stream: BinaryIO, asked: Asked) -> RawList:
    """Opens a Bundle, an array of resources, or indented JSON; numbers of rows are places of entries."""
    stream.seek(0)
    start = stream.read(65536).removeprefix(b"\xef\xbb\xbf").lstrip()
    is_bundle = re.search(rb'"resourceType"\s*:\s*"Bundle"|"entry"\s*:\s*\[', start) is not None
    return _opened(_Resources(stream, asked, cut="entry" if is_bundle else ""), Format.FHIR_BUNDLE)


def _opened(resources: _Resources, format_: Format) -> RawList:
    resources.stream.seek(0)
    digest = hashlib.file_digest(resources.stream, "sha256").digest()  # type: ignore[arg-type]  # any binary file
    return RawList(
        format=format_,
        sha256=digest,
        headers=(),
        header_number=0,
        _rows=resources.rows,
        _meanings=_MEANINGS,
        encoding="utf-8",
        _late_notes=resources.notes,
    )


#: Code civil, article 414
_OF_AGE = 18


@dataclass(slots=True)
class _Resources:
    """The patients of a file; what else is in it is counted."""

    stream: BinaryIO
    asked: Asked
    #: None: lines; "entry": entries of a Bundle; "": resources themselves
    cut: str | None = None
    _others: Counter[str] = field(default_factory=Counter)
    _has_more_pages: bool = False
    #: reference of a practitioner or organisation → what a doctor is known by
    _doctors: dict[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[RawRow]:
        """Raises ListError where the file is broken beyond one row, or if it holds no patient's format."""
        self._others.clear()
        self._has_more_pages = False
        if self.cut == "entry" and not self._doctors and _has_doctors(self.stream):
            self._learn_doctors()
        for number, data in self._pieces():
            if data is None:
                yield RawRow(number, {}, [Doubt.TOO_LARGE])
                continue
            row = self._row(number, data)
            if row is not None:
                yield row

    def notes(self) -> list[Note]:
        notes = (
            [Note(Code.OTHER_RESOURCES, self._others.total(), tuple(sorted(self._others)))] if self._others else []
        )
        return [*notes, Note(Code.MORE_PAGES)] if self._has_more_pages else notes

    def _pieces(self) -> Iterator[tuple[int, bytes | None]]:
        if self.cut is None:
            yield from _lines(self.stream, self.asked.limits.max_resource_bytes)
            return
        number = 0
        for key, data in self._cuts():
            if key == self.cut:
                number += 1
                yield number, data
            elif key == "link" and data is not None and (link := _parsed(data)):
                self._has_more_pages = self._has_more_pages or link.get("relation") == "next"

    def _cuts(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(Cut(self.stream, whole=not self.cut, largest=self.asked.limits.max_resource_bytes))

    def _row(self, number: int, data: bytes) -> RawRow | None:
        resource = _parsed(data)
        if resource is None:
            return RawRow(number, {}, [Doubt.NOT_JSON])
        url = resource.get("fullUrl")
        if self.cut == "entry":
            if "resource" not in resource and "resourceType" not in resource:
                # an answer or a deletion carries none
                self._others["entry"] += 1
                return None
            resource = resource["resource"] if isinstance(resource.get("resource"), dict) else resource
        kind = resource.get("resourceType")
        if not isinstance(kind, str):
            return RawRow(number, {}, [Doubt.NOT_A_RESOURCE])
        if kind != "Patient":
            self._others[kind[:64]] += 1
            return None
        patient = _Patient(resource, self.asked.today, self._doctors, url if isinstance(url, str) else "")
        return RawRow(number, patient.cells(), patient.doubts)

    def _learn_doctors(self) -> None:
        for key, data in self._cuts():
            if key == "entry" and data is not None and (b'"Practitioner"' in data or b'"Organization"' in data):
                entry = _parsed(data) or {}
                resource = entry.get("resource")
                if isinstance(resource, dict) and resource.get("resourceType") in ("Practitioner", "Organization"):
                    known = _rpps(resource)
                    names = (entry.get("fullUrl"), f"{resource['resourceType']}/{_text(resource.get('id'))}")
                    self._doctors |= {name: known for name in names if known and isinstance(name, str)}


_DOCTORS = re.compile(rb'"resourceType"\s*:\s*"(?:Practitioner|Organization)"')


def _has_doctors(stream: BinaryIO) -> bool:
    """Whether it is worth going through a Bundle for them."""
    stream.seek(0)
    last = b""
    while chunk := stream.read(1024 * 1024):
        if _DOCTORS.search(last + chunk):
            return True
        last = chunk[-100:]
    return False


def _lines(stream: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of every line that is not blank (the NDJSON specification allows blank ones); None for one
    that is too long."""
    at, number = 0, 0
    stream.seek(0)
    while line := stream.readline(longest + 1):
        number += 1
        data: bytes | None = line
        while line and not line.endswith(b"\n"):
            # the rest of a line that is too long is passed over
            line = stream.readline(longest)
            data = None if line else data
        if data is not None and len(data) > longest:
            data = None
        at = stream.tell()
        if number == 1 and data is not None:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if data is None or data.strip():
            yield number, data
        # whoever reads may have moved the stream
        stream.seek(at)


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else {}


# --- one patient ------------------------------------------------------------------------------------

_EMAIL_LIKE = re.compile(r"[^@\s]+@[^@\s]+")
#: HL7 v3 RoleCode and v2 table 0063: parents and guardians, who may be told for a patient
_PARENTS = frozenset(
    {"PRN", "MTH", "FTH", "NMTH", "NFTH", "NPRN", "MTHFOST", "FTHFOST", "PRNFOST", "GUARD", "GRD"}
)
_PARENT_WORDS = frozenset(
    {"mere", "pere", "maman", "papa", "parent", "parents", "mother", "father", "mum", "mom", "dad"}
    | {"tuteur", "tutrice", "curateur", "curatrice", "guardian", "representant", "representante"}
)
_RPPS_SYSTEMS = frozenset({"urn:oid:1.2.250.1.71.4.2.1", "https://rpps.esante.gouv.fr", "http://rpps.fr"})
#: INS-NIR, INS-NIA, their test and demonstration forms; the US social security number
_NATIONAL_SYSTEMS = frozenset(
    {f"urn:oid:1.2.250.1.213.1.4.{arc}" for arc in (8, 9, 10, 11)} | {"http://hl7.org/fhir/sid/us-ssn"}
)


class _Patient:
    """One Patient resource, read into the cells that a table would have."""

    def __init__(self, resource: _Object, today: date | None, doctors: Mapping[str, str], url: str) -> None:
        self._resource, self._today, self._doctors, self._url = resource, today, doctors, url
        self.doubts: list[Doubt] = []
        self._cells: dict[Column, list[str]] = {}

    def cells(self) -> dict[Column, list[str]]:
        resource = self._resource
        self._add(Column.PATIENT_ID, self._id())
        self._add(Column.NATIONAL_ID, self._identifier(_NATIONAL_SYSTEMS))
        self._names()
        self._add(Column.BIRTH_DATE, _text(resource.get("birthDate"))[:10])
        self._telecoms(self._items(resource, "telecom"), "")
        self._contacts()
        self._address()
        self._add(Column.LANGUAGE, self._language())
        self._deceased()
        for doctor in self._doctor():
            self._add(Column.DOCTOR, doctor)
        return self._cells

    def _add(self, column: Column, value: str) -> None:
        # a zero character can be written in JSON, but in no name or number
        value = visible(value.replace("\0", "\ufffd"))
        if value:
            self._cells.setdefault(column, []).append(value)

    def _doubt(self, doubt: Doubt) -> None:
        if doubt not in self.doubts:
            self.doubts.append(doubt)

    def _items(self, parent: _Object, name: str) -> list[dict[str, Any]]:
        """A list of objects; one alone is taken as a list of one."""
        value = parent.get(name)
        if value is None:
            return []
        items = value if isinstance(value, list) else [value]
        found = [item for item in items if isinstance(item, dict)]
        if len(found) < len(items):
            self._doubt(Doubt.SHAPE)
        return found

    def _id(self) -> str:
        """The resource that replaces this one, so that both are merged; else its own id, else an identifier."""
        for link in self._items(self._resource, "link"):
            if link.get("type") == "replaced-by" and (other := _local(_reference(link.get("other")))):
                return other
        own = _text(self._resource.get("id")) or _local(self._url)
        return own or next(
            (value for one in self._items(self._resource, "identifier") if (value := _text(one.get("value")))), ""
        )

    def _identifier(self, systems: frozenset[str]) -> str:
        found = (one for one in self._items(self._resource, "identifier") if _text(one.get("system")) in systems)
        return next((value for one in found if not self._is_over(one) and (value := _text(one.get("value")))), "")

    def _names(self) -> None:
        by_use: dict[str, dict[str, Any]] = {}
        for name in self._items(self._resource, "name"):
            use = _text(name.get("use"))
            if use != "maiden" and (use in ("old", "anonymous") or self._is_over(name)):
                use = "past"
            by_use.setdefault(use, name)
        order = [use for use in ("official", "", "usual", "temp", "nickname", "maiden", "past") if use in by_use]
        if not order:
            return
        main = by_use[order[0]]
        self._add(Column.LAST_NAME, _family(main) or ("" if main.get("given") else _text(main.get("text"))))
        if "usual" in by_use and order[0] != "usual":
            self._add(Column.USED_NAME, _family(by_use["usual"]))
        if "maiden" in by_use and order[0] != "maiden":
            self._add(Column.BIRTH_NAME, _family(by_use["maiden"]))
        given = [_first_given(by_use[use]) for use in ("usual", *order) if use in by_use]
        self._add(Column.FIRST_NAME, next(filter(None, given), ""))

    def _contacts(self) -> None:
        """Telecoms of a minor's parents and guardians, marked; those of others, or of an adult's, are not used.

        A mother is told about her child (Code civil, article 371-1), not about her son of forty.
        """
        for contact in self._items(self._resource, "contact"):
            telecoms = self._items(contact, "telecom")
            if telecoms and self._is_minor() and self._is_parent(contact) and not self._is_over(contact):
                self._telecoms(telecoms, " (parent)")
            elif any(_text(one.get("value")) for one in telecoms):
                self._doubt(Doubt.ANOTHERS_CONTACT)

    def _is_minor(self) -> bool:
        """Under eighteen, as far as the birth date tells to the day, the month or the year; unknown is not."""
        born = _text(self._resource.get("birthDate"))[:10]
        if self._today is None or not born[:4].isdigit():
            return False
        return f"{int(born[:4]) + _OF_AGE:04}{born[4:]}" > self._today.isoformat()[: len(born)]

    def _is_parent(self, contact: _Object) -> bool:
        for relationship in self._items(contact, "relationship"):
            codings = self._items(relationship, "coding")
            if any(_text(coding.get("code")).upper() in _PARENTS for coding in codings):
                return True
            said = [_text(relationship.get("text")), *(_text(coding.get("display")) for coding in codings)]
            words = re.findall(r"[a-z]+", unaccented(" ".join(said)).casefold())
            if not _PARENT_WORDS.isdisjoint(words) and "grand" not in words and "beau" not in words:
                return True
        return False

    def _telecoms(self, telecoms: Sequence[_Object], note: str) -> None:
        usable = []
        for place, telecom in enumerate(telecoms):
            value = _text(telecom.get("value"))
            column = _column_of(_text(telecom.get("system")), value)
            if not value or column is None:
                continue
            if _text(telecom.get("system")) in ("fax", "pager"):
                self._doubt(Doubt.FAX)
            elif telecom.get("use") == "old" or self._is_over(telecom):
                self._doubt(Doubt.OLD_CONTACT)
            else:
                usable.append((_order(telecom, place), column, value + note))
        for _, column, value in sorted(usable, key=lambda one: one[0]):
            self._add(column, value)

    def _is_over(self, item: _Object) -> bool:
        period = item.get("period")
        end = _text(period.get("end")) if isinstance(period, dict) else ""
        # compared as far as it is written: 2019, 2019-03, 2019-03-01T…
        return bool(end) and self._today is not None and end[:10] < self._today.isoformat()[: len(end[:10])]

    def _address(self) -> None:
        addresses = [
            (_ADDRESS_ORDER.get(_text(one.get("use")), 1) + 10 * (one.get("type") == "physical"), place, one)
            for place, one in enumerate(self._items(self._resource, "address"))
            if one.get("use") != "old" and not self._is_over(one)
        ]
        if not addresses:
            return
        address = min(addresses, key=lambda one: one[:2])[2]
        lines = address.get("line")
        lines = lines if isinstance(lines, list) else [lines]
        lines = [line for line in map(_text, lines) if line]
        if not lines and not address.get("city"):
            lines = [line for line in _text(address.get("text")).split("\n") if line.strip()]
        for line in lines[:10]:
            self._add(Column.ADDRESS, line)
        self._add(Column.POSTAL_CODE, _text(address.get("postalCode")))
        self._add(Column.TOWN, _text(address.get("city")))
        self._add(Column.COUNTRY, _text(address.get("country")))

    def _language(self) -> str:
        languages = self._items(self._resource, "communication")
        chosen = next((one for one in languages if one.get("preferred") is True), None)
        if chosen is None and len(languages) == 1:
            chosen = languages[0]
        if chosen is None or not isinstance(chosen.get("language"), dict):
            return ""
        codes = (_text(coding.get("code")) for coding in self._items(chosen["language"], "coding"))
        return next(filter(None, codes), "") or _text(chosen["language"].get("text"))

    def _deceased(self) -> None:
        said = self._resource.get("deceasedBoolean")
        when = self._resource.get("deceasedDateTime")
        if said is True or said == "true":
            self._add(Column.DECEASED, "oui")
        elif date_ := _text(when)[:10]:
            # Whether anybody can have died then is judged with the birth date.
            self._add(Column.DECEASED, f"décédé le {date_}")
        elif said is False or said == "false":
            self._add(Column.DECEASED, "non")
        elif said is not None or when not in (None, "", False):
            self._doubt(Doubt.SHAPE)

    def _doctor(self) -> list[str]:
        references = self._items(self._resource, "generalPractitioner")
        found = [doctor for one in references if (doctor := self._doctor_of(one))]
        names_one = any(_reference(one) for one in references)
        if not found and not names_one and (organisation := self._resource.get("managingOrganization")):
            found = [self._doctor_of(organisation)] if isinstance(organisation, dict) else []
        return [doctor for doctor in dict.fromkeys(found) if doctor]

    def _doctor_of(self, reference: _Object) -> str:
        """Empty for a mere reference to a resource that is not at hand: a program's own id names nobody."""
        identifier = reference.get("identifier")
        value = _text(identifier.get("value")) if isinstance(identifier, dict) else ""
        target = _reference(reference)
        if target.startswith("#"):
            contained = (one for one in self._items(self._resource, "contained") if one.get("id") == target[1:])
            return value or next((_rpps(one) for one in contained), "")
        return value or self._doctors.get(target, "")


_ADDRESS_ORDER = {"home": 0, "": 1, "temp": 2, "work": 3, "billing": 4}
_TELECOM_ORDER = {"home": 2, "": 3, "work": 4, "temp": 5}


def _order(telecom: _Object, place: int) -> tuple[int, int, int]:
    """By rank (1 is first), then mobile, then home; as written among equals."""
    rank = telecom.get("rank")
    ranked = rank if isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 else 1000
    use = 1 if telecom.get("use") == "mobile" or telecom.get("system") == "sms" else None
    return ranked, use or _TELECOM_ORDER.get(_text(telecom.get("use")), 3), place


def _column_of(system: str, value: str) -> Column | None:
    if system in ("phone", "sms", "fax", "pager"):
        return Column.PHONE
    if system == "email":
        return Column.EMAIL
    if system in ("", "other") and value:
        # the system is required beside a value: where it is left out, the value must speak for itself
        if _EMAIL_LIKE.fullmatch(value):
            return Column.EMAIL
        return Column.PHONE if len(value) < 40 and check_phone(value).ok else None
    return None


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    # numbers where the standard has strings; nothing else is text
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _family(name: _Object) -> str:
    family = name.get("family")
    return " ".join(filter(None, map(_text, family))) if isinstance(family, list) else _text(family)


def _first_given(name: _Object) -> str:
    given = name.get("given")
    return next(filter(None, map(_text, given)), "") if isinstance(given, list) else _text(given)


def _reference(reference: object) -> str:
    return _text(reference.get("reference")) if isinstance(reference, dict) else ""


def _local(reference: str) -> str:
    """The id in a reference: `Patient/12`, `https://…/Patient/12/_history/3`, `urn:uuid:…`."""
    reference = re.sub(r"/_history/.*", "", reference.split("?")[0].split("|")[0])
    return re.split(r"[/:]", reference)[-1]


def _rpps(resource: _Object) -> str:
    identifiers = resource.get("identifier")
    found = [one for one in identifiers if isinstance(one, dict)] if isinstance(identifiers, list) else []
    named = [
        _text(one.get("value")) for one in found if _text(one.get("system")) in _RPPS_SYSTEMS or _is_rpps(one)
    ]
    return next(filter(None, named), "")


def _is_rpps(identifier: _Object) -> bool:
    kind = identifier.get("type")
    codings = kind.get("coding") if isinstance(kind, dict) else None
    return isinstance(codings, list) and any(
        isinstance(one, dict) and one.get("code") == "RPPS" for one in codings
    )
