"""The rows of a list that need a person, as a list of their own: filled in, it is handed in like any other.

With a row go all others of the same patient: a list replaces what an earlier one said of somebody, so a row alone
would take away the contacts that the others have.

It has the doctor's own columns in their order and one more that says what is wrong. Comments go into no file:
their cells say only that there is one. Columns that are not read stay, empty unless a contact stands in them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from notifier import sentences, writing
from notifier.addresses import Reason, tidy, unaccented, visible
from notifier.checking import Checked, Totals, check_rows, rows_of
from notifier.errors import InputError
from notifier.importers import Column, Doubt, RawList, RawRow, Refusal, as_error
from notifier.importers.columns import looks_like_contact
from notifier.importers.tables import NO_COMMENT
from notifier.judging import Judged, Problem, RowReason, Setting, judge

#: the name of our own column, by language
WRONG = {"fr": "À corriger", "en": "To be corrected"}
_PRESENT = {"fr": "présent", "en": "present"}
_SAME_PERSON = {
    "fr": "Rien à corriger : même patient que la ligne {row}. Ne supprimez pas cette ligne.",
    "en": "Nothing to correct: the same patient as in row {row}. Do not delete this row.",
}
#: columns of a list that has none of its own (FHIR); names that the reader knows again
_NAMES: dict[Column, str] = {
    Column.PATIENT_ID: "id patient",
    Column.LAST_NAME: "nom",
    Column.BIRTH_NAME: "nom de naissance",
    Column.USED_NAME: "nom d'usage",
    Column.FIRST_NAME: "prénom",
    Column.BIRTH_DATE: "date de naissance",
    Column.NATIONAL_ID: "matricule INS",
    Column.EMAIL: "email",
    Column.PHONE: "téléphone",
    Column.ADDRESS: "adresse",
    Column.POSTAL_CODE: "code postal",
    Column.TOWN: "ville",
    Column.COUNTRY: "pays",
    Column.LANGUAGE: "langue",
    Column.DECEASED: "décédé",
    Column.COMMENT: "commentaire",
    Column.COMMENT_SENSITIVE: "commentaire sensible",
    Column.AFFECTED: "concerné",
}
_JOINED = {Column.EMAIL: "; ", Column.PHONE: "; ", Column.ADDRESS: "\n"}
_WHO = (
    Column.PATIENT_ID, Column.LAST_NAME, Column.BIRTH_NAME, Column.USED_NAME, Column.FIRST_NAME, Column.BIRTH_DATE,
    Column.NATIONAL_ID,
)  # fmt: skip

#: nothing to correct where another contact of the person works
_SAY_NONE = frozenset({Reason.FILLER, Reason.EMPTY})
_OF_CONTACTS = frozenset(
    {*Reason, RowReason.SERVICE_NUMBER, RowReason.SHARED_BY_MANY, RowReason.PRACTICE_CONTACT}
) - {Reason.EMPTY}
_OF_ROWS = frozenset(
    {
        RowReason.NO_IDENTITY, RowReason.INVALID_DATE, RowReason.AMBIGUOUS_YEAR, RowReason.UNKNOWN_LANGUAGE,
        RowReason.UNCLEAR, RowReason.YES_AND_NO, Doubt.UNBALANCED_QUOTE, Doubt.MORE_CELLS, Doubt.CELL_ERROR,
        Doubt.NO_RESULT, Doubt.DIGITS_LOST,
    }
)  # fmt: skip


def is_ours(header: str) -> bool:
    """Whether a column is the one that says what is wrong."""
    return _plain(header) in {_plain(name) for name in WRONG.values()}


def _plain(name: str) -> str:
    return re.sub(r"\W", "", unaccented(name).casefold())


def needed(judged: Judged) -> list[Problem]:
    """What of a row's problems a person can mend, in their order; not who is who (`checking.Pair`)."""
    is_reached = bool(judged.emails or judged.numbers)
    return [problem for problem in judged.problems if _is_needed(problem, judged, is_reached)]


def _is_needed(problem: Problem, judged: Judged, is_reached: bool) -> bool:
    if problem.reason in _OF_CONTACTS:
        # nobody is told who is excluded
        return judged.excluded is None and not (is_reached and problem.reason in _SAY_NONE)
    return problem.reason in _OF_ROWS


