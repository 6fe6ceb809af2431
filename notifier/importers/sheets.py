"""What XLSX and ODS have in common: rows of typed cells become text, and of several sheets one is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import BinaryIO

from notifier.importers.columns import Column, Header, Question
from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Asked, Code, Doubt, Format, Note, RawList, Sheet
from notifier.importers.tables import TITLE_LINES, Head, Record, find_head, notes_on_head, read_head


class Problem:
    """A cell that holds something which cannot be read."""

    __slots__ = ("doubt",)

    def __init__(self, doubt: Doubt) -> None:
        self.doubt = doubt


ERROR, NO_RESULT = Problem(Doubt.CELL_ERROR), Problem(Doubt.NO_RESULT)
#: text as it stands, a number, or a problem
Cell = str | float | Problem


@dataclass(slots=True)
class SheetRow:
    """One row of a sheet that has a cell; empty cells are empty texts."""

    number: int
    cells: list[Cell]
    is_hidden: bool = False


@dataclass(slots=True)
class Extent:
    """What a format saw in a sheet besides cells, once it was read to its end."""

    #: row number of the header, set before reading
    header: int = 0
    hidden_rows: int = 0
    #: from 0
    hidden_columns: set[int] = field(default_factory=set)
    #: cells below the header
    merged: int = 0


@dataclass(slots=True)
class OneSheet:
    """A sheet of a file: its name, and its rows from the start each time they are asked for."""

    name: str
    is_hidden: bool
    rows: Callable[[Extent], Iterator[SheetRow]]
    #: days between the two systems of dates, 1900 and 1904
    epoch_days: int = 0
    #: its first rows, where they are known already
    first: Sequence[SheetRow] | None = None


# --- values -----------------------------------------------------------------------------------------

#: Excel and LibreOffice keep fifteen digits
_DIGITS_KEPT = 15
#: a number of so many digits that ends in so many zeros was written as 3.36E+10 once: the zeros are lost digits
_NUMBER_DIGITS, _LOST_ZEROS = 9, 5
_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001 - a calendar date has no time zone
#: below lie years written as numbers (1975), above dates after 2100
_FIRST_SERIAL, _LAST_SERIAL = 3000, 73415
_DATES = frozenset({Column.BIRTH_DATE, Column.DECEASED})


def from_serial(serial: float, epoch_days: int = 0) -> str | None:
    """The ISO date, with a time if it has one, of a day number in the 1900 system; None if it is no date.

    Day 60 is 29 February 1900 there, which never was: earlier days count from one day later.
    """
    serial += epoch_days
    if not 1 <= serial < 2_958_466 or 60 <= serial < 61:
        return None
    moment = _EPOCH + timedelta(days=serial + (serial < 60))
    moment = (moment + timedelta(milliseconds=500)).replace(microsecond=0)
    return moment.date().isoformat() if not (moment.hour or moment.minute or moment.second) else moment.isoformat()


def number_text(value: float, column: Column | None, epoch_days: int = 0) -> tuple[str, Doubt | None]:
    """A number of a spreadsheet as the text that was meant: `612345678.0` is `612345678`.

    A telephone number whose digits are lost comes as `3.36E+10`, which nobody takes for a number again.
    """
    if 0 <= value < 10 ** (_NUMBER_DIGITS - 1) and value == int(value) and column not in _DATES:
        return str(int(value)), None
    if column in _DATES and _FIRST_SERIAL <= value <= _LAST_SERIAL:
        day = from_serial(value, epoch_days)
        if day is not None:
            return day, None
    if value != value or value in (float("inf"), float("-inf")):
        return "", Doubt.CELL_ERROR
    if value == int(value) and abs(value) < 10**_DIGITS_KEPT:
        digits = str(int(value))
        if column is Column.PHONE and len(digits) >= _NUMBER_DIGITS and digits.endswith("0" * _LOST_ZEROS):
            return _scientific(value), None
        return digits, None
    if abs(value) >= 10**_DIGITS_KEPT:
        return _scientific(value), None if column is Column.PHONE else Doubt.DIGITS_LOST
    return repr(value), None


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.14E}".split("E")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa}0E{exponent}" if mantissa.endswith(".") else f"{mantissa}E{exponent}"


def _as_text(row: SheetRow, columns: Mapping[int, Column], epoch_days: int) -> Record:
    doubts: list[Doubt] = [Doubt.HIDDEN_ROW] if row.is_hidden else []
    texts: list[str] = []
    for index, cell in enumerate(row.cells):
        if isinstance(cell, str):
            texts.append(cell)
            continue
        column = columns.get(index)
        if isinstance(cell, Problem):
            text, doubt = "", cell.doubt if column is not None and column is not Column.COMMENT else None
        else:
            text, doubt = number_text(cell, column, epoch_days)
            doubt = doubt if column is not None else None
        texts.append(text)
        if doubt is not None and doubt not in doubts:
            doubts.append(doubt)
    return row.number, texts, doubts


# --- which sheet ------------------------------------------------------------------------------------


def read_sheets(stream: BinaryIO, sheets: Sequence[OneSheet], asked: Asked, format_: Format) -> RawList:
    """Opens the one sheet that holds patients, or the one asked for.

    Raises ListError if none has a header with a contact column, or if the one asked for does not exist.
    """
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]  # any binary file
    looked = [(sheet, _look(sheet, asked)) for sheet in sheets]
    described = tuple(Sheet(sheet.name, sheet.is_hidden, found.has_patients) for sheet, found in looked)
    chosen = _choose(looked, asked.sheet)
    if isinstance(chosen, Question):
        return RawList(format_, digest, (), 0, lambda: iter(()), sheets=described, questions=(chosen,))
    return _open(format_, digest, chosen, described, asked)


@dataclass(frozen=True, slots=True)
class _Look:
    head: Head | None
    has_patients: bool


def _look(sheet: OneSheet, asked: Asked) -> _Look:
    """The header among the first rows, and whether anything stands below it."""
    rows = sheet.rows(Extent()) if sheet.first is None else sheet.first
    first = [_as_text(row, {}, 0) for row in islice(rows, TITLE_LINES + 1)]
    head = find_head(first, asked.mapping)
    below = head is not None and any(number > head.number for number, _, _ in first)
    return _Look(head, bool(head and head.has_contact and below))


def _choose(looked: Sequence[tuple[OneSheet, _Look]], wanted: str | None) -> tuple[OneSheet, _Look] | Question:
    if wanted is not None:
        for sheet, found in looked:
            if sheet.name == wanted:
                return sheet, found
        raise refused(Refusal.UNKNOWN_SHEET, wanted=wanted, names=[sheet.name for sheet, _ in looked])
    with_patients = [one for one in looked if one[1].has_patients]
    visible_ones = [one for one in with_patients if not one[0].is_hidden]
    if len(visible_ones) == 1:
        return visible_ones[0]
    if not with_patients:
        # the error is about the sheet that comes nearest
        return max(looked, key=lambda one: one[1].head.score if one[1].head else (False, 0, 0, 0))
    return _ask(visible_ones or with_patients, are_hidden=not visible_ones)


def _ask(sheets: Sequence[tuple[OneSheet, _Look]], are_hidden: bool) -> Question:
    names = tuple(sheet.name for sheet, _ in sheets)
    listed = ", ".join(repr(name[:60]) for name in names[:20])
    french, english = ("masquées ", "hidden ") if are_hidden else ("", "")
    return Question(
        "sheet",
        names,
        f"Des patients se trouvent sur ces feuilles {french}: {listed}. Laquelle lire ?",
        f"Patients stand on these {english}sheets: {listed}. Which one is to be read?",
    )


def _open(
    format_: Format, digest: bytes, chosen: tuple[OneSheet, _Look], described: tuple[Sheet, ...], asked: Asked
) -> RawList:
    sheet, found = chosen
    extent = Extent(header=found.head.number if found.head else 0)
    columns: dict[int, Column] = {}

    def records() -> Iterator[Record]:
        extent.hidden_rows, extent.merged = 0, 0
        for row in sheet.rows(extent):
            if row.is_hidden and row.number > extent.header:
                extent.hidden_rows += 1
            yield _as_text(row, columns, sheet.epoch_days)

    rows = read_head(found.head, records, asked.mapping)
    columns |= rows.layout.by_index
    return RawList(
        format=format_,
        sha256=digest,
        headers=rows.layout.headers,
        header_number=rows.head.number,
        _rows=rows.__iter__,
        sheets=described,
        sheet=sheet.name,
        questions=rows.layout.questions,
        _notes=(*notes_on_head(rows), *_notes_on_others(described, sheet.name)),
        _late_notes=lambda: _notes_on_extent(extent, rows.layout.headers),
        _unread=rows.unread_contact_columns,
    )


def refuse_width(row: int, column: int, most: int) -> None:
    """Raises ListError for a cell (column counted from 0) further right than any list goes."""
    if column >= most:
        raise refused(Refusal.FAR_COLUMN, row=row, column=column + 1, most=most)


def _notes_on_others(sheets: Sequence[Sheet], chosen: str) -> Iterator[Note]:
    patients = tuple(sheet.name for sheet in sheets if sheet.has_patients and sheet.name != chosen)
    others = tuple(sheet.name for sheet in sheets if not sheet.has_patients and sheet.name != chosen)
    if patients:
        yield Note(Code.SHEET_WITH_PATIENTS, len(patients), patients)
    if others:
        yield Note(Code.OTHER_SHEET, len(others), others)


def _notes_on_extent(extent: Extent, headers: Sequence[Header]) -> list[Note]:
    notes = []
    hidden = [
        header.key for index, header in enumerate(headers) if index in extent.hidden_columns and header.column
    ]
    if extent.hidden_rows:
        notes.append(Note(Code.HIDDEN_ROWS, extent.hidden_rows))
    if hidden:
        notes.append(Note(Code.HIDDEN_COLUMNS, len(hidden), tuple(hidden)))
    if extent.merged:
        notes.append(Note(Code.MERGED_CELLS, extent.merged))
    return notes
