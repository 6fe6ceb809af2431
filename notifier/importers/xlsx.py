"""Reads a patient list in XLSX (ECMA-376 SpreadsheetML): cells as their XML says, row by row.

Results of formulas are taken as the spreadsheet program stored them; nothing is computed.
"""

from __future__ import annotations

import functools
import posixpath
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO

from notifier.importers.archive import Archive, Ends, Starts, damage_refused, parse
from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Asked, Format, Limits, RawList
from notifier.importers.sheets import (
    ERROR,
    NO_RESULT,
    Cell,
    Extent,
    OneSheet,
    SheetRow,
    from_serial,
    read_sheets,
    refuse_width,
)

_MOST_SHEETS = 200
#: bytes of a part that is not a table: workbook, relations
_SMALL_PART = 16 * 1024 * 1024
_LAST_ROW = 1_048_576
_LONGEST_TEXT = 200_000
#: days from the 1900 system's day 0 to the 1904 system's
_DAYS_1904 = 1462
_TABLE = "worksheet"


def read(stream: BinaryIO, asked: Asked) -> RawList:
    """Opens an Excel document. Raises ListError if it is damaged, or no sheet has a header with contacts."""
    archive = Archive(stream, asked.limits)
    book = _Book(archive, asked.limits)
    return read_sheets(stream, book.sheets(), asked, Format.XLSX)


@dataclass(slots=True)
class _Texts:
    """The texts that cells share, by number; held as one piece of memory."""

    data: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("Q", [0]))

    def add(self, text: str, most_bytes: int) -> None:
        self.data += text.encode("utf-8", "replace")
        self.ends.append(len(self.data))
        if len(self.data) + 8 * len(self.ends) > most_bytes:
            raise refused(Refusal.MUCH_SHARED_TEXT, most=most_bytes)

    def get(self, number: int, row: int) -> str:
        """Raises ListError, naming the row, if there is no such text."""
        if not 0 <= number < len(self.ends) - 1:
            raise refused(Refusal.MISSING_TEXT, row=row)
        return self.data[self.ends[number] : self.ends[number + 1]].decode()


