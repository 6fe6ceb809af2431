"""The report of a list: per row and column what was read, what was changed, what was refused and why. No database.

It holds what the list holds: it goes to whoever handed the list in and nowhere else, and is never kept or logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from notifier import changes, countries, sentences, writing
from notifier.addresses import Reason, check_email, check_phone, split_emails, split_phones, tidy, visible
from notifier.changes import OF_FORM, Change
from notifier.checking import Checked, Pair, Totals, check_rows, unread_columns
from notifier.importers import Column, Doubt, Header, RawList, RawRow, Refusal, refused
from notifier.importers.rows import REFUSING
from notifier.judging import Judged, Problem, RowReason, Setting, clean_name


class Verdict(StrEnum):
    """What became of one cell that holds something."""

    #: used as it stands
    TAKEN = "taken"
    #: used in another form
    CHANGED = "changed"
    #: used, but a person should look
    DOUBTFUL = "doubtful"
    #: of several contacts some are used
    PARTLY = "partly"
    #: nothing of it is used
    REFUSED = "refused"


class Kind(StrEnum):
    """What a finding says about the value it names."""

    CHANGED = "changed"
    DOUBT = "doubt"
    REFUSED = "refused"


class Finding(NamedTuple):
    """One thing about one value, or about a whole row."""

    kind: Kind
    code: str
    read: str = ""
    became: str = ""
    #: what was probably meant, for a person to accept
    suggestion: str | None = None


@dataclass(slots=True)
class Cell:
    """One cell that holds something."""

    #: the header as the file has it; the meaning where a format has none
    header: str
    column: Column
    #: as the file has it; empty for comments and national identifiers, which are not repeated
    read: str
    became: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        kinds = {finding.kind for finding in self.findings}
        if Kind.REFUSED in kinds:
            return Verdict.PARTLY if self.became else Verdict.REFUSED
        if Kind.DOUBT in kinds:
            return Verdict.DOUBTFUL
        return Verdict.CHANGED if kinds else Verdict.TAKEN

    @property
    def is_worth_saying(self) -> bool:
        """Whether more was done than another writing of the same thing."""
        return any(finding.code not in OF_FORM for finding in self.findings)


@dataclass(slots=True)
class Row:
    """One row of the list, and what was made of it."""

    number: int
    place: str
    excluded: str | None
    cells: list[Cell]
    findings: list[Finding]
    pairs: tuple[Pair, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "row": self.number,
            "place": self.place,
            "excluded": self.excluded,
            "cells": [
                {
                    "header": cell.header,
                    "column": cell.column,
                    "read": cell.read,
                    "became": cell.became,
                    "verdict": cell.verdict,
                    "findings": [finding._asdict() for finding in cell.findings],
                }
                for cell in self.cells
            ],
            "findings": [finding._asdict() for finding in self.findings],
            "pairs": [{"row": pair.other, "reason": str(pair.reason)} for pair in self.pairs],
        }


class Report:
    """Iterate once: rows that have something to say (all of them with `every`), in order; then ask `summary`.

    `rows` = `accepted` + `merged` + `refused`; for each column the cells of all rows that are not refused are
    the sum of their verdicts.
    """

    def __init__(self, reader: RawList, setting: Setting, *, every: bool = False) -> None:
        self._reader = reader
        self._setting = setting
        self._every = every
        self.totals = Totals()
        self._cells: dict[str, Counter[str]] = {}
        self._codes: Counter[str] = Counter()
        self._rows_with: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        for checked in check_rows(self._reader, self._setting, self.totals):
            row = describe(checked, self._reader.headers, self._setting)
            self._count(row)
            if not self._every:
                row.cells = [cell for cell in row.cells if cell.is_worth_saying]
                if not (row.cells or row.findings or row.pairs):
                    continue
            yield row

    def _count(self, row: Row) -> None:
        for cell in row.cells:
            self._cells.setdefault(str(cell.column), Counter())[str(cell.verdict)] += 1
        found = [finding.code for cell in row.cells for finding in cell.findings]
        found += [finding.code for finding in row.findings]
        self._codes.update(found)
        self._rows_with.update(set(found))

    def summary(self) -> dict[str, Any]:
        """What the list comes to; complete once all rows were taken. Raises ListError for a list without rows."""
        if not self.totals.rows:
            raise refused(Refusal.NO_ROW)
        unread = [name for _, name, _ in unread_columns(self._reader)]
        codes = set(self._codes) | ({str(RowReason.COLUMN_NOT_READ)} if unread else set())
        return {
            **asdict(self.totals),
            "cells": {
                column: {"all": counts.total(), **{str(verdict): counts[verdict] for verdict in Verdict}}
                for column, counts in sorted(self._cells.items())
            },
            #: how often, and in how many rows
            "found": {
                code: {"times": times, "rows": self._rows_with[code]} for code, times in self._codes.most_common()
            },
            "columns": {
                key: None if column is None else str(column) for key, column in self._reader.columns.items()
            },
            "contact_columns_not_read": unread,
            "notes": notes_of(self._reader),
            "codes": {
                code: dict(zip(sentences.LANGUAGES, sentences.sentence(code), strict=True))
                for code in sorted(codes)
            },
        }


def notes_of(reader: RawList) -> list[dict[str, Any]]:
    """What is true for a whole file, in words."""
    return [
        {"code": str(note.code), "count": note.count, **dict(zip(sentences.LANGUAGES, note.words(), strict=True))}
        for note in reader.notes
    ]


# --- one row ----------------------------------------------------------------------------------------

#: a value that is not used
_REFUSED = frozenset(
    {
        *Reason, *REFUSING, RowReason.NO_IDENTITY, RowReason.TOTALS_LINE, RowReason.INVALID_DATE,
        RowReason.AMBIGUOUS_YEAR, RowReason.NATIONAL_ID, RowReason.UNKNOWN_LANGUAGE, RowReason.UNCLEAR,
        RowReason.SERVICE_NUMBER, RowReason.SHARED_BY_MANY, RowReason.PRACTICE_CONTACT, Doubt.CELL_ERROR,
        Doubt.NO_RESULT, Doubt.DIGITS_LOST, Doubt.OLD_CONTACT, Doubt.FAX, Doubt.ANOTHERS_CONTACT,
    }
)  # fmt: skip
#: these are not repeated: nobody needs them to find the cell, and they say more than a name
_NOT_REPEATED = frozenset({Column.COMMENT, Column.NATIONAL_ID})


def describe(checked: Checked, headers: tuple[Header, ...], setting: Setting) -> Row:
    """What became of each cell of one row. Cells of a refused row are not looked at: nobody is told by them."""
    raw, judged, place, _, pairs = checked
    problems = list(judged.problems)
    cells: list[Cell] = []
    if place != "refused":
        for header, column, original, value in _cells_of(raw, headers):
            cell = Cell(header, column, "" if column in _NOT_REPEATED else original)
            _describe_cell(cell, value, judged, problems, setting)
            cells.append(cell)
        _mark_again(cells)
    return Row(raw.number, place, judged.excluded, cells, [_found(problem) for problem in problems], pairs)


def _cells_of(raw: RawRow, headers: tuple[Header, ...]) -> Iterator[tuple[str, Column, str, str]]:
    """(header, meaning, as the file has it, as the reader hands it on) of every cell that holds something."""
    if not raw.fields:
        yield from (
            (str(column), column, value, value) for column, values in raw.cells.items() for value in values
        )
        return
    taken: Counter[Column] = Counter()
    for header, written in zip(headers, raw.fields, strict=False):
        column = header.column
        if column is None or not visible(written):
            continue
        values = raw.cells.get(column, [])
        if taken[column] < len(values):
            yield header.key, column, written, values[taken[column]]
            taken[column] += 1


def _found(problem: Problem) -> Finding:
    kind = Kind.REFUSED if problem.reason in _REFUSED else Kind.DOUBT
    return Finding(kind, problem.reason, problem.read, "", problem.suggestion)


def _take(problems: list[Problem], column: Column, *reads: str | None) -> Problem | None:
    """The first problem of this column about one of these readings, taken from the list."""
    for index, problem in enumerate(problems):
        if problem.column == column and (not reads or problem.read in reads):
            return problems.pop(index)
    return None


def _describe_cell(cell: Cell, value: str, judged: Judged, problems: list[Problem], setting: Setting) -> None:
    match cell.column:
        case Column.PHONE:
            _describe_phones(cell, value, judged, problems, setting)
        case Column.EMAIL:
            _describe_emails(cell, value, problems)
        case Column.LAST_NAME | Column.USED_NAME | Column.BIRTH_NAME | Column.FIRST_NAME:
            name = clean_name(value)[0] or ""
            damaged = _take(problems, Column.LAST_NAME, value)
            done = [Change.ACCENTS] if damaged else changes.of_text(value, name)
            _became(cell, value, name, done)
        case Column.COMMENT:
            _became(cell, "", "no" if value == "none" else "yes", [Change.COMMENT])
        case _:
            _describe_value(cell, value, judged, problems)


def _describe_value(cell: Cell, value: str, judged: Judged, problems: list[Problem]) -> None:
    column, identity = cell.column, judged.identity
    problem = (
        _take(problems, column) if column is not Column.PATIENT_ID and column is not Column.AFFECTED else None
    )
    if column is Column.AFFECTED and problems:
        problem = next((one for one in problems if one == Problem(str(column), str(RowReason.UNCLEAR))), None)
        if problem:
            problems.remove(problem)
    if problem is not None:
        cell.findings.append(_found(problem)._replace(read=cell.read))
        return
    match column:
        case Column.BIRTH_DATE:
            iso = identity.birth_date or ""
            _became(cell, value, iso, changes.of_date(value, iso))
        case Column.PATIENT_ID:
            _became(cell, value, identity.patient_id or "", changes.of_text(value, identity.patient_id or ""))
        case Column.POSTAL_CODE:
            _became(cell, value, identity.postal_code or "", changes.of_postal_code(value, identity.postal_code))
        case Column.NATIONAL_ID:
            _became(cell, "", "", [Change.HASHED])
        case Column.LANGUAGE:
            _became(cell, value, judged.language, [Change.LANGUAGE] if value != judged.language else [])
        case Column.TOWN:
            town = identity.town or ""
            _became(
                cell, value, town, [Change.PLACE] if town and town != tidy(value) else changes.of_text(value, town)
            )
        case _:
            _became(cell, value, tidy(value), changes.of_text(value, tidy(value)))


def _became(cell: Cell, read: str, became: str, done: Iterator[Change] | list[Change]) -> None:
    cell.became.append(became)
    cell.findings += [Finding(Kind.CHANGED, str(change), read, became) for change in done]


def _describe_phones(cell: Cell, value: str, judged: Judged, problems: list[Problem], setting: Setting) -> None:
    pieces = split_phones(value)
    if len(pieces) > 1:
        cell.findings.append(Finding(Kind.CHANGED, str(Change.SEVERAL), value))
    abroad = countries.abroad(judged.identity.country)
    for piece in pieces:
        phone = check_phone(piece.text, setting.region, judged.identity.postal_code, abroad)
        problem = _take(problems, Column.PHONE, piece.text, value, phone.e164)
        if problem is not None:
            cell.findings.append(_found(problem)._replace(read=piece.text))
            if problem.reason in _REFUSED:
                continue
        if phone.e164 is None:
            # refused twice for one reading: the first finding says why
            continue
        done = list(changes.of_phone(value, piece.text, _own_note(cell, piece.note), phone.e164))
        if not phone.sms_capable:
            done.append(Change.FOR_CALLS)
        _became(cell, piece.text, phone.e164, done)


def _describe_emails(cell: Cell, value: str, problems: list[Problem]) -> None:
    pieces = split_emails(value)
    if len(pieces) > 1:
        cell.findings.append(Finding(Kind.CHANGED, str(Change.SEVERAL), value))
    for piece in pieces:
        email = check_email(piece.text)
        problem = _take(problems, Column.EMAIL, piece.text, value, email.address)
        if problem is not None:
            cell.findings.append(_found(problem)._replace(read=piece.text))
            if problem.reason in _REFUSED:
                continue
        if not email.ok or email.address is None:
            continue
        done = changes.of_email(value, piece.text, _own_note(cell, piece.note), email.address)
        _became(cell, piece.text, email.address, done)


def _own_note(cell: Cell, note: str) -> str:
    """Without the word that the reader adds for a column of a parent's contacts."""
    return "" if note == "parent" and "parent" not in cell.read.casefold() else note


