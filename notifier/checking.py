"""A list as an import would take it, without a database: counts, problems, suggestions, who could be reached."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from notifier.addresses import unaccented
from notifier.importers import MAX_BYTES, Column, Limits, RawList, RawRow, Refusal, open_list, refused
from notifier.judging import Judged, RowReason, Setting, judge, own_keys
from notifier.matching import MOST_SHARING, People, Person, Placed, Said, Seen
from notifier.states import Channel

#: after so many rows, `progress` is told
ROWS_AT_ONCE = 5000


def rows_of(reader: RawList, setting: Setting, doctor: str | Collection[str] | None = None) -> Iterator[Judged]:
    """Every data row, judged. Raises ListError at a row that is another doctor's than `doctor` spells."""
    accepted = None if doctor is None else _Accepted(doctor)
    for raw in reader:
        if accepted is not None:
            accepted.check(raw)
        yield judge(raw, setting)


class _Accepted:
    """How the doctor of a list may be written in its doctor column: reference or name."""

    def __init__(self, spellings: str | Collection[str]) -> None:
        spellings = [spellings] if isinstance(spellings, str) else list(spellings)
        #: the reference, which errors name
        self._first = next(iter(spellings), "")
        self._keys = {key for spelling in spellings for key in doctor_keys(spelling)}

    def is_own(self, doctors: Iterable[str]) -> bool:
        """Whether one of these is the doctor: a patient may be another one's as well."""
        return any(not self._keys.isdisjoint(doctor_keys(doctor)) for doctor in doctors)

    def check(self, raw: RawRow) -> None:
        """Raises ListError if the row belongs to another doctor."""
        doctors = raw.cells.get(Column.DOCTOR)
        if doctors and not self.is_own(doctors):
            raise refused(Refusal.ANOTHER_DOCTOR, row=raw.number, doctor=self._first)


def rows_of_doctor(spellings: str | Collection[str]) -> Callable[[RawRow], bool]:
    """Which rows of a list of several doctors are this one's, for `open_list`.

    It raises ListError at a row that names no doctor: it would be nobody's.
    """
    accepted = _Accepted(spellings)
    return lambda raw: accepted.is_own(doctors_of(raw))


def doctors_of(raw: RawRow) -> tuple[str, ...]:
    """The doctors whom a row of a list of several names. Raises ListError if it names none."""
    doctors = tuple(raw.cells.get(Column.DOCTOR, ()))
    if not doctors:
        raise refused(Refusal.NO_DOCTOR, row=raw.number)
    return doctors


_TITLES = frozenset({"dr", "docteur", "doctor", "pr", "prof", "professeur", "m", "mr", "mme", "mlle"})


@functools.lru_cache(maxsize=1024)
def doctor_keys(written: str) -> frozenset[str]:
    """What doctors are compared by: without blanks, for a reference; the words in any order without titles, for a
    name."""
    compact = re.sub(r"\s+", "", written).removesuffix(".0").casefold()
    words = [word for word in re.findall(r"[^\W_]+", unaccented(written).casefold()) if word not in _TITLES]
    return frozenset(key for key in (compact, " ".join(sorted(words))) if key)


def domains_of(rows: Iterable[Judged]) -> frozenset[str]:
    """The domains of all usable email addresses, for `domains.Domains.dead`."""
    return frozenset(email.rpartition("@")[2] for judged in rows for email in judged.emails)


def unread_columns(reader: RawList) -> list[tuple[int, str, RowReason]]:
    """Problems of the whole list, once its rows were read."""
    return [(reader.header_number, header, RowReason.COLUMN_NOT_READ) for header in reader.unread_contact_columns]


