"""Rows and columns, whatever file they came from: finds the header, then makes raw rows of records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from notifier.addresses import visible
from notifier.importers.columns import (
    CONTACTS,
    Column,
    Header,
    Layout,
    guardian,
    layout,
    looks_like_contact,
    recognise,
    unclear,
)
from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Code, Doubt, Note, RawRow

#: number as a spreadsheet counts, cells, what the reader had to guess; blank records too
Record = tuple[int, list[str], Sequence[Doubt]]

#: lines before the header that may be a title, a date, blanks
TITLE_LINES = 30
#: so many rows below the header are looked at to tell what the columns hold
_SAMPLES = 50
#: so many cells of a column that is not read are looked at for contacts
_CELLS_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class Head:
    """A row that looks like a header, and how much so."""

    number: int
    cells: list[str]
    #: names a contact column, known names, cells, cells in the rows below
    score: tuple[bool, int, int, int]
    #: non-blank records above it
    above: int = 0

    @property
    def has_contact(self) -> bool:
        return self.score[0]


def find_head(records: Iterable[Record], mapping: Mapping[str, str] | None = None) -> Head | None:
    """The first row that names a contact column, else the first that names anything; None if none does."""
    mapped = {visible(name).casefold(): value for name, value in (mapping or {}).items()}
    best: Head | None = None
    cells_below = above = 0
    for number, fields, _ in islice(records, TITLE_LINES):
        known = [columns for columns in (_could_be(cell, mapped) for cell in fields) if columns]
        has_contact = any(contact in columns for columns in known for contact in CONTACTS)
        if known and (best is None or (has_contact and not best.has_contact)):
            cells = trimmed(fields)
            best = Head(number, cells, (has_contact, len(known), len(cells), 0), above)
            cells_below = 0
        else:
            cells_below += len(fields)
        above += any(map(visible, fields))
    return best and replace(best, score=(*best.score[:3], cells_below))


def _could_be(cell: str, mapped: Mapping[str, str]) -> tuple[str, ...]:
    if mapped and (value := mapped.get(visible(cell).casefold())) is not None:
        return (value,) if value else ()
    meaning = recognise(cell)
    return unclear(cell) if meaning is None else (meaning.column,)


def trimmed(cells: list[str]) -> list[str]:
    """Without the empty cells that trailing delimiters make."""
    while cells and not visible(cells[-1]):
        cells = cells[:-1]
    return cells


#: a comment column that holds one of these says that there is no comment
NO_COMMENT = frozenset({"non", "no", "n", "0", "false", "faux", "-", "--", "/", "néant", "neant", "aucun", "ras"})


@dataclass(slots=True)
class Rows:
    """The raw rows below a header."""

    head: Head
    layout: Layout
    #: all records of the file, from its start
    _records: Callable[[], Iterator[Record]]
    #: cells that hold something, and those of them like a contact, by column that is not read
    _unread: dict[int, list[int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[RawRow]:
        places = _places(self.layout.headers)
        width = len(self.head.cells)
        first = self.head.cells[0] if width else ""
        looking = self._start_looking()
        for number, fields, doubts in self._records():
            if number <= self.head.number:
                continue
            if looking:
                looking = self._look_at_unread(looking, fields)
            if fields and fields[0] == first and fields[:width] == self.head.cells:
                yield RawRow(number, {}, [Doubt.HEADER_AGAIN], fields)
                continue
            cells = _cells(fields, places)
            if len(fields) > width and any(map(visible, fields[width:])):
                doubts = [*doubts, Doubt.MORE_CELLS]
            if cells or doubts or any(map(visible, fields)):
                yield RawRow(number, cells, doubts, fields)

    def _start_looking(self) -> list[int]:
        self._unread = {index: [0, 0] for index, header in enumerate(self.layout.headers) if header.column is None}
        return list(self._unread)

    def _look_at_unread(self, looking: list[int], fields: list[str]) -> list[int]:
        """Counts; returns the columns that still have to be looked at."""
        for index in looking:
            if index < len(fields) and (value := visible(fields[index])) and fields != self.head.cells:
                self._unread[index][0] += 1
                self._unread[index][1] += len(value) < 200 and looks_like_contact(value)
        return [index for index in looking if self._unread[index][0] < _CELLS_LOOKED_AT]

    def unread_contact_columns(self) -> list[str]:
        """Headers of columns that are not read although at least half of their first cells look like contacts."""
        return [
            self.layout.headers[index].name[:60] or f"#{index + 1}"
            for index, (cells, contacts) in self._unread.items()
            if contacts and contacts * 2 >= cells
        ]


def _note(header: Header) -> str | None:
    return guardian(header.name) if header.column in CONTACTS else None


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the cells of each meaning stand, split by what has to be done with them."""

    #: one value each, taken as it is
    plain: list[tuple[Column, int]]
    #: several values of one meaning, comments, contacts of a parent (with the note)
    special: list[tuple[Column, int, str | None]]
    #: a row must have so many cells for `plain`
    width: int


def _places(headers: Sequence[Header]) -> _Places:
    found = [(header.column, index, _note(header)) for index, header in enumerate(headers) if header.column]
    counts = Counter(column for column, _, _ in found)
    special = [one for one in found if counts[one[0]] > 1 or one[0] is Column.COMMENT or one[2]]
    plain = [(column, index) for column, index, note in found if (column, index, note) not in special]
    return _Places(plain, special, max((index + 1 for _, index in plain), default=0))


def _cells(fields: list[str], places: _Places) -> dict[Column, list[str]]:
    if len(fields) < places.width:
        fields = fields + [""] * (places.width - len(fields))
    # `visible`, without a call where a cell is plain
    cells = {
        column: [value]
        for column, index in places.plain
        if (value := fields[index].strip() if fields[index].isascii() else visible(fields[index]))
    }
    width = len(fields)
    for column, index, note in places.special:
        if index < width and (value := visible(fields[index])):
            if column is Column.COMMENT:
                # the text itself goes no further than this line: GDPR article 5(1)(c)
                value = "none" if value.casefold() in NO_COMMENT else "present"
            cells.setdefault(column, []).append(f"{value} ({note})" if note else value)
    return cells


def read_head(
    head: Head | None, records: Callable[[], Iterator[Record]], mapping: Mapping[str, str] | None
) -> Rows:
    """The rows below a header that was found, their columns decided.

    Raises ListError if there is none, if no column can be one of contacts, or if the mapping is wrong.
    """
    if head is None:
        # its first row may hold a patient's values: they may not stand in an error
        is_empty = not any(visible(value) for _, fields, _ in records() for value in fields)
        raise refused(Refusal.EMPTY if is_empty else Refusal.NO_HEADER)
    below = (fields for number, fields, _ in records() if number > head.number)
    decided = layout(head.cells, mapping, list(islice(below, _SAMPLES)))
    decided.require_contacts()
    return Rows(head, decided, records)


def notes_on_head(rows: Rows) -> list[Note]:
    """Lines above the header, and names of the mapping that it lacks."""
    notes = []
    if rows.head.above:
        notes.append(Note(Code.TITLE_LINES, rows.head.above))
    if rows.layout.missing:
        notes.append(Note(Code.MAPPING_WITHOUT_COLUMN, names=rows.layout.missing))
    return notes