def _mark_again(cells: list[Cell]) -> None:
    """A contact that the row has had already counts once."""
    seen: set[str] = set()
    for cell in cells:
        if cell.column in (Column.EMAIL, Column.PHONE):
            for contact in cell.became:
                if (key := contact.casefold()) in seen:
                    cell.findings.append(Finding(Kind.CHANGED, str(Change.AGAIN), "", contact))
                seen.add(key)


# --- written ----------------------------------------------------------------------------------------


def as_json(report: Report) -> Iterator[bytes]:
    """`{"rows": […], "summary": {…}}`, piece by piece: a report may be larger than memory."""
    yield b'{"rows":['
    separator = b"\n"
    for row in report:
        yield separator + orjson.dumps(row.as_dict(), default=str)
        separator = b",\n"
    yield b'],\n"summary":' + orjson.dumps(report.summary()) + b"}\n"


_TITLES = {
    "fr": (
        "ligne", "sort de la ligne", "colonne", "lue comme", "résultat", "code", "valeur lue", "valeur retenue",
        "proposition", "explication",
    ),
    "en": (
        "row", "place", "column", "read as", "verdict", "code", "value read", "value kept", "proposal",
        "explanation",
    ),
}  # fmt: skip
_PLACES = {"accepted": "prise", "merged": "fusionnée", "refused": "refusée"}
_VERDICTS = {
    Verdict.TAKEN: "pris tel quel",
    Verdict.CHANGED: "modifié",
    Verdict.DOUBTFUL: "à vérifier",
    Verdict.PARTLY: "pris en partie",
    Verdict.REFUSED: "refusé",
}
_TOTAL = ("rows", "accepted", "merged", "refused", "excluded", "minors")