class _Book:
    """A workbook's parts: sheets, shared texts, and which styles show dates."""

    def __init__(self, archive: Archive, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        self._workbook = next(
            (name for name in archive.names() if re.fullmatch(r"(?i)xl/workbook\d*\.xml", name)), "xl/workbook.xml"
        )
        self._targets, self._by_kind = self._relations()
        self._epoch_days = 0
        self._named: list[tuple[str, bool, str]] = []
        self._read_workbook()
        self._texts: _Texts | None = None
        self._dates: frozenset[int] | None = None

    def sheets(self) -> list[OneSheet]:
        """Sheets of cells in the workbook's order; charts and macros are none."""
        found = []
        for name, is_hidden, relation in self._named:
            path = self._targets.get(relation)
            if path is None or not self._archive.has(path) or "chartsheet" in path or "dialogsheet" in path:
                continue
            found.append(OneSheet(name, is_hidden, _Reading(self, path).rows, self._epoch_days))
        if not found:
            raise refused(Refusal.NO_SHEET)
        if len(found) > _MOST_SHEETS:
            raise refused(Refusal.MANY_SHEETS, most=_MOST_SHEETS)
        return found

    @property
    def epoch_days(self) -> int:
        return self._epoch_days

    def chunks(self, path: str) -> Iterator[bytes]:
        return self._archive.chunks(path)

    @property
    def limits(self) -> Limits:
        return self._limits

    def _each(
        self, path: str, names: Iterable[str], largest: int | None = None
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """The elements named of a part without text: local name and attributes."""
        seen: list[tuple[str, dict[str, str]]] = []

        def note(name: str) -> Callable[[dict[str, str]], None]:
            return lambda attributes: seen.append((name, attributes))

        chunks = self._archive.chunks(path, largest or _SMALL_PART)
        for _ in parse(chunks, {name: note(name) for name in names}, {}):
            yield from seen
            seen.clear()

    def _relations(self) -> tuple[dict[str, str], dict[str, str]]:
        """Part by relation, and the first part of each kind."""
        folder, base = posixpath.split(self._workbook)
        path = f"{folder}/_rels/{base}.rels"
        targets: dict[str, str] = {}
        kinds: dict[str, str] = {}
        if not self._archive.has(path):
            return targets, kinds
        for _, attributes in self._each(path, ["Relationship"]):
            target = attributes.get("Target", "")
            if attributes.get("TargetMode") != "External":
                full = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"{folder}/{target}")
                targets[attributes.get("Id", "")] = full
                kinds.setdefault(posixpath.basename(attributes.get("Type", "")), full)
        return targets, kinds

    def _read_workbook(self) -> None:
        for name, attributes in self._each(self._workbook, ["workbookPr", "sheet"]):
            if name == "workbookPr":
                self._epoch_days = _DAYS_1904 if attributes.get("date1904", "0") in ("1", "true") else 0
            else:
                relation = next((value for key, value in attributes.items() if key.endswith(":id")), "")
                is_hidden = attributes.get("state", "visible") != "visible"
                self._named.append((attributes.get("name", ""), is_hidden, relation))

    def texts(self) -> _Texts:
        if self._texts is None:
            self._texts = self._read_texts()
        return self._texts

    def _read_texts(self) -> _Texts:
        texts = _Texts()
        path = self._by_kind.get("sharedStrings", "xl/sharedStrings.xml")
        if not self._archive.has(path):
            return texts
        most = self._limits.max_shared_bytes
        gathered = _Gathered(lambda text: texts.add(text, most))
        for _ in parse(self._archive.chunks(path), gathered.starts(), gathered.ends(), gathered.data):
            pass
        return texts

    def dates(self) -> frozenset[int]:
        """Numbers of the cell styles that show a number as a date."""
        if self._dates is None:
            self._dates = self._read_dates()
        return self._dates

    def _read_dates(self) -> frozenset[int]:
        path = self._by_kind.get("styles", "xl/styles.xml")
        if not self._archive.has(path):
            return frozenset()
        formats: dict[str, bool] = {str(number): True for number in _DATE_FORMATS}
        dates: set[int] = set()
        styles, in_cell_styles = 0, False
        names = ("numFmt", "cellXfs", "cellStyleXfs", "dxfs", "xf")
        for name, attributes in self._each(path, names, self._limits.max_shared_bytes):
            if name == "numFmt":
                formats[attributes.get("numFmtId", "")] = shows_date(attributes.get("formatCode", ""))
            elif name in ("cellXfs", "cellStyleXfs", "dxfs"):
                in_cell_styles = name == "cellXfs"
            elif name == "xf" and in_cell_styles:
                if formats.get(attributes.get("numFmtId", ""), False):
                    dates.add(styles)
                styles += 1
        return frozenset(dates)


#: ECMA-376 part 1, §18.8.30: formats 14–22 and 45–47; 27–36 and 50–58 are dates in East Asian versions
_DATE_FORMATS = (*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59))
_NOT_CODE = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]')


def shows_date(code: str) -> bool:
    """Whether a number format shows a date or a time: letters of dates outside quotes, escapes and brackets."""
    bare = _NOT_CODE.sub("", code.split(";")[0]).casefold().replace("general", "")
    return re.search(r"[dmyhs]", bare) is not None


_REFERENCE = re.compile(r"([A-Za-z]{1,3})(\d{1,7})")


def _index(letters: str) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number - 1