class Corrections:
    """Iterate once for the pieces of the file; then ask `rows`. The list is read four times."""

    def __init__(self, reader: RawList, setting: Setting, language: str) -> None:
        self._reader = reader
        self._setting = setting
        self._language = "fr" if language == "fr" else "en"
        self._table = _Table.of(reader, self._language)
        #: rows written
        self.rows = 0

    def __iter__(self) -> Iterator[bytes]:
        self.rows = 0
        together = _Together.of(self._reader, self._setting)
        yield writing.START + writing.lines([[*self._table.names, WRONG[self._language]]])
        for checked in check_rows(self._reader, self._setting, Totals()):
            raw = checked.raw
            problems, doubles = needed(checked.judged), together.pairs.get(raw.number, [])
            if problems or doubles or raw.number in together.beside:
                self.rows += 1
                words = self._words(problems, doubles, together.beside.get(raw.number, raw.number))
                yield writing.lines([[*self._table.cells(raw), words]])

    def _words(self, problems: Sequence[Problem], doubles: Sequence[tuple[int, RowReason]], wrong: int) -> str:
        if not problems and not doubles:
            return _SAME_PERSON[self._language].format(row=wrong)
        said = [_in_words(problem, self._language) for problem in problems]
        row = "ligne" if self._language == "fr" else "row"
        said += [
            f"({row} {other}) {sentences.in_language(str(reason), self._language)}" for other, reason in doubles
        ]
        return " / ".join(said)


def _in_words(problem: Problem, language: str) -> str:
    read = f"« {visible(problem.read)} » : " if problem.read else ""
    said = read + sentences.in_language(problem.reason, language)
    if problem.suggestion:
        said += f" → {problem.suggestion}"
    return said


class _Together(NamedTuple):
    """What rows have to do with one another."""

    #: rows that may be one person's, each with the other
    pairs: dict[int, list[tuple[int, RowReason]]]
    #: rows of a person whose other row needs somebody: with that row, the first of them
    beside: dict[int, int]

    @classmethod
    def of(cls, reader: RawList, setting: Setting) -> _Together:
        pairs: dict[int, list[tuple[int, RowReason]]] = {}
        wrong: dict[int, int] = {}
        rows = _Rows()
        for checked in check_rows(reader, setting, Totals()):
            rows.add(checked)
            if needed(checked.judged):
                wrong.setdefault(checked.first, checked.judged.row)
            for pair in checked.pairs:
                pairs.setdefault(pair.row, []).append((pair.other, pair.reason))
                pairs.setdefault(pair.other, []).append((pair.row, pair.reason))
        for row in pairs:
            wrong.setdefault(rows.first(row), row)
        return cls(pairs, {row: wrong[first] for row, first in rows if first in wrong})


class _Rows:
    """Which rows are one person's, of those who have several. Memory grows with further rows alone.

    A further row that says nothing but who it is, is none: no list takes that away.
    """

    def __init__(self) -> None:
        #: each row to the first of its person
        self._first: dict[int, int] = {}

    def add(self, checked: Checked) -> None:
        if checked.place == "merged" and not checked.raw.cells.keys() <= set(_WHO):
            self._first[checked.judged.row] = self._first[checked.first] = checked.first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._first.items())

    def first(self, row: int) -> int:
        return self._first.get(row, row)


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns of a list as they are written again."""

    names: list[str]
    #: place in the row (None: of a format without headers) and meaning
    columns: list[tuple[int | None, Column | None]]
    language: str

    @classmethod
    def of(cls, reader: RawList, language: str, only: Collection[Column] | None = None) -> _Table:
        if not reader.headers:
            columns: list[tuple[int | None, Column | None]] = [
                (None, column)
                for column in _NAMES
                if column in reader.meanings and (only is None or column in only)
            ]
            return cls([_NAMES[column] for _, column in columns if column], columns, language)
        kept = [
            (index, header)
            for index, header in enumerate(reader.headers)
            if not is_ours(header.name) and (only is None or header.column in only)
        ]
        return cls(
            [header.name for _, header in kept], [(index, header.column) for index, header in kept], language
        )

    def cells(self, raw: RawRow) -> list[str]:
        return [self._cell(raw, index, column) for index, column in self.columns]

    def _cell(self, raw: RawRow, index: int | None, column: Column | None) -> str:
        if index is None:
            assert column is not None
            values = raw.cells.get(column, [])
            text = _JOINED[column].join(values) if column in _JOINED else next(iter(values), "")
        else:
            text = visible(raw.fields[index]) if index < len(raw.fields) else ""
        if column is Column.COMMENT:
            return text if not text or text.casefold() in {*NO_COMMENT, "none"} else _PRESENT[self.language]
        return text if column is not None or (text and looks_like_contact(text)) else ""


# --- suggestions ------------------------------------------------------------------------------------


class Suggestion(NamedTuple):
    """What a refused address was probably meant to be."""

    row: int
    column: str
    reason: str
    read: str
    suggestion: str

    @property
    def is_typing_error(self) -> bool:
        """Whether it mends an address, and does not only say that a shared mailbox is the person's own."""
        return self.reason != Reason.ROLE