def as_csv(report: Report, language: str) -> Iterator[bytes]:
    """A line for every finding (with `every`, for every cell), then one for each sum, in French or English."""
    is_french = language == "fr"
    yield writing.START + writing.line(_TITLES["fr" if is_french else "en"])
    for row in report:
        place = _PLACES[row.place] if is_french else row.place
        head = [str(row.number), place]
        records = [
            [
                *head,
                cell.header,
                str(cell.column),
                _VERDICTS[cell.verdict] if is_french else str(cell.verdict),
                *what,
            ]
            for cell in row.cells
            for what in ([_written(one, language) for one in cell.findings] or [["", cell.read, *cell.became[:1]]])
        ]
        records += [[*head, "", "", "", *_written(finding, language)] for finding in row.findings]
        records += [
            [*head, "", "", "", str(pair.reason), "", "", "", _pair_in_words(pair, language)] for pair in row.pairs
        ]
        yield writing.lines(records)
    summary = report.summary()
    yield writing.lines(["", "total", "", "", "", name, "", str(summary[name])] for name in _TOTAL)


def _written(finding: Finding, language: str) -> list[str]:
    words = sentences.in_language(finding.code, language)
    return [finding.code, finding.read, finding.became, finding.suggestion or "", words]


def _pair_in_words(pair: Pair, language: str) -> str:
    return f"Avec la ligne {pair.other}." if language == "fr" else f"With row {pair.other}."