class _Gathered:
    """Called back for shared texts: each is what its pieces hold, without the readings of Japanese names."""

    def __init__(self, done: Callable[[str], None]) -> None:
        self._done = done
        self._pieces: list[str] = []
        self._length = 0
        self._is_text = self._in_phonetic = False

    def starts(self) -> Starts:
        return {"si": self._start, "t": self._start_text, "rPh": lambda _: self._phonetic(True)}

    def ends(self) -> Ends:
        return {"si": self._end, "t": self._end_text, "rPh": lambda: self._phonetic(False)}

    def data(self, text: str) -> None:
        if self._is_text:
            self._length += len(text)
            if self._length > _LONGEST_TEXT:
                raise refused(Refusal.LONG_SHARED_TEXT, most=_LONGEST_TEXT)
            self._pieces.append(text)

    def _start(self, _: dict[str, str]) -> None:
        self._pieces.clear()
        self._length = 0

    def _start_text(self, _: dict[str, str]) -> None:
        self._is_text = not self._in_phonetic

    def _end_text(self) -> None:
        self._is_text = False

    def _phonetic(self, is_open: bool) -> None:
        self._in_phonetic = is_open

    def _end(self) -> None:
        self._done("".join(self._pieces))


# --- cells ------------------------------------------------------------------------------------------


class _Values:
    """What cells hold, from their kind, style and text."""

    def __init__(self, book: _Book) -> None:
        #: (number, row that asks for it) → a shared text
        self.texts = book.texts().get
        self._dates, self._epoch_days = book.dates(), book.epoch_days

    def cell(self, kind: str, style: str, text: str, has_formula: bool, row: int) -> Cell:
        """Raises ListError for a shared text that does not exist."""
        if kind not in ("str", "inlineStr"):
            text = text.strip()
        if not text:
            return NO_RESULT if has_formula and kind != "str" else ""
        match kind:
            case "s":
                return self._shared(text, row)
            case "n":
                return self._number(text, style)
            case "b":
                return {"1": "true", "0": "false"}.get(text, text)
            case "e":
                return ERROR
            case "d":
                return text.removesuffix("Z").removesuffix("T00:00:00")
        return text

    def _shared(self, text: str, row: int) -> str:
        return self.texts(int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1, row)

    def _number(self, text: str, style: str) -> Cell:
        try:
            value = float(text)
        except ValueError:
            return ERROR
        if style and style.isdigit() and style.isascii() and len(style) < 8 and int(style) in self._dates:
            day = from_serial(value, self._epoch_days)
            if day is not None:
                return day
        return value