def suggestions(reader: RawList, setting: Setting) -> Iterator[Suggestion]:
    """Every suggestion of a list, in order; of excluded people too, for nobody has to accept it."""
    for judged in rows_of(reader, setting):
        yield from _suggested(judged)


def _suggested(judged: Judged) -> list[Suggestion]:
    return [
        Suggestion(judged.row, problem.column, problem.reason, problem.read, problem.suggestion)
        for problem in judged.problems
        if problem.suggestion
    ]


class Accepted(NamedTuple):
    """A list of the rows whose suggestions were accepted, to be imported like any other."""

    content: bytes
    suggestions: list[Suggestion]


def accept(reader: RawList, setting: Setting, rows: Collection[int] | None) -> Accepted:
    """The rows with these numbers (None: all with a typing error), their suggestions put in the place of what was
    read, and what else these people have rows of. Only the columns that say who it is and the email addresses are
    in it, so nothing else is changed.

    Raises InputError for a row without a suggestion, or one whose person could not be known again: without id or
    birth date, another address makes another person.
    """
    who = {*_WHO, Column.EMAIL}
    table = _Table.of(reader, "fr", who)
    wanted = None if rows is None else set(rows)
    mended: dict[int, list[str]] = {}
    accepted: list[Suggestion] = []
    for raw in reader:
        if wanted is not None and raw.number not in wanted:
            continue
        judged = judge(raw, setting)
        taken = [one for one in _suggested(judged) if wanted is not None or one.is_typing_error]
        if not taken or not _is_known_again(judged):
            if wanted is None:
                continue
            raise as_error(InputError, Refusal.NOT_KNOWN_AGAIN if taken else Refusal.NO_SUGGESTION, row=raw.number)
        cells = _with(table, raw, taken)
        if cells is None or not _does_only_that(cells, table, judged, taken, setting):
            raise as_error(InputError, Refusal.NOT_IN_PLACE, row=raw.number)
        mended[raw.number] = cells
        accepted += taken
        (wanted or set()).discard(raw.number)
    if wanted:
        raise as_error(InputError, Refusal.NO_SUCH_ROW, row=min(wanted))
    if not mended:
        raise as_error(InputError, Refusal.NOTHING_SUGGESTED)
    beside = _beside(reader, setting, mended)
    records = [
        mended.get(raw.number) or table.cells(raw)
        for raw in reader
        if raw.number in mended or raw.number in beside
    ]
    return Accepted(writing.START + writing.lines([table.names, *records]), accepted)


def _beside(reader: RawList, setting: Setting, mended: Collection[int]) -> set[int]:
    """The further rows of the people whose rows are mended."""
    rows = _Rows()
    for checked in check_rows(reader, setting, Totals()):
        rows.add(checked)
    people = {rows.first(row) for row in mended}
    return {row for row, first in rows if first in people}


def _is_known_again(judged: Judged) -> bool:
    return any((judged.keys.id, judged.keys.national, judged.keys.name))


def _with(table: _Table, raw: RawRow, taken: Sequence[Suggestion]) -> list[str] | None:
    """The cells with each suggestion in its place, or None where one is not found."""
    cells = table.cells(raw)
    for one in taken:
        for place, (_, column) in enumerate(table.columns):
            if column is Column.EMAIL and (mended := _mended(cells[place], one)) is not None:
                cells[place] = mended
                break
        else:
            return None
    return cells


def _mended(cell: str, one: Suggestion) -> str | None:
    alone = re.compile(rf"(?<![^\s;,/|<(\"'«:]){re.escape(one.read)}(?![^\s;,/|>)\"'».])")
    for text in (cell, tidy(cell)):
        if alone.search(text):
            return alone.sub(lambda _: one.suggestion, text, count=1)
    return None


def _does_only_that(
    cells: list[str], table: _Table, judged: Judged, taken: Sequence[Suggestion], setting: Setting
) -> bool:
    """Whether the mended row says the same as before, and the suggested addresses."""
    again: dict[Column, list[str]] = {}
    for cell, (_, column) in zip(cells, table.columns, strict=True):
        if column is not None and cell:
            again.setdefault(column, []).append(cell)
    mended = judge(RawRow(judged.row, again), setting)
    meant = {one.suggestion.partition(" ")[0].casefold() for one in taken}
    before = {email.casefold() for email in judged.emails}
    return {email.casefold() for email in mended.emails} == before | meant