class Crowds:
    """Which contacts more people share than a household has. Memory grows with shared contacts alone."""

    def __init__(self, reader: RawList) -> None:
        self._seen = Seen(reader.likely_keys)
        #: people of each contact from its second on
        self._further: dict[int, set[int]] = {}
        self._decided: dict[int, bool] = {}

    def add(self, judged: Judged) -> None:
        person = hash(judged.key)
        for _, channel, address in judged.contacts():
            contact = _bits((channel, address.casefold()))
            if self._seen.add(contact):
                people = self._further.setdefault(contact, set())
                if len(people) <= MOST_SHARING:
                    people.add(person)

    def has(self, judged: Judged, channel: Channel, address: str) -> bool:
        """Ask in the order in which rows were added: the first person of a contact is counted then."""
        contact = _bits((channel, address.casefold()))
        further = self._further.get(contact)
        if further is None:
            return False
        if contact not in self._decided:
            self._decided[contact] = len(further | {hash(judged.key)}) > MOST_SHARING
        return self._decided[contact]


def _bits(value: Hashable) -> int:
    # a tuple's hash is spread well enough; Seen takes its halves
    return hash((value, "seen")) & 0xFFFF_FFFF_FFFF_FFFF


class _Repeated:
    """Keys that stand in more rows than one: only those rows have to be compared with others."""

    def __init__(self, reader: RawList) -> None:
        self._seen = Seen(reader.likely_keys)
        self._again: set[int] = set()

    def add(self, judged: Judged) -> None:
        for key in judged.keys:
            if key is not None and self._seen.add(bits := _bits(key)):
                self._again.add(bits)

    def has(self, judged: Judged) -> bool:
        return any(key is not None and _bits(key) in self._again for key in judged.keys)


@dataclass(slots=True)
class Totals:
    """What a list comes to; complete once all of its rows were checked."""

    rows: int = 0
    accepted: int = 0
    merged: int = 0
    refused: int = 0
    #: accepted people who are not to be told
    excluded: int = 0
    #: of those to be told, under eighteen
    minors: int = 0
    #: of those to be told, by the first channel that works
    reach: dict[str, int] = field(default_factory=lambda: {"email": 0, "sms": 0, "letter": 0, "none": 0})

    def add(self, person: Person, today: date | None) -> None:
        """Counts a person whom no further row changes."""
        if person.excluded:
            self.excluded += 1
            return
        channels = {channel for channel, _ in person.contacts}
        first = "email" if Channel.EMAIL in channels else "sms" if Channel.SMS in channels else None
        self.reach[first or ("letter" if person.identity.has_postal else "none")] += 1
        self.minors += today is not None and person.identity.is_minor(today)


class Pair(NamedTuple):
    """Two rows that may be one person's; kept as two."""

    row: int
    #: the first row of the other person
    other: int
    reason: RowReason


class Checked(NamedTuple):
    """One row as it was read, what was made of it, and where it ends."""

    raw: RawRow
    judged: Judged
    place: Literal["accepted", "merged", "refused"]
    #: the first row of its person, which may be itself
    first: int
    #: the row with earlier ones
    pairs: tuple[Pair, ...] = ()


class _Twins:
    """Who was placed under each key, to name the other row of a doubtful pair."""

    def __init__(self) -> None:
        self._people: dict[Hashable, list[Person]] = {}

    def add(self, placed: Placed, said: Said) -> None:
        for key in said.keys.present():
            people = self._people.setdefault(key, [])
            if len(people) < MOST_SHARING and not any(person is placed.person for person in people):
                people.append(placed.person)

    def pairs(self, placed: Placed, said: Said) -> Iterator[Pair]:
        for _, reason in placed.doubts:
            keys = (said.keys.id,) if reason is RowReason.SAME_ID else (said.keys.name, said.keys.national)
            for person in (person for key in keys for person in self._people.get(key, ())):
                if person is not placed.person:
                    yield Pair(said.row, person.rows[0], reason)
                    break