class _Cells:
    """Called back for the XML of a sheet; finished rows gather in `done`."""

    def __init__(self, values: _Values, extent: Extent, most_columns: int) -> None:
        self.done: list[SheetRow] = []
        self._values, self._extent, self._most = values, extent, most_columns
        self._columns: dict[str, int] = {}
        self._row = SheetRow(0, [])
        self._column = -1
        self._kind = self._style = ""
        self._value: list[str] = []
        self._length = 0
        self._wants_text = self._in_phonetic = self._has_formula = False

    def starts(self) -> Starts:
        return {
            "c": self._start_cell,
            "v": self._start_text,
            "t": self._start_text,
            "f": self._start_formula,
            "row": self.start_row,
            "rPh": lambda _: self._phonetic(True),
            "col": self._hidden_columns,
            "mergeCell": self._merged,
        }

    def ends(self) -> Ends:
        return {
            "c": self._end_cell,
            "v": self._end_text,
            "t": self._end_text,
            "row": self.end_row,
            "rPh": lambda: self._phonetic(False),
        }

    def data(self, text: str) -> None:
        if self._wants_text:
            self._length += len(text)
            if self._length > _LONGEST_TEXT:
                raise refused(Refusal.LONG_CELL, row=self._row.number, most=_LONGEST_TEXT)
            self._value.append(text)

    def row_before(self, attributes: str) -> SheetRow:
        """Starts a row by its attributes as they stand in the XML; returns the one before."""
        before = self._row
        self.start_row(_attributes(attributes))
        return before

    def back_to(self, row: SheetRow) -> None:
        self._row = row

    def start_row(self, attributes: dict[str, str]) -> None:
        written = attributes.get("r", "")
        number = int(written) if written.isascii() and written.isdigit() and len(written) < 8 else 0
        if number <= self._row.number:
            number = self._row.number + 1
        if number > _LAST_ROW:
            raise refused(Refusal.MANY_ROWS, row=number, most=_LAST_ROW)
        self._row = SheetRow(number, [], attributes.get("hidden", "0") in ("1", "true"))
        self._column = -1

    def end_row(self) -> None:
        if self._row.cells:
            self.done.append(self._row)

    def plain_cells(self, inner: str) -> bool:
        """Takes the cells of a row from its XML, if that is as nearly all programs write it; else changes nothing.

        Ten times as fast as a parser; what matches here has one meaning only.
        """
        if not _PLAIN_CELLS.fullmatch(inner):
            return False
        cells, shared, values = self._row.cells, self._values.texts, self._values
        for letters, attributes, value, text in _PLAIN_CELL.findall(inner):
            if value:
                kind, style = _kind_and_style(attributes)
                if kind == "s" and value.isdecimal() and len(value) < 10:
                    cell: Cell = shared(int(value), self._row.number)
                else:
                    cell = values.cell(kind, style, value, False, self._row.number)
            elif text:
                kind, style = _kind_and_style(attributes)
                cell = text if kind == "inlineStr" else values.cell(kind, style, text, False, self._row.number)
            else:
                continue
            column = self._columns.get(letters)
            if column is not None and column == len(cells) < self._most and cell != "":
                cells.append(cell)
            else:
                self._column = self._place(letters)
                self._put(cell)
        return True

    def _start_cell(self, attributes: dict[str, str]) -> None:
        self._value.clear()
        self._length = 0
        self._has_formula = False
        self._kind = attributes.get("t", "n")
        self._style = attributes.get("s", "")
        reference = attributes.get("r")
        if reference is None:
            self._column += 1
        elif not _REFERENCE.fullmatch(reference):
            raise refused(Refusal.CELL_NOWHERE, row=self._row.number)
        else:
            self._column = self._place(reference.rstrip("0123456789"))

    def _place(self, letters: str) -> int:
        column = self._columns.get(letters)
        if column is None:
            column = self._columns[letters] = _index(letters)
        return column

    def _start_text(self, _: dict[str, str]) -> None:
        self._wants_text = not self._in_phonetic

    def _end_text(self) -> None:
        self._wants_text = False

    def _start_formula(self, _: dict[str, str]) -> None:
        self._has_formula = True

    def _phonetic(self, is_open: bool) -> None:
        self._in_phonetic = is_open

    def _end_cell(self) -> None:
        if self._value or self._has_formula:
            text = "".join(self._value)
            self._put(self._values.cell(self._kind, self._style, text, self._has_formula, self._row.number))
            self._value.clear()

    def _put(self, value: Cell) -> None:
        if value == "":
            return
        cells, column = self._row.cells, self._column
        refuse_width(self._row.number, column, self._most)
        missing = column - len(cells)
        if missing < 0:
            # cells out of order
            cells[column] = value
            return
        if missing:
            cells.extend([""] * missing)
        cells.append(value)

    def _hidden_columns(self, attributes: dict[str, str]) -> None:
        if attributes.get("hidden", "0") in ("1", "true"):
            first, last = attributes.get("min", ""), attributes.get("max", "")
            if first.isdigit() and last.isdigit() and len(first) < 6 and len(last) < 6:
                self._extent.hidden_columns |= set(range(int(first) - 1, min(int(last), self._most)))

    def _merged(self, attributes: dict[str, str]) -> None:
        last = _REFERENCE.fullmatch(attributes.get("ref", "").rpartition(":")[2])
        self._extent.merged += last is not None and int(last[2]) > self._extent.header


_PLAIN = r'<c r="{}[0-9]{{1,7}}"{}(?:/>|>(?:<v>{}</v>|<is><t(?: xml:space="preserve")?>{}</t></is>)?</c>)'
_ATTRIBUTES = r'(?: [a-z]{1,5}="[A-Za-z0-9]*")*'
_PLAIN_CELLS = re.compile(
    "(?:" + _PLAIN.format("[A-Z]{1,3}", _ATTRIBUTES, r"[^<&\r\n]{0,500}", r"[^<&\r]{0,200000}") + ")*"
)
_PLAIN_CELL = re.compile(
    _PLAIN.format("([A-Z]{1,3})", f"({_ATTRIBUTES})", r"([^<&\r\n]{0,500})", r"([^<&\r]{0,200000})")
)
_PLAIN_ROW = re.compile(r'\s*<row((?: [A-Za-z0-9:]{1,20}="[^"<>&]*")*)>')


def _attributes(written: str) -> dict[str, str]:
    return dict(re.findall(r'([A-Za-z0-9:]+)="([^"]*)"', written))


@functools.lru_cache(maxsize=1024)
def _kind_and_style(attributes: str) -> tuple[str, str]:
    found = _attributes(attributes)
    return found.get("t", "n"), found.get("s", "")


# --- a sheet ----------------------------------------------------------------------------------------

#: where rows begin, in a sheet as nearly all programs write it
_ROWS_BEGIN = re.compile(rb"<sheetData>")
_OTHER_ENCODING = re.compile(rb'encoding=["\'](?!utf-8["\'])', re.IGNORECASE)
#: rows begin within so many bytes, and no row is longer
_HEAD, _LONGEST_ROW = 1024 * 1024, 32 * 1024 * 1024
_ROW_ENDS = b"</row>"


@dataclass(frozen=True, slots=True)
class _Reading:
    """The rows of one sheet."""

    book: _Book
    path: str

    def rows(self, extent: Extent) -> Iterator[SheetRow]:
        """Rows with a cell that holds something. Raises ListError where the sheet is damaged."""
        cells = _Cells(_Values(self.book), extent, self.book.limits.max_columns)
        chunks = self.book.chunks(self.path)
        head = b""
        begin = None
        while begin is None and len(head) < _HEAD and (chunk := next(chunks, b"")):
            head += chunk
            begin = _ROWS_BEGIN.search(head)
        if begin is None or _OTHER_ENCODING.search(head[: begin.start()]) or b"<!" in head[: begin.start()]:
            yield from _parsed(chain([head], chunks), cells)
            return
        yield from _parsed(iter([head[: begin.start()] + b"</worksheet>"]), cells)
        yield from _plain_rows(head[begin.end() :], chunks, cells)


def _parsed(chunks: Iterator[bytes], cells: _Cells) -> Iterator[SheetRow]:
    done = cells.done
    for _ in parse(chunks, cells.starts(), cells.ends(), cells.data):
        if done:
            yield from done
            done.clear()


def _plain_rows(buffer: bytes, chunks: Iterator[bytes], cells: _Cells) -> Iterator[SheetRow]:
    """Rows without a parser where their XML has one meaning only; any other row, and what follows the rows, goes
    through the parser."""
    while True:
        if b"<!" in buffer:
            # a comment or character data: what looks like the end of a row may be none
            break
        end = buffer.rfind(_ROW_ENDS) + len(_ROW_ENDS)
        if end >= len(_ROW_ENDS):
            for row in _decoded(buffer[:end]).split("</row>")[:-1]:
                yield from _one_row(row, cells)
            buffer = buffer[end:]
        if _ENDS.match(buffer):
            break
        if len(buffer) > _LONGEST_ROW:
            raise refused(Refusal.LONG_ROW)
        if not (chunk := next(chunks, b"")):
            break
        buffer += chunk
    yield from _parsed(chain([b"<worksheet><sheetData>" + buffer], chunks), cells)


#: after the last row
_ENDS = re.compile(rb"\s*</sheetData>")


def _decoded(data: bytes) -> str:
    with damage_refused():
        return data.decode()


def _one_row(row: str, cells: _Cells) -> Iterator[SheetRow]:
    start = _PLAIN_ROW.match(row)
    if start is not None:
        before = cells.row_before(start[1])
        if cells.plain_cells(row[start.end() :]):
            cells.end_row()
            if cells.done:
                yield cells.done.pop()
            return
        cells.back_to(before)
    yield from _parsed(iter([f"<worksheet>{row}</row></worksheet>".encode()]), cells)