def check_rows(reader: RawList, setting: Setting, totals: Totals) -> Iterator[Checked]:
    """Every row of a list as an import would take it, in order; `totals` are complete at the end.

    Doubts about two rows stand with the later one. The file is read twice: who and what stands in it again is
    known only at its end.
    """
    crowds, repeated = Crowds(reader), _Repeated(reader)
    for judged in rows_of(reader, setting):
        crowds.add(judged)
        repeated.add(judged)
    people, twins = People(reader.meanings), _Twins()
    for raw in reader:
        judged = judge(raw, setting)
        drop_crowded(judged, crowds)
        place, first, pairs = _place(judged, people, twins, repeated, totals, setting.today)
        totals.rows += 1
        setattr(totals, place, getattr(totals, place) + 1)
        yield Checked(raw, judged, place, first, pairs)
    for person in people:
        totals.add(person, setting.today)


def check_list(
    source: Path | BinaryIO,
    region: str = "FR",
    *,
    show: bool = False,
    today: date | None = None,
    own_contacts: Collection[str] = (),
    dead_domains: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
    filename: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sheet: str | None = None,
) -> dict[str, Any]:
    """What an import of this file would take, without a database.

    `rows` = `accepted` + `merged` + `refused`; `reach` counts accepted people who are not excluded, by the
    first channel that works; `problems` name row, column and reason; `columns` says what each header was read as.
    With `show`, also `patients`, one for every data row, `suggestions` (what a refused address was probably meant
    to be, for a person to accept) and `minors`. `own_contacts` are the doctor's own email addresses and numbers.
    `filename`, `mapping` and `sheet` are for `importers.open_list`. Raises ListError if the file cannot be read
    at all or has no row.
    """
    problems: list[dict[str, Any]] = []
    suggestions: list[dict[str, Any]] = []
    patients: list[dict[str, Any]] = []
    totals = Totals()
    with open_list(
        source, filename=filename, mapping=mapping, sheet=sheet, today=today, limits=Limits(max_bytes=max_bytes)
    ) as reader:
        setting = Setting(
            region, today, reader.names_people, own_keys(own_contacts, region), frozenset(dead_domains)
        )
        for checked in check_rows(reader, setting, totals):
            judged = checked.judged
            for problem in judged.problems:
                named = {"row": judged.row, "column": problem.column, "reason": problem.reason}
                problems.append(named)
                if problem.suggestion:
                    suggestions.append(named | {"suggestion": problem.suggestion})
            if show:
                patients.append(_shown(judged))
            if progress and totals.rows % ROWS_AT_ONCE == 0:
                progress(totals.rows)
        if not totals.rows:
            raise refused(Refusal.NO_ROW)
        unread = [
            {"row": row, "column": column, "reason": str(why)} for row, column, why in unread_columns(reader)
        ]
        columns = {header: None if column is None else str(column) for header, column in reader.columns.items()}
    answer: dict[str, Any] = {
        "rows": totals.rows,
        "accepted": totals.accepted,
        "merged": totals.merged,
        "refused": totals.refused,
        "excluded": totals.excluded,
        "reach": totals.reach,
        "problems": unread + problems,
        "columns": columns,
    }
    return answer | {"patients": patients, "suggestions": suggestions, "minors": totals.minors} if show else answer


def _place(
    judged: Judged, people: People, twins: _Twins, repeated: _Repeated, totals: Totals, today: date | None
) -> tuple[Literal["accepted", "merged", "refused"], int, tuple[Pair, ...]]:
    if judged.keys.first is None:
        return "refused", judged.row, ()
    said = Said.of(judged)
    if not repeated.has(judged):
        totals.add(Person.new(judged.keys.first, said), today)
        return "accepted", judged.row, ()
    placed = people.place(said)
    for column, reason in placed.doubts:
        judged.doubt(column, reason)
    pairs = tuple(twins.pairs(placed, said))
    twins.add(placed, said)
    return "accepted" if placed.is_new else "merged", placed.person.rows[0], pairs


def drop_crowded(judged: Judged, crowds: Crowds) -> None:
    """Takes contacts away that are not personal."""
    for column, channel, address in list(judged.contacts()):
        if crowds.has(judged, channel, address):
            (judged.emails if channel is Channel.EMAIL else judged.numbers).remove(address)
            judged.doubt(column, RowReason.SHARED_BY_MANY, address)


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
